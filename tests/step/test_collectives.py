"""What shards send each other, all at once and by ring."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared import lowering

import bess_jax as bj
from bess_jax.audit.report import audit_program
from bess_jax.step.collectives import exchange, gather_shards, use_exchange

TYPES = (jnp.float32, jnp.float16, jnp.bfloat16)
LAYOUTS = [
    *((n, n, "pmap") for n in range(1, 9)),
    *((n, n, "shard_map") for n in (2, 3, 4, 8)),
    *((n, 1, "vmap") for n in (1, 2, 3, 8)),
    *((n, n_device, mapping) for n, n_device in ((4, 2), (6, 3), (8, 2)) for mapping in ("pmap", "shard_map")),
]
QUICK = ((8, 8, "pmap"), (3, 3, "shard_map"), (3, 1, "vmap"), (4, 2, "pmap"))


def _bits(x: Any) -> bytes:
    return np.ascontiguousarray(np.asarray(x)).tobytes()


@pytest.mark.parametrize(
    ("n_shard", "n_device", "mapping"),
    [pytest.param(*layout, marks=() if layout in QUICK else pytest.mark.long) for layout in LAYOUTS],
)
def test_the_ring_sends_the_same(n_shard: int, n_device: int, mapping: Any) -> None:
    """Bit for bit, -0.0 included, values and gradients; half-precision ones of a gathering are rounded otherwise."""
    placement = bj.Placement.create(n_shard, n_device, mapping)
    axis = placement.axis_name
    rng = np.random.default_rng(n_shard)

    def drawn(dtype: Any) -> np.ndarray:
        x = rng.normal(size=(n_shard, n_shard, 5, 2)).astype(dtype)
        x[..., 0, 0] = -0.0
        return x

    given, gradient = [drawn(dtype) for dtype in TYPES], [drawn(dtype) for dtype in TYPES]
    ids = rng.integers(-9, 9, (n_shard, n_shard, 3)).astype(np.int32)

    def step(x: list[jax.Array], gradient: list[jax.Array], ids: jax.Array) -> tuple[Any, ...]:
        sent, back = jax.vjp(lambda x: [exchange(leaf, axis) for leaf in x], x)
        gathered, back_gathered = jax.vjp(lambda x: [gather_shards(leaf[0], axis) for leaf in x], x)
        rest = exchange(ids, axis), gather_shards(ids, axis)
        return sent, gathered, back(gradient)[0], back_gathered(gradient)[0], rest

    def run(scheme: Any) -> Any:
        mapped = placement.map(use_exchange(scheme)(step))
        return placement.get(mapped(*map(placement.put, (given, gradient, ids))))

    once, ring = run("all_to_all"), run("ring")
    for number, x in enumerate(given):
        sent, gathered, back, back_gathered, _ = ring
        assert _bits(sent[number]) == _bits(once[0][number]) == _bits(np.swapaxes(x, 0, 1))
        assert _bits(gathered[number]) == _bits(once[1][number]) == _bits(np.broadcast_to(x[:, 0], x.shape))
        assert _bits(back[number]) == _bits(once[2][number]) == _bits(np.swapaxes(gradient[number], 0, 1))
        if n_device == n_shard > 1:  # else in another order
            total = sum(gradient[number].astype(np.float32), np.zeros_like(x[0], np.float32))
            assert _bits(back_gathered[number][:, 0]) == _bits(total.astype(x.dtype))
        if x.dtype == np.float32:
            assert _bits(back_gathered[number]) == _bits(once[3][number])
        else:
            np.testing.assert_allclose(
                *(one[3][number].astype(np.float32) for one in (ring, once)), rtol=0.02, atol=0.1
            )
    assert _bits(ring[4][0]) == _bits(once[4][0]) == _bits(np.swapaxes(ids, 0, 1))
    assert _bits(ring[4][1]) == _bits(once[4][1]) == _bits(np.broadcast_to(ids, (n_shard, *ids.shape)))


def _step(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An exchange of (S, 6, 4) and a gathering of (6, 4), float32, and their gradients."""
    (sent, gathered), back = jax.vjp(lambda x: (exchange(x, "shard"), gather_shards(x[0], "shard")), x)
    return back((sent + 1, gathered * 2))


@pytest.mark.parametrize("scheme", ["all_to_all", "ring"])
@pytest.mark.parametrize("n_shard", [2, 4, 8, 16])
def test_bytes_of_the_program(n_shard: int, scheme: Any) -> None:
    """Each sends 1/S of the operand to each of the others, there and back; of a gathering, the operand to each."""
    step, x = use_exchange(scheme)(_step), lowering.array(n_shard, 6, 4)
    programs = [lowering.text(step, x, n_shard=n_shard)]
    if n_shard <= jax.device_count():  # as compiled, too
        every = jax.ShapeDtypeStruct((n_shard, *x.shape), x.dtype)
        programs.append(jax.pmap(step, axis_name="shard").lower(every).compile().as_text())
    for program in programs:
        collectives = audit_program(program, n_shard=n_shard).collectives
        assert sum(one.sent for one in collectives) == 4 * (n_shard - 1) * 6 * 4 * 4
        counts = Counter(one.opcode for one in collectives)
        if scheme == "ring":
            assert counts == {"collective-permute": 4 * (n_shard - 1)}
        else:
            assert counts == {"all-to-all": 2, "all-gather": 1, "reduce-scatter": 1}


def test_a_ring_has_no_indices() -> None:
    """Neither gathers nor scatters, nor the reduce-scatter that IPUs lack."""
    text = lowering.text(use_exchange("ring")(_step), lowering.array(4, 6, 4))
    for opcode in ("gather(", "scatter(", "all-"):
        assert f" {opcode}" not in text


def test_chosen_by_platform_and_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def opcodes(fn: Any) -> set[str]:
        text = lowering.text(lambda x: fn(x, "shard"), lowering.array(4, 2))
        return {opcode for opcode in ("all-to-all", "collective-permute") if f" {opcode}(" in text}

    assert opcodes(exchange) == {"all-to-all"}
    monkeypatch.setattr(jax, "default_backend", lambda: "ipu")
    assert opcodes(exchange) == {"collective-permute"}
    with use_exchange("all_to_all"):
        assert opcodes(exchange) == {"all-to-all"}
        assert opcodes(use_exchange("ring")(exchange)) == {"collective-permute"}
        assert opcodes(exchange) == {"all-to-all"}
    with (
        pytest.raises(ValueError, match="scheme must be one of 'all_to_all', 'ring', got 'tree'"),
        use_exchange("tree"),
    ):
        pass
