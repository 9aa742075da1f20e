"""The training loop of README, as it stands there, on UMLS: three epochs, then ranks.

Takes the blocks out of README, so that they cannot be others, and changes what the backend's JAX has in another way.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

README = Path(__file__).resolve().parents[2] / "README.md"
CHANGES = {
    'bj.load_dataset("wn18rr")': 'bj.load_dataset("umls")',  # small
    "n_relation_type=11": "n_relation_type=dataset.n_relation_type",
    "bj.request_devices(4)": "pass",  # XLA_FLAGS=--xla_force_host_platform_device_count=4
    "jax.random.key(0)": "jax.random.PRNGKey(0)",
}


def blocks() -> str:
    """The block with the loop and the one after it, which ranks.

    Raises:
        ValueError: if README has not one block with `jax.pmap`, or something to be changed is not there once.
    """
    found = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    loops = [number for number, block in enumerate(found) if "jax.pmap(" in block]
    if len(loops) != 1:
        raise ValueError(f"README must have one block with jax.pmap, it has {len(loops)}")
    code = "".join(found[loops[0] : loops[0] + 2])
    for old, new in CHANGES.items():
        if code.count(old) != 1:
            raise ValueError(f"README's loop must have {old!r} once, it has it {code.count(old)} times")
        code = code.replace(old, new)
    return code


def run(placement: Any = None) -> dict[str, np.ndarray]:
    """Losses of all shards after each epoch, and the reciprocal rank; `placement` may keep what is lowered."""
    losses = []

    def told(*args: Any) -> None:
        losses.append(np.asarray(names["loss"]))
        print(*args, flush=True)

    names: dict[str, Any] = {"print": told}
    partitionable = getattr(jax, "threefry_partitionable", None)  # draws of older JAX
    with partitionable(False) if partitionable is not None else contextlib.nullcontext():
        exec(compile(blocks(), str(README), "exec"), names)
    if placement is not None:
        sharded = names["bj"].shard_major(names["batch"])
        placement.lowered.append(names["train_step"].lower(names["params"], names["opt_state"], sharded))
    mrr = names["ranks"].metrics()["both"]["mrr"]
    return {"loss": np.stack(losses[:3]), "mrr": np.array([mrr])}


if __name__ == "__main__":
    run()
