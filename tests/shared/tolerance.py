"""How near is equal; nothing wider without a comment where it is used."""

EXACT = {"rtol": 0, "atol": 0}
"""Ids, masks, permutations."""

FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}
"""One rounding or a few."""

ACCUMULATED = {"rtol": 1e-4, "atol": 1e-5}
"""Sums in another order."""
