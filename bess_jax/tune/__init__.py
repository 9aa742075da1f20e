"""The search for settings: `python -m bess_jax tune`.

`space` reads what is searched, `study` is the folder that processes share, and knows who trains which trial, `search`
trains them one after the other. `results` are the best settings and a table of trials, `page` shows them (Plotly, by
Optuna).
"""
