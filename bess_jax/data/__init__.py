"""Graphs on the host, in NumPy alone: triples, shards, batches.

`dataset` is a graph in ids, `text` reads one from lines of names, `archive` keeps it in one file, and `graphs` holds
those that ship; `files` opens what is read, and replaces what is written. `split` draws train, valid and test;
`findings` tells what is doubtful about a graph, `relations` what it says of its relations, and `card` all that in
numbers; `folder_writer` makes it text again. `sharding` cuts entities into shards and
sorts triples by shard pair; `negative_sampler` and `batch_sampler` draw balanced batches, as functions of (seed,
epoch, step); `loader` merges repeated ids and makes batches ahead of time.
"""
