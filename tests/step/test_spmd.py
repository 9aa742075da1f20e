"""Shards on devices, and what they exchange."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import bess_jax as bj
from bess_jax.step.spmd import exchange


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
@pytest.mark.parametrize("n_device", [1, 2, 4, 8])
def test_exchange(mapping: Any, n_device: int) -> None:
    """A transpose of the first two axes, however the shards are laid out."""
    placement = bj.Placement.create(8, n_device, mapping)
    x = np.arange(8 * 8 * 3, dtype=np.int32).reshape(8, 8, 3)
    y = placement.map(lambda block: exchange(block, placement.axis_name))(placement.put(x))
    np.testing.assert_array_equal(placement.get(y), np.swapaxes(x, 0, 1))


@pytest.mark.parametrize("n_device", [1, 2, 4, 8])
def test_layouts_on_devices(n_device: int) -> None:
    """What goes in comes out; a pmap of one's own and a placement with one shard on each device take turns."""
    placement = bj.Placement.create(8, n_device)
    x = np.arange(8 * 6, dtype=np.float32).reshape(8, 2, 3)
    np.testing.assert_array_equal(placement.get(placement.put(x)), x)
    ours = placement.map(lambda row: row + 1)(placement.put(x))
    np.testing.assert_array_equal(placement.get(ours), x + 1)
    if n_device == 8:
        theirs = jax.pmap(lambda row: 2 * row)(ours)
        np.testing.assert_array_equal(placement.get(placement.map(lambda row: row + 1)(theirs)), 2 * (x + 1) + 1)
