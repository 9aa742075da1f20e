"""What programs are compiled with: it reaches them under every mapping, and lacks where XLA does not know it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from types import MappingProxyType, SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bess_jax import Placement
from bess_jax.step import compiling


def sums_of_products(rows: jax.Array, more: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A program with a product that is summed, which XLA by itself hands to YNNPACK."""
    return more + jnp.sum(rows @ rows.T, axis=-1), rows


ON_ONE_THREAD = "xla_cpu_small_call"
"""How XLA marks loops that one thread runs."""


def loop(x: jax.Array) -> jax.Array:
    """A loop that every jaxlib has one thread run."""
    out: jax.Array = jax.lax.fori_loop(0, 9, lambda i, y: jnp.sin(y) + x, x)
    return out


def n_library_call(text: str) -> int:
    """How many pieces of a compiled program a library computes."""
    return len(re.findall(r'"kind":"__(ynn|xnn|onednn)_fusion"', text))


@pytest.fixture
def not_asked_yet() -> Iterator[None]:
    """As in a new process, before and after."""
    compiling._known.cache_clear()
    yield
    compiling._known.cache_clear()


def test_what_xla_does_by_itself() -> None:
    """Else the counts below would not show anything."""
    text = jax.jit(sums_of_products).lower(jnp.ones((512, 128)), jnp.ones(512)).compile().as_text()
    assert n_library_call(text) > 0
    rewritten = jax.jit(sums_of_products, compiler_options={"xla_cpu_experimental_ynn_fusion_type": ""})
    assert "reduce-window" in rewritten.lower(jnp.ones((512, 128)), jnp.ones(512)).compile().as_text()
    assert ON_ONE_THREAD in jax.jit(loop).lower(jnp.ones(8)).compile().as_text()


@pytest.mark.parametrize(
    ("n_shard", "n_device", "mapping"),
    [(1, 1, "pmap"), (4, 1, "vmap"), (4, 4, "pmap"), (4, 2, "pmap"), (4, 4, "shard_map"), (4, 2, "shard_map")],
)
def test_no_part_is_ynnpacks_under_any_mapping(n_shard: int, n_device: int, mapping: Any) -> None:
    """Donation and layouts are as without options: a second call with results of the first compiles nothing."""
    placement = Placement.create(n_shard, n_device, mapping)
    rows, more = (placement.put(np.ones((n_shard, *shape), np.float32)) for shape in ((512, 128), (512,)))
    mapped: Any = placement.map(sums_of_products, donate_argnums=(1,))
    program = mapped.lower(rows, more).compile()
    assert n_library_call(program.as_text()) == 0
    assert "reduce-window" not in program.as_text()
    assert "input_output_alias" in program.as_text()
    new, same = mapped(rows, more)
    assert more.is_deleted()
    assert new.sharding == same.sharding == rows.sharding
    mapped(same, new)
    assert mapped._cache_size() == 1
    np.testing.assert_array_equal(placement.get(same), 1)


@pytest.mark.parametrize("mapping", ["pmap", "vmap"])
def test_loops_are_left_to_all_threads(mapping: Any) -> None:
    n = 2 if mapping == "pmap" else 1
    placement = Placement.create(n, n, mapping)
    mapped: Any = placement.map(loop)
    assert ON_ONE_THREAD not in mapped.lower(placement.put(np.ones((n, 8), np.float32))).compile().as_text()


@pytest.mark.parametrize(
    ("options", "problem"),
    [({"xla_cpu_gone": True}, "xla_cpu_gone"), ({"xla_cpu_use_onednn": "yes"}, "not a valid bool value")],
)
@pytest.mark.usefixtures("not_asked_yet")
def test_an_option_that_xla_does_not_know(
    options: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Programs run without options; one line says so."""
    monkeypatch.setattr(compiling, "CPU_OPTIONS", MappingProxyType({**compiling.CPU_OPTIONS, **options}))
    with caplog.at_level(logging.INFO, logger="bess_jax"):
        for mapping in ("pmap", "vmap"):
            placement = Placement.create(1, 1, mapping)
            ones = placement.put(np.ones((1, 8), np.float32))
            np.testing.assert_array_equal(placement.map(lambda x: x + 1)(ones), 2)
            assert compiling.options_for(placement.devices[0]) == {}
    (record,) = caplog.records
    assert problem in record.getMessage()


def test_accelerators_have_none() -> None:
    """Options of CPUs are an error elsewhere, so nothing is asked of XLA."""
    for platform in ("gpu", "tpu", "ipu"):
        device: Any = SimpleNamespace(platform=platform)
        assert compiling.options_for(device) == {}
    assert compiling.options_for(jax.devices()[0]) == dict(compiling.CPU_OPTIONS)


def test_one_shard_has_no_axis_of_its_own() -> None:
    """A gather and a scatter of one shard: what `jax.vmap` makes of them is surrounded by copies."""

    def add_one(table: jax.Array, ids: jax.Array) -> jax.Array:
        return table.at[ids].add(table[ids] + 1)

    table, ids = np.ones((1, 99, 8), np.float32), np.arange(0, 60, 3, dtype=np.int32)[None]
    texts = []
    for mapping in ("pmap", "vmap", "shard_map"):
        placement = Placement.create(1, 1, mapping)
        mapped: Any = placement.map(add_one)
        args = placement.put(table), placement.put(ids)
        texts.append(mapped.lower(*args).as_text())
        assert placement.get(mapped(*args)).sum() == table.sum() + 2 * ids.size * 8
    for text in texts:
        assert "operand_batching_dims" not in text
    batched = jax.jit(jax.vmap(add_one)).lower(jnp.asarray(table), jnp.asarray(ids)).as_text()
    assert "operand_batching_dims" in batched or "input_batching_dims" in batched
