"""Programs compiled for accelerators that are not there: an NVIDIA H100, and a TPU v5e.

XLA takes a description in place of a device and compiles for it. Nothing runs: launches and memory are told, and
no time. The H100 is described by hand (`h100.txtpb`), and kernels are not tuned, which takes a real one: that may split
some of them otherwise. Needs today's JAX, unlike the rest of this folder.
"""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import jax

from bess_jax._optional import MissingExtraError
from bess_jax.audit.hlo import Program
from bess_jax.audit.loops import trip_count

TARGETS = {"cuda": "NVIDIA H100 80GB", "tpu": "TPU v5e"}
"""Platform -> what is described."""

_PACKAGES = {
    "cuda": ("jax_cuda12_plugin", "jax-cuda12-plugin=={0} jax-cuda12-pjrt=={0} nvidia-cuda-nvcc-cu12"),
    "tpu": ("libtpu", "libtpu"),
}
"""Platform -> the module that compiles for it, and what installs it."""

_SLICES = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8"}
"""Chips of a slice of TPU v5e -> its topology."""

_NO_CLOUD = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""What keeps a TPU's library from looking around."""

KERNELS = frozenset(
    [
        "convert",
        "convolution",
        "copy",
        "custom-call",
        "dot",
        "dynamic-update-slice",
        "fusion",
        "gather",
        "reduce",
        "scatter",
        "sort",
        "transpose",
    ]
)
"""Operations of a compiled program that are launched; in fusions they are part of one launch."""


class Launches(NamedTuple):
    """What one call of a compiled program launches, on each device."""

    kernels: int  # those in loops counted each time
    loop_iterations: int
    by_opcode: dict[str, int]  # the kernels
    is_exact: bool  # False if there is a loop whose count is not known, which counts once, or a branch


def describe_devices(platform: str, n_device: int) -> tuple[jax.Device, ...]:
    """Devices that are only described. To be called before JAX is first used.

    Args:
        platform: "cuda" or "tpu".
        n_device: how many.

    Raises:
        MissingExtraError: without the packages that compile for them.
        ValueError: if there is no slice of so many TPU chips.
    """
    from jax.experimental import topologies

    module, packages = _PACKAGES[platform]
    if importlib.util.find_spec(module) is None:
        packages = packages.format(jax.__version__)
        raise MissingExtraError(f"to compile for {TARGETS[platform]} takes packages: pip install {packages}")
    jax.config.update("jax_platforms", "cpu")  # what runs meanwhile: a TPU's library would look for a real one
    if platform == "cuda":
        flags = "--xla_gpu_autotune_level=0", f"--xla_gpu_cuda_data_dir={_cuda_folder()}"
        os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *flags)).strip()
        target = (Path(__file__).parent / "h100.txtpb").read_text(encoding="utf-8")
        found = topologies.get_topology_desc("", "cuda", topology=f"1x1x{n_device}", target_config=target)
    else:
        slices = [topology for n, topology in _SLICES.items() if n >= n_device]
        if not slices:
            raise ValueError(f"n_device must be at most {max(_SLICES)}, the chips of a slice, got {n_device}")
        for name, value in _NO_CLOUD.items():
            os.environ.setdefault(name, value)
        found = topologies.get_topology_desc(f"v5e:{slices[0]}", "tpu")
    return tuple(found.devices[:n_device])


def _cuda_folder() -> Path:
    """Where NVIDIA's compiler is.

    Raises:
        MissingExtraError: if it is not installed.
    """
    spec = importlib.util.find_spec("nvidia")
    for place in () if spec is None else spec.submodule_search_locations or ():
        if (Path(place) / "cuda_nvcc").is_dir():
            return Path(place) / "cuda_nvcc"
    raise MissingExtraError(f"to compile for {TARGETS['cuda']} takes packages: pip install nvidia-cuda-nvcc-cu12")


def count_launches(program: Program) -> Launches:
    """What one call of a compiled program launches."""
    kernels: Counter[str] = Counter()
    iterations, is_exact = 0, True
    for run in program.runs:
        one = run.instruction
        if one.opcode == "while":
            iterations += run.times * (trip_count(program, one) or 1)
        if one.opcode in KERNELS and not run.is_fused:
            kernels[one.opcode] += run.times
            is_exact = is_exact and run.is_exact
    return Launches(sum(kernels.values()), iterations, dict(kernels.most_common()), is_exact)
