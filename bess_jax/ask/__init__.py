"""Exact ranks, best answers, scores and neighbours, with a trained model.

`ranker` feeds queries to the devices, chunk by chunk. `tasks` says, for each kind of question, what a shard computes
(`shard`, window by window of its table), what it is given (`layout`) and what its results mean. `known` tells the
answers to leave out, `ranks` has the metrics, `similarity` finds what is near, and `markup` is what notebooks show.
`topk` and `all_scores` answer as BESS-KGE does, for its users and to compare.
"""
