"""A training run: its settings, what is built from them, its folder and its loop.

`config` is the settings; `build` makes a score function of them; `folder` holds settings, metrics and checkpoints;
`experiment` puts graph, model, optimizer and devices together and trains.
"""
