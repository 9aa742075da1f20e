"""The commands of `python -m bess_jax`, and what they print.

`main` reads the command line and returns the exit code; `train` trains; `ask` has evaluate, predict, similar and score;
`show` is what they print; `compilation` keeps compiled programs on disk.
"""
