"""Graphs on the host, in NumPy alone: triples, shards, batches.

`dataset` is a graph in ids. It comes from files (`formats`), by name (`graphs`), or from the one file that `archive`
keeps it in; `files` opens what is read and replaces what is written, `text` gives its lines. `split` draws train, valid
and test; `card` shows a graph in numbers, with what is doubtful about it (`findings`). `sharding` cuts entities into
shards and sorts triples by shard pair; `negative_sampler` and `batch_sampler` draw balanced batches, as functions of
(seed, epoch, step); `loader` merges repeated ids and makes batches ahead of time.
"""
