"""Graphs on the host, in NumPy alone: triples, shards, batches.

`dataset` reads a graph into ids and `graphs` holds those that ship; `sharding` cuts entities into shards and sorts
triples by shard pair; `negative_sampler` and `batch_sampler` draw balanced batches, as functions of (seed, epoch,
step); `loader` merges repeated ids and makes batches ahead of time.
"""
