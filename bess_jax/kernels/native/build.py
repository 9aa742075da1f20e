"""The C++ of a formula, compiled once by the user's own compiler and kept in a cache from one process to the next.

The cache is the folder BESS_JAX_NATIVE_CACHE, else bess_jax/native in XDG_CACHE_HOME or ~/.cache. A library is named by
a digest of all that it is made of; a JSON file beside it tells what that was. Files are written under another name and
moved, so that processes may come at once, and one that is killed leaves nothing half written.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jaxlib.version
import numpy as np

from bess_jax import _checks
from bess_jax.kernels.rows import UnavailableError

CACHE, INSTRUCTIONS = "BESS_JAX_NATIVE_CACHE", "BESS_JAX_NATIVE"
"""Environment variables: where libraries are kept, and the instructions they use, where it is not all there are."""

SOURCES = Path(__file__).parent
"""Where the C++ is: pairs.cc, which includes BESS_FORMULA, and headers."""
_CODE = (".cc", ".h")

_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
)
_SETS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx2", "-mfma", *(f"-mavx512{part}" for part in ("f", "cd", "bw", "dq", "vl"))),
}
"""Instructions, and the flags that have a compiler use them."""
_FEATURES = {"avx512": ({"X86_V4"}, {"AVX512_SKX"}), "avx2": ({"X86_V3"}, {"AVX2", "FMA3"})}
"""Instructions, best first, and what NumPy calls them, from 2.4 on and before."""

_COMPILERS = ("c++", "g++", "clang++")
_SECONDS = 120.0
"""How long a compiler may take; it takes two or three seconds."""


class Library(NamedTuple):
    """A loaded library.

    Attributes:
        sums: what XLA knows its handlers by.
        gradients: likewise.
        about: instructions and compiler, as in "native AVX2, g++ 12.2.0".
    """

    sums: str
    gradients: str
    about: str


class _Compiler(NamedTuple):
    """How it is called, and what it says of its version."""

    command: tuple[str, ...]
    version: str

    @property
    def name(self) -> str:
        """As in "g++ 12.2.0"."""
        kinds = {"clang": "clang", "Free Software Foundation": "g++"}
        kind = next((name for word, name in kinds.items() if word in self.version), Path(self.command[0]).name)
        number = re.search(r"\d+(\.\d+)+", self.version)
        return f"{kind} {number[0]}" if number else kind


_lock = threading.Lock()
_found: dict[tuple[str, str], Library | str] = {}
"""(formula, instructions) -> its library, or why there is none: asked once in a process."""
_refused: dict[tuple[str, ...], str] = {}
"""Command of a compiler that did not come back -> why it is not called again."""


def find_library(formula: str) -> Library:
    """The library of a formula, compiled if it is not in the cache.

    Args:
        formula: C++ of the struct `Terms`.

    Raises:
        UnavailableError: if there is none, in this process for good.
        ValueError: if BESS_JAX_NATIVE is wrong.
    """
    key = formula, instructions()
    with _lock:
        if key not in _found:
            try:
                _found[key] = _library(*key)
            except (UnavailableError, OSError) as error:
                _found[key] = str(error)
        found = _found[key]
    if isinstance(found, str):
        raise UnavailableError(found)
    return found


def instructions() -> str:
    """The best instructions of this machine that there is a form for, or those of BESS_JAX_NATIVE.

    Raises:
        ValueError: if that names others than this machine has.
    """
    there = _instructions()
    given = os.environ.get(INSTRUCTIONS) or there[0]
    _checks.one_of(INSTRUCTIONS, given, there)
    return given


@functools.cache
def _instructions() -> tuple[str, ...]:
    """All that this machine has, best first."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ("plain",)
    found: Any = np.show_config(mode="dicts")
    features = {name for part in ("baseline", "found") for name in found.get("SIMD Extensions", {}).get(part, ())}
    return (*(name for name, ways in _FEATURES.items() if any(way <= features for way in ways)), "plain")


def _library(formula: str, instructions: str) -> Library:
    """Raises UnavailableError or OSError."""
    compiler = _find_compiler()
    flags = (*_FLAGS, *_SETS[instructions])
    built_from = {
        "command": " ".join([*compiler.command, *flags]),
        "compiler": compiler.version,
        "jaxlib": jaxlib.version.__version__,
        **{file.name: file.read_text(encoding="utf-8") for file in sorted(SOURCES.iterdir()) if file.suffix in _CODE},
        "formula.h": formula,
    }
    digest = hashlib.sha256(json.dumps(built_from, sort_keys=True).encode()).hexdigest()[:32]
    file = _folder() / f"{digest}.so"
    about = f"native {instructions if instructions == 'plain' else instructions.upper()}, {compiler.name}"
    with contextlib.suppress(OSError, ValueError, KeyError):  # not there, or not to be loaded: built anew, once
        return _load(file, about)
    _make_folder(file.parent)
    _keep(file, _compile(compiler, flags, built_from), built_from)
    try:
        return _load(file, about)
    except (OSError, ValueError) as error:
        raise UnavailableError(f"{file} cannot be loaded: {error}") from error


def _folder() -> Path:
    """The cache, which may not be there."""
    try:
        given = os.environ.get(CACHE)
        return Path(given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bess_jax" / "native")
    except RuntimeError as error:
        raise UnavailableError(f"there is no home folder to keep libraries in: set {CACHE}") from error


def _find_compiler() -> _Compiler:
    given = os.environ.get("CXX")
    commands = [tuple(shlex.split(given))] if given else [(name,) for name in _COMPILERS]
    command = next((one for one in commands if shutil.which(one[0])), None)
    if command is None:
        where = f"CXX={given} is not there" if given else f"none of {', '.join(_COMPILERS)} is on PATH"
        raise UnavailableError(f"there is no C++ compiler: {where}")
    return _Compiler(command, _run(command, "--version"))


def _compile(compiler: _Compiler, flags: Sequence[str], built_from: dict[str, str]) -> bytes:
    """The library's bytes."""
    with tempfile.TemporaryDirectory(prefix="bess_jax-", ignore_cleanup_errors=True) as name:
        for part, text in built_from.items():
            if Path(part).suffix in _CODE:
                (Path(name) / part).write_text(text, encoding="utf-8")
        include = ('-DBESS_FORMULA="formula.h"', f"-isystem{jax.ffi.include_dir()}")
        _run(compiler.command, *flags, *include, "pairs.cc", "-o", "pairs.so", folder=name)
        return (Path(name) / "pairs.so").read_bytes()


def _run(command: tuple[str, ...], *args: str, folder: str | None = None) -> str:
    """What a compiler prints. One that takes too long is ended with all that it has started, and not called again."""
    if command in _refused:
        raise UnavailableError(_refused[command])
    name = shlex.join(command)
    with tempfile.TemporaryFile() as output:  # no pipe, which what it started would hold open
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        process = subprocess.Popen([*command, *args], cwd=folder, start_new_session=True, **options)
        try:
            code = process.wait(_SECONDS)
        except subprocess.TimeoutExpired as error:
            _refused[command] = f"{name} took more than {_SECONDS:.0f} s"
            raise UnavailableError(_refused[command]) from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    if code:
        lines = text.strip().splitlines() or ["it said nothing"]
        line = next((line for line in lines if "error" in line), lines[-1])
        raise UnavailableError(f"{name} ended with {code}: {line[:200]}")
    return text


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds programs: nobody else may write them
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UnavailableError(f"{folder} cannot be written: {error.strerror or error}") from error


def _keep(file: Path, library: bytes, built_from: dict[str, str]) -> None:
    """Writes the library, and beside it what it was built from."""
    try:
        note = json.dumps({"library": _digest(library), **built_from}, indent=2) + "\n"
        for path, content in ((file, library), (file.with_suffix(".json"), note.encode())):
            handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=file.parent)
            try:
                with open(handle, "wb") as stream:
                    stream.write(content)
                os.replace(part, path)
            except BaseException:
                os.unlink(part)
                raise
    except OSError as error:
        raise UnavailableError(f"{file.parent} cannot be written: {error.strerror or error}") from error


def _load(file: Path, about: str) -> Library:
    """Loads a library and tells XLA its handlers.

    Raises:
        OSError: if it is not there, or made for another system.
        ValueError: if it is not what was written. To load a part of a file may end the process.
        KeyError: likewise.
    """
    note = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    if note["library"] != _digest(file.read_bytes()):
        raise ValueError("it is not what was written")
    found = ctypes.CDLL(str(file))
    names = {part: f"bess_jax_{part.lower()}_{file.stem}" for part in ("Sums", "Gradients")}
    for part, name in names.items():
        if name not in _registered:  # once, as XLA asks for
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(found, f"Bess{part}")), platform="cpu")
            _registered.add(name)
    return Library(names["Sums"], names["Gradients"], about)


_registered: set[str] = set()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
