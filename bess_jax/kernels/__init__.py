"""Sums over components for all pairs of queries and keys: one contract, and a body for each kind of machine.

`pairs` is the contract, `bodies` the choice by platform; a model is a formula of one component, `terms`, and does not
know which body runs it.
"""

from bess_jax.kernels.bodies import use_kernels as use_kernels
from bess_jax.kernels.pairs import sum_pairs as sum_pairs
from bess_jax.kernels.rows import square_of_difference as square_of_difference
