"""Exact ranks, best answers, scores and neighbours, with a trained model.

`shard` is what one shard computes, window by window of its table; `layout` turns queries in global ids into what each
shard is given, `known` tells the answers to leave out; `ranker` feeds queries to the devices, and `ranks` has the
metrics. `topk` and `all_scores` do the same as BESS-KGE does it; `similarity` finds what is near.
"""
