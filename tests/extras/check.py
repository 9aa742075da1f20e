"""Installs the package as users do, with each extra alone, and tries what the extra is for: `make extras-test`.

For every extra of pyproject.toml but those of developers, `with_EXTRA.py` runs in a new environment that has the wheel
with that extra alone; it must succeed. Without the extra it must fail, and say how to install it. `core.py` runs
without any.

    python tests/extras/check.py [EXTRA ...] [--first PACKAGE ...]    # needs the network; a minute or more for each

`--first` names what pip installs before each extra: PyTorch comes with the libraries of GPUs otherwise, as in
`make extras-test ARGS="torch peers --first torch --index-url https://download.pytorch.org/whl/cpu"`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOR_DEVELOPERS = {"dev", "lint", "notebook", "test"}
FOR_BENCHMARKS = {"peers"}
"""Extras that no function of the package asks for."""


def extras() -> list[str]:
    """The extras that users install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return sorted(set(project["optional-dependencies"]) - FOR_DEVELOPERS)


def build(folder: Path) -> Path:
    """The wheel, built from a copy: nothing is written beside the sources."""
    source = folder / "source"
    shutil.copytree(ROOT / "bess_jax", source / "bess_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run([sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "-w", str(folder), str(source)])
    return next(folder.glob("*.whl"))


def environment(folder: Path) -> Path:
    """The Python of a new environment."""
    run([sys.executable, "-m", "venv", str(folder)])
    return folder / "bin" / "python"


def copied(python: Path, folder: Path) -> Path:
    """The Python of a copy of an environment."""
    shutil.copytree(python.parents[1], folder, symlinks=True)
    return folder / "bin" / python.name


def install(python: Path, *packages: str) -> None:
    run([str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *packages])


def run(command: list[str]) -> None:
    subprocess.run(command, check=True)


def attempt(python: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script of this folder in an empty one, without what the caller's environment says of Python and JAX."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JAX_", "XLA_"))}
    environ = {**kept, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [python, "-W", "error::DeprecationWarning:bess_jax", HERE / script],
            cwd=folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )


def main(words: list[str]) -> int:
    """The number of checks that failed."""
    place = words.index("--first") if "--first" in words else len(words)
    return check(words[:place], words[place + 1 :])


def check(chosen: list[str], first: list[str]) -> int:
    """The number of checks of some extras, or all, that failed."""
    if unknown := set(chosen) - set(extras()):
        raise SystemExit(f"no such extra: {', '.join(sorted(unknown))}; there are {', '.join(extras())}")
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wheel = build(folder)
        core = environment(folder / "core")
        install(core, str(wheel))
        failed += report("core", attempt(core, "core.py"), 0, "")
        for extra in chosen or extras():
            if extra not in FOR_BENCHMARKS:
                failed += report(f"without {extra}", attempt(core, f"with_{extra}.py"), 1, f"bess_jax[{extra}]")
            python = copied(core, folder / extra)
            for packages in filter(None, (first, [f"{wheel}[{extra}]"])):
                install(python, *packages)
            failed += report(f"with {extra}", attempt(python, f"with_{extra}.py"), 0, "")
            shutil.rmtree(folder / extra)
    return failed


def report(name: str, done: subprocess.CompletedProcess[str], code: int, text: str) -> bool:
    """Prints how a check went; whether it failed."""
    failed = done.returncode != code or text not in done.stdout
    lines = done.stdout.strip().splitlines() or [""]
    print(f"{name:24}{'FAILED' if failed else 'ok'}    {lines[-1]}", flush=True)
    if failed:
        print(done.stdout)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
