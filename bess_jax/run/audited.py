"""The programs of a run, audited: what they consist of, what they send, and what they need of a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax

from bess_jax.audit.hlo import hlo_text, read_program
from bess_jax.audit.ipu import OLDER, Verdict, verdicts
from bess_jax.audit.memory import StepMemory, step_memory
from bess_jax.audit.report import Audit, audit_program, check_names
from bess_jax.audit.traffic import exchange_bytes
from bess_jax.kernels.bodies import chosen, use_kernels
from bess_jax.run.experiment import Experiment
from bess_jax.run.rehearsal import Call, rehearse
from bess_jax.step.collectives import use_exchange
from bess_jax.step.compiling import use_options

if TYPE_CHECKING:
    from bess_jax.audit.ahead import Launches

Backend: TypeAlias = Literal["cpu", "ipu", "cuda", "tpu"]
"""Whom programs are compiled for: CPU devices, an IPU (only lowered), or descriptions of an H100 or a TPU v5e."""

STATUSES = ("unsupported", "slow")
"""What an IPU makes of an operation that can be forbidden."""

_REDUCTIONS = ("all-reduce",)
"""What the formula leaves out: sums of losses and of gradients of replicated parameters."""


def is_lowered_otherwise(verdict: Verdict) -> bool:
    """Whether what an IPU lacks is there because programs are lowered by today's JAX, and not by JAX 0.3.16.

    Random numbers are such: today's count in 64 bits, also where arrays may have 32 only.
    """
    counts = verdict.why.startswith("u64:") and not jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return verdict.status == "unsupported" and (verdict.opcode in OLDER or counts)


@dataclasses.dataclass(frozen=True)
class Formula:
    """The bytes that BESS says a device sends in a step."""

    exchanged: int
    """Rows, scores and their gradients."""
    gathered: int
    """Queries and their gradients."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.exchanged + self.gathered


@dataclasses.dataclass(frozen=True)
class Audited:
    """A program of a run.

    Attributes:
        contents: what it consists of.
        n_step: steps of one call; the contents are of all of them.
        n_donated: results that are in the memory of arguments.
        touches_all: whether a batch of a step may touch as many rows as a shard has, so that gradients of rows have the
            shape of a table.
        formula: of a step of training, else None.
        verdicts: for an IPU, what it makes of each operation.
        launches: for "cuda" and "tpu", what is launched in a call.
    """

    contents: Audit
    n_step: int
    n_donated: int
    touches_all: bool
    formula: Formula | None
    verdicts: tuple[Verdict, ...] = ()
    launches: Launches | None = None

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step."""
        return self.contents.sent_bytes / self.n_step

    @property
    def moved(self) -> float:
        """Those of them that the formula counts."""
        kept = (one.sent for one in self.contents.collectives if one.opcode not in _REDUCTIONS)
        return sum(kept) / self.n_step

    def forbidden(self, names: Collection[str]) -> tuple[str, ...]:
        """What of the named is in the program, a sentence each.

        Args:
            names: as in `Audit.forbidden`, or of `STATUSES`, of which what `is_lowered_otherwise` is none.

        Raises:
            ValueError: if a name is none of these.
        """
        found = [
            f"{one.status}: {one.opcode}, {one.count:,} times: {one.why}"
            for one in self.verdicts
            if one.status in names and not is_lowered_otherwise(one)
        ]
        return (*self.contents.forbidden([name for name in names if name not in STATUSES]), *found)

    def as_dict(self) -> dict[str, Any]:
        """All of it as what JSON has."""
        return {
            **self.contents.as_dict(),
            "n_step": self.n_step,
            "n_donated": self.n_donated,
            "sent_bytes_per_step": self.sent,
            "moved_bytes_per_step": self.moved,
            "formula": None if self.formula is None else dataclasses.asdict(self.formula),
            "verdicts": [
                {**dataclasses.asdict(one), "lowered_otherwise": is_lowered_otherwise(one)} for one in self.verdicts
            ],
            "launches": None if self.launches is None else self.launches._asdict(),
        }


def check_forbidden(names: Collection[str], backend: Backend | None) -> None:
    """Checks names of what must not be found, before anything is lowered.

    Raises:
        ValueError: if a name is none that `Audited.forbidden` takes, or none that would be found for this backend.
    """
    for name in names:
        if name in STATUSES and backend != "ipu":
            raise ValueError(f"{name!r} is what an IPU makes of an operation, got the backend {backend!r}: give ipu")
    check_names([name for name in names if name not in STATUSES])


def audit_run(experiment: Experiment, program: str, backend: Backend | None = None) -> Audited:
    """Audits a program of a run, which does not run.

    Args:
        experiment: the run, on a `Rehearsal`, for "cuda" and "tpu" on described devices.
        program: its name, of `bess_jax.run.rehearsal.PROGRAMS`.
        backend: whom it is compiled for; default: the devices of the experiment.
    """
    placement, model_rows = experiment.placement, experiment.shapes.params.entity.shape
    is_ipu = backend == "ipu"
    exchange, kernels = use_exchange("ring" if is_ipu else "all_to_all"), use_kernels("loops" if is_ipu else chosen())
    with exchange, kernels, use_options(not is_ipu):
        call = rehearse(experiment, program)
        built: Any = call.lower(backend if backend in ("cuda", "tpu") else None)
    if backend != "ipu":
        built = built.compile()
    text = hlo_text(built)
    read = read_program(text)
    per_device = placement.shards_per_device
    table = model_rows if per_device == 1 else (per_device, *model_rows)
    launches = None
    if backend in ("cuda", "tpu"):
        from bess_jax.audit.ahead import count_launches

        launches = count_launches(read)
    is_step = program == "step"
    batch = call.args[1] if is_step else {}
    return Audited(
        contents=audit_program(built, n_shard=len(placement.devices), tables=[table]),
        n_step=experiment.sampler.batches_per_step if is_step else 1,
        n_donated=len(read.aliases),
        touches_all="entity_rows" in batch and batch["entity_rows"].shape[-1] >= model_rows[0],
        formula=_formula(experiment, call) if is_step else None,
        verdicts=verdicts(read, experiment.config.n_shard) if backend == "ipu" else (),
        launches=launches,
    )


def ipu_memory(experiment: Experiment) -> StepMemory:
    """What a step of training takes on an IPU; nothing is lowered."""
    batches = {name: array[0] for name, array in experiment.host_batch(0, 0, range(1)).items()}
    with use_kernels("loops"):
        return step_memory(experiment.model, experiment.rule, batches, dtype=experiment.config.table_dtype)


def _formula(experiment: Experiment, call: Call) -> Formula:
    """Each of L shards on a device sends to the S - L on others; with accumulation, scores are computed twice.

    What is gathered goes to each other device once, for all its shards; its gradients come from each of them.
    """
    config, placement = experiment.config, experiment.placement
    sizes = (config.positive_per_partition, call.args[1]["negative"].shape[-1])
    both, forward = (
        exchange_bytes(experiment.model, *sizes, dtype=config.table_dtype, training=training)
        for training in (True, False)
    )
    again = int(config.accumulate > 1)
    n, others = placement.shards_per_device, max(1, config.n_shard - 1)
    exchanged = n * (both.exchanged + again * forward.exchanged)
    gathered = n * (both.queries - forward.queries) + (1 + again) * forward.queries
    away = config.n_shard - n
    return Formula(exchanged * away // others, gathered * away // others)
