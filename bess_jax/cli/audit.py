"""The command `audit`: what the programs of a run consist of, before anything is trained."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import jax
from rich.console import Console

from bess_jax.audit.memory import Budget, describe
from bess_jax.cli import audit_page
from bess_jax.cli.output import print_json, visible
from bess_jax.cli.parse import parse, without_none
from bess_jax.cli.settings import GivenSettings, Settings, settings_given, settings_of
from bess_jax.data.dataset import KGDataset
from bess_jax.data.graphs.public import PUBLIC, is_downloaded
from bess_jax.run.arguments import suggestion
from bess_jax.run.audited import Audited, Backend, audit_run, check_forbidden, ipu_memory
from bess_jax.run.build import read_graph
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment
from bess_jax.run.folder import RunFolder
from bess_jax.run.rehearsal import PROGRAMS, Rehearsal, RehearsalOnIpus
from bess_jax.step.ipus import check_ipus
from bess_jax.step.spmd import request_devices

_FOUND = 1
"""Exit code if something forbidden is found."""


@dataclasses.dataclass(frozen=True)
class SettingSources:
    """Where settings come from that are not on the command line."""

    config: Path | None = None
    """TOML file with settings; the command line overrides them."""
    run: Path | None = None
    """Run folder whose settings and graph are taken."""


@dataclasses.dataclass(frozen=True)
class Audit(SettingSources):
    """Show what the compiled programs of a run consist of: operations, bytes sent, temporaries, copies of tables.

    Takes the settings of train. Nothing is trained, written or downloaded.
    """

    program: str = "step,rank"
    """Programs, joined by commas: step, rank, rank-heads, rank-relations, top-k, score, similar, all-scores, init."""
    backend: Backend | None = None
    """Whom it is compiled for: cpu, ipu (not compiled; each operation is judged), cuda (an H100) or tpu (a v5e), which
    need not be there. Default: the devices that train would use."""
    forbid: str | None = None
    """What must not be found, joined by commas: operations, as all-gather, or dense-gradient, slow-scatter, table-copy;
    for ipu also unsupported, slow. If it is, the exit code is 1."""
    usable: float = 0.5
    """Part of an IPU's memory that a step may take, for ipu; the rest is for code, and for what the compiler adds."""
    json: bool = False
    """Print one JSON document instead of a page."""
    settings: GivenSettings = dataclasses.field(default_factory=Settings)

    @classmethod
    def from_args(cls, args: Sequence[str], prog: str) -> Audit:
        """The command that the arguments tell, with the settings in the files that they name.

        Raises:
            ValueError: if the arguments are not understood, or a file is not as it must be.
        """
        sources, _ = parse(SettingSources, args, prog, return_unknown_args=True, add_help=False)
        given = settings_given(sources.config, args, prog)
        command: Audit = parse(without_none(cls), args, prog, default=cls(settings=settings_of(given, sources.run)))
        return command

    def __call__(self, console: Console) -> int:
        """Audits; 1 if something forbidden is found."""
        programs, forbidden = _words(self.program), _words(self.forbid or "")
        if not programs:
            raise ValueError(f"program must name one or more of {', '.join(PROGRAMS)}, got {self.program!r}")
        for name in programs:
            if name not in PROGRAMS:
                raise ValueError(
                    f"there is no program {name!r}{suggestion(name, PROGRAMS)}; there are {', '.join(PROGRAMS)}"
                )
        config = self.settings.checked()
        backend = self.backend or ("ipu" if config.platform == "ipu" else None)
        check_forbidden(forbidden, backend)
        graph = self._graph(config)
        experiment = Experiment.create(config, graph, placement=_placement(config, backend))
        if not self.json:
            audit_page.head(console, experiment, backend)
        memory: dict[str, int] = {}
        if backend == "ipu":  # before anything is lowered
            budget, needed = Budget(config.n_shard, usable=self.usable), ipu_memory(experiment)
            budget.check(needed)
            memory = dict(describe(budget, needed))
            if not self.json:
                audit_page.memory(console, memory)
        found: dict[str, Audited] = {}
        against: list[str] = []
        for name in programs:
            found[name] = audit_run(experiment, name, backend)
            against += [f"{name}: {text}" for text in found[name].forbidden(forbidden)]
            if not self.json:
                audit_page.program(console, name, found[name])
        if self.json:
            print_json(
                {
                    "jax": jax.__version__,
                    "backend": backend or experiment.placement.devices[0].platform,
                    "n_shard": config.n_shard,
                    "n_device": len(experiment.placement.devices),
                    "ipu_memory": memory,
                    "programs": {name: one.as_dict() for name, one in found.items()},
                    "forbidden": against,
                }
            )
        for text in against:
            print(f"forbidden: {visible(text)}", file=sys.stderr)
        return _FOUND if against else 0

    def _graph(self, config: TrainConfig) -> KGDataset:
        """The graph: of the run if its settings name that one, else where the settings say.

        Raises:
            ValueError: if it would have to be downloaded, or has no validation split.
        """
        folder = None if self.run is None else RunFolder.open(self.run)
        if folder is not None and folder.has_graph and folder.config().dataset == config.dataset:
            return folder.graph()
        name = config.dataset.lower()
        if name in PUBLIC and not is_downloaded(name):
            raise ValueError(f"{name} is not downloaded yet: python -m bess_jax data {name}")
        graph = read_graph(config)
        if "valid" not in graph.triples:
            raise ValueError(f"dataset {config.dataset} has no valid, which train needs")
        return graph


def _words(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]


def _placement(config: TrainConfig, backend: Backend | None) -> Rehearsal:
    """Where the shards would run."""
    n_device = config.n_device
    if backend in ("cuda", "tpu"):
        from bess_jax.audit.ahead import describe_devices

        return Rehearsal(config.n_shard, describe_devices(backend, n_device or config.n_shard), "shard_map")
    kind = RehearsalOnIpus if backend == "ipu" else Rehearsal
    if backend == "ipu":
        n_device = n_device or config.n_shard
        check_ipus(config.n_shard, range(n_device), config.mapping)
    with contextlib.suppress(RuntimeError):  # JAX has made its devices already: those there are will do
        request_devices(n_device or config.n_shard)
    platform, kernels = (config.platform, config.kernels) if backend is None else ("cpu", "auto")
    return cast(Rehearsal, kind.create(config.n_shard, n_device, config.mapping, platform, kernels))
