"""A training run: its settings, what is built from them, its folder and its loop.

`config` is the settings, `recipes` those that ship; `models` finds a score function by name; `build` makes sampler,
model and update rule; `experiment` puts graph, model and devices together and trains. `folder` holds settings, graph,
metrics (`log`) and states (`checkpoint`, of what `about` says), `state` brings them to any number of shards, `start`
takes first ones from elsewhere. `loop` trains, validates by a `metric`, logs and saves by `saver`; around it are
`callbacks`: `trackers`, `signals`; `fit` is all of it as a function. `hosts` starts the processes (`team`) that do it
together, `watch` ends them if one is lost.
"""
