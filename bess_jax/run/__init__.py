"""A training run: its settings, what is built from them, its folder and its loop.

`config` is the settings; `models` finds a score function by name; `build` makes sampler, model and update rule;
`folder` holds settings, metrics and checkpoints; `experiment` puts graph, model and devices together and trains.
"""
