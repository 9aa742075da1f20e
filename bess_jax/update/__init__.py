"""From gradients to new parameters: optax on whole tables or on the rows that a batch touched.

`optim` has both update rules, `precision` half-precision tables, `accumulation` several micro-batches in one update;
`train` runs T steps in one compiled call.
"""
