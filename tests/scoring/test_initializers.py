"""Initializers draw by the laws they state."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.tolerance import EXACT

import bess_jax as bj
from bess_jax.scoring import initializers as init

SIZE = (4000, 25)


def equal(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, **EXACT)


def whole(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Rows that know each other."""
    return jnp.broadcast_to(jnp.arange(shape[0], dtype=dtype)[:, None], shape)


UNIFORM = [
    (init.init_KGE_uniform, -1 / 25, 1 / 25),
    (functools.partial(init.init_KGE_uniform, b=3.0), -3 / 25, 3 / 25),
    (functools.partial(init.init_KGE_uniform, b=3.0, divide_by_embedding_size=False), -3, 3),
    (init.init_uniform_rotation, 0, 2 * math.pi),
]
NORMAL = [
    (init.init_KGE_normal, 1 / 25),
    (functools.partial(init.init_KGE_normal, std=2.0, divide_by_embedding_size=False), 2.0),
    (init.init_xavier_norm, math.sqrt(2 / 25)),
    (functools.partial(init.init_xavier_norm, gain=0.5), 0.5 * math.sqrt(2 / 25)),
]
LAWS = [
    init.init_KGE_uniform,
    init.init_KGE_normal,
    init.init_xavier_norm,
    init.init_uniform_norm,
    init.init_uniform_rotation,
]


def kolmogorov(sample: Any, cdf: Callable[[Any], Any]) -> float:
    """Largest distance between the two distribution functions, times sqrt(n): over 2 once in 1500 true samples."""
    ordered = np.sort(np.asarray(sample, np.float64).ravel())
    return float(np.abs(cdf(ordered) - (np.arange(len(ordered)) + 0.5) / len(ordered)).max() * np.sqrt(len(ordered)))


@pytest.mark.parametrize(("law", "low", "high"), UNIFORM)
def test_uniform_laws(law: Any, low: float, high: float) -> None:
    drawn = np.asarray(law(jax.random.key(0), SIZE, jnp.float32))
    assert drawn.dtype == np.float32
    assert kolmogorov(drawn, lambda x: np.clip((x - low) / (high - low), 0, 1)) < 2
    assert low <= drawn.min() < drawn.max() <= high


@pytest.mark.parametrize(("law", "std"), NORMAL)
def test_normal_laws(law: Any, std: float) -> None:
    drawn = law(jax.random.key(0), SIZE, jnp.float32)
    assert kolmogorov(drawn, lambda x: 0.5 + 0.5 * np.vectorize(math.erf)(x / (std * math.sqrt(2)))) < 2


def test_uniform_norm() -> None:
    """Directions of rows drawn from the unit cube: norm 1, no negative component, and all components alike."""
    drawn = np.asarray(init.init_uniform_norm(jax.random.key(0), SIZE, jnp.float32), np.float64)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, rtol=1e-6)
    assert drawn.min() >= 0
    cube = np.random.default_rng(0).random(SIZE)
    cube /= np.linalg.norm(cube, axis=1, keepdims=True)
    np.testing.assert_allclose(drawn.mean(axis=0), cube.mean(), atol=6 * cube.std() / math.sqrt(SIZE[0]))
    np.testing.assert_allclose(drawn.std(), cube.std(), rtol=0.02)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("law", LAWS)
def test_types_keys_and_promotion(law: Any, dtype: Any) -> None:
    """Half precision holds the float32 draws, rounded; another key gives other rows."""
    drawn = law(jax.random.key(1), (7, 6), dtype)
    assert drawn.dtype == dtype
    equal(drawn.astype(jnp.float32), law(jax.random.key(1), (7, 6), jnp.float32).astype(dtype).astype(jnp.float32))
    assert (drawn != law(jax.random.key(2), (7, 6), dtype)).any()


@pytest.mark.parametrize("given", [None, functools.partial(init.init_KGE_normal, std=2.0), whole])
def test_many_rows_are_drawn_in_blocks(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of independent rows, every one drawn and no block like another; other functions see the whole table."""
    monkeypatch.setattr(init, "_BLOCK", 8)
    sharding = bj.Sharding.create(21, 1, seed=0)
    score_fn = bj.TransE(True, sharding, 1, 4, entity_initializer=given)
    rows = score_fn.init_entity(jax.random.key(1), 21)
    assert rows.shape == (21, 4)
    assert len(np.unique(rows)) == (21 if given is whole else 84)
    text = str(jax.make_jaxpr(lambda key: score_fn.init_entity(key, 21))(jax.random.key(0)))
    assert ("f32[8,4]" in text) == (given is not whole)


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match=r"b must be >= 0, got -1"):
        init.init_KGE_uniform(jax.random.key(0), (2, 2), b=-1.0)
