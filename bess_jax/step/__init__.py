"""One distributed step, pure: what a shard computes of its parameters and its batch.

`spmd` lays shards out on devices, and alone knows that there are devices; `collectives` exchanges rows between them;
`tables` lays rows out on shards; `bess` has the parameters, gathers rows and exchanges them, `embedding_moving` and
`score_moving` score them where the triple or where the negative is; `loss` and `metric` make numbers of scores.
"""
