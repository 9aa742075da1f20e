"""Libraries of the native body: compilers that are missing, fail or hang, caches that cannot be used, and what is told.

Compilers are scripts that copy a library made before; they write down each call.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jaxlib.version
import numpy as np
import pytest

from bess_jax.kernels import bodies, sum_pairs, use_kernels
from bess_jax.kernels.native import build
from bess_jax.kernels.native.formula import translate
from bess_jax.kernels.rows import UnavailableError
from bess_jax.scoring.distance import Distance

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
TERMS = Distance(1).terms
FORMULA = translate(TERMS, 0.0, 0.0).text

Compiler = Callable[[str], Path]
"""Makes a compiler that runs a line of shell to compile, and gives the file of its calls."""


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a process that has not asked yet."""
    for module, name in ((build, "_found"), (build, "_refused"), (bodies, "_said")):
        monkeypatch.setattr(module, name, {})
    monkeypatch.setenv(build.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def library() -> Path:
    """A library that can be loaded."""
    try:
        found = build.find_library(FORMULA)
    except UnavailableError as error:
        pytest.skip(str(error))
    return Path(os.environ[build.CACHE]) / f"{found.sums.rpartition('_')[2]}.so"


@pytest.fixture
def compiler(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    def make(line: str) -> Path:
        script, calls = tmp_path / "cxx", tmp_path / "calls"
        version = 'case "$1" in --version) echo "cxx (clang) 1.2.3"; exit;; esac'
        script.write_text(f'#!/bin/sh\n{version}\necho "$@" >> {calls}\n{line}\n')
        script.chmod(0o755)
        calls.write_text("")
        monkeypatch.setenv("CXX", str(script))
        return calls

    return make


def n_calls(calls: Path) -> int:
    return len(calls.read_text().splitlines())


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process would not know."""
    monkeypatch.setattr(build, "_found", {})


def sums() -> Any:
    return jax.jit(lambda q, k: sum_pairs(TERMS, q, k)[0])(ROWS, ROWS[::-1] + 1)


EXPECTED = np.abs(ROWS[:, None] - (ROWS[::-1] + 1)[None]).sum(axis=-1)


def test_compiled_once(compiler: Compiler, library: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = compiler(f"cp {library} pairs.so")
    found = build.find_library(FORMULA)
    assert found.about == f"native {build.instructions().upper().replace('PLAIN', 'plain')}, clang 1.2.3"
    assert build.find_library(FORMULA) == found
    assert n_calls(calls) == 1
    forget(monkeypatch)
    assert build.find_library(FORMULA) == found  # from the cache
    assert n_calls(calls) == 1
    digest = found.sums.rpartition("_")[2]
    assert sorted(path.name for path in fresh.iterdir()) == [f"{digest}.json", f"{digest}.so"]
    assert fresh.stat().st_mode & 0o777 == 0o700
    note = json.loads((fresh / f"{digest}.json").read_text())
    assert note["formula.h"] == FORMULA
    assert "BessSums" in note["pairs.cc"]
    assert "clang" in note["compiler"]
    with monkeypatch.context() as patch:
        patch.setattr(jaxlib.version, "__version__", "0.0.0")
        forget(patch)
        assert build.find_library(FORMULA) != found
    assert n_calls(calls) == 2


def test_threads(compiler: Compiler, library: Path) -> None:
    calls = compiler(f"sleep 0.2; cp {library} pairs.so")
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(build.find_library(FORMULA))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({*found}) == 1
    assert n_calls(calls) == 1


def test_processes(compiler: Compiler, library: Path, fresh: Path) -> None:
    """Two at once: both compile, both load, and nothing half written is left."""
    calls = compiler(f"sleep 1; cp {library} pairs.so")
    code = f"from bess_jax.kernels.native import build; print(build.find_library({FORMULA!r}).about)"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert {process.communicate()[0] for process in started} == {build.find_library(FORMULA).about + "\n"}
    assert n_calls(calls) in (1, 2)
    assert {path.suffix for path in fresh.iterdir()} == {".so", ".json"}


@pytest.mark.parametrize("content", [b"", b"no library", None])
def test_damaged(
    content: bytes | None, compiler: Compiler, library: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that is not what was written is never loaded, but compiled again; half of one could end the process."""
    calls = compiler(f"cp {library} pairs.so")
    build.find_library(FORMULA)
    (file,) = fresh.glob("*.so")
    whole = file.read_bytes()
    file.unlink()  # this process has it in its memory
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    forget(monkeypatch)
    build.find_library(FORMULA)
    assert file.read_bytes() == whole
    assert n_calls(calls) == 2


def test_not_to_be_loaded(compiler: Compiler, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one for another system: compiled again once, then given up."""
    calls = compiler("echo no library > pairs.so")
    for n in (1, 2):
        with pytest.raises(UnavailableError, match=r"\.so cannot be loaded: "):
            build.find_library(FORMULA)
        with pytest.raises(UnavailableError):
            build.find_library(FORMULA)
        assert n_calls(calls) == n
        forget(monkeypatch)


def told(caplog: pytest.LogCaptureFixture) -> str:
    """The only line, after two functions have been traced."""
    with caplog.at_level(logging.INFO, "bess_jax"):
        for _ in range(2):
            np.testing.assert_array_equal(sums() / np.float32(1), EXPECTED)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "bess_jax"]
    assert bodies.said() == (line.removeprefix("sums over pairs: "),)
    return line


def test_no_compiler(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    why = "there is no C++ compiler: none of c++, g++, clang++ is on PATH"
    assert told(caplog) == f"sums over pairs: XLA's loops, as {why}"
    with pytest.raises(ValueError, match=r"^kernels must be 'auto' or 'loops', got 'native': there is no C\+\+"):
        use_kernels("native")(sums)()
    forget(monkeypatch)
    monkeypatch.setenv("CXX", "ccache nowhere-c++")
    with pytest.raises(UnavailableError, match="CXX=ccache nowhere-c"):
        build.find_library(FORMULA)
    assert not fresh.exists()


def test_broken_compiler(compiler: Compiler, caplog: Any) -> None:
    calls = compiler('echo "In file included from a.h"; echo "pairs.cc:1: error: no such thing" >&2; exit 3')
    assert told(caplog).endswith("cxx ended with 3: pairs.cc:1: error: no such thing")
    assert n_calls(calls) == 1


def test_killed_compiler(compiler: Compiler, caplog: Any) -> None:
    compiler("kill -9 $$")
    assert told(caplog).endswith("cxx ended with -9: it said nothing")


def test_hanging_compiler(compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """It is ended with what it has started, and not called again for another formula."""
    monkeypatch.setattr(build, "_SECONDS", 0.5)
    calls = compiler(f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    assert told(caplog).endswith("cxx took more than 0 s")
    with pytest.raises(UnavailableError, match="took more than"):
        build.find_library("another")
    assert n_calls(calls) == 1
    child = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}")
    if Path("/proc/self").exists():
        deadline = time.monotonic() + 10
        while child.exists() and "Z" not in (child / "stat").read_text().split()[2] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not child.exists() or "Z" in (child / "stat").read_text().split()[2]


def test_unwritable_cache(compiler: Compiler, library: Path, fresh: Path, caplog: Any) -> None:
    calls = compiler(f"cp {library} pairs.so")
    fresh.write_text("a file where the folder would be")
    assert told(caplog) == f"sums over pairs: XLA's loops, as {fresh} cannot be written: File exists"
    assert n_calls(calls) == 0


def test_full_disk(
    compiler: Compiler, library: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    compiler(f"cp {library} pairs.so")
    monkeypatch.setattr(build.os, "replace", full)
    assert told(caplog).endswith("cannot be written: No space left on device")
    assert not any(fresh.iterdir())


def test_read_only_cache(compiler: Compiler, library: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in it can be used."""
    compiler(f"cp {library} pairs.so")
    found = build.find_library(FORMULA)
    forget(monkeypatch)
    monkeypatch.setattr(build, "_keep", None)
    fresh.chmod(0o500)
    assert build.find_library(FORMULA) == found


def test_what_has_no_form(fresh: Path, caplog: Any) -> None:
    """A formula of one's own that cannot be translated runs as loops."""

    def terms(query: Any, key: Any) -> Any:
        return (jax.lax.lgamma(query - key + 20),)

    with caplog.at_level(logging.INFO, "bess_jax"):
        found = jax.jit(lambda q: sum_pairs(terms, q, q)[0])(ROWS)
    assert np.isfinite(found).all()
    assert "XLA's loops, as the formula has no form in C++: the primitive lgamma" in caplog.text


def test_chosen(monkeypatch: pytest.MonkeyPatch, fresh: Path, caplog: Any) -> None:
    """By the environment, for whole processes; by `use_kernels`, whatever the environment says."""
    monkeypatch.setenv(bodies.VARIABLE, "loops")
    assert told(caplog) == "sums over pairs: loops, as was asked for"
    monkeypatch.setenv("CXX", "nowhere-c++")
    with pytest.raises(ValueError, match="got 'native': there is no C"):
        use_kernels("native")(sums)()
    np.testing.assert_array_equal(use_kernels("auto")(sums)(), EXPECTED)
    monkeypatch.setenv(bodies.VARIABLE, "fast")
    with pytest.raises(ValueError, match=r"^BESS_JAX_KERNELS must be one of 'auto', 'native', .*, got 'fast'"):
        sums()


def test_host_of_an_accelerator(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = compiler("exit 1")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_array_equal(sums(), EXPECTED)
    assert n_calls(calls) == 0
    assert not any("native" in text or "compiler" in text for text in bodies.said())


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"baseline": ["SSE2"], "found": ["SSE41", "FMA3", "AVX2"], "not found": ["AVX512_SKX"]}, ("avx2", "plain")),
        ({"baseline": ["X86_V2"], "found": ["X86_V3", "X86_V4"]}, ("avx512", "avx2", "plain")),
        ({"baseline": ["SSE2"], "found": ["AVX2", "FMA3", "AVX512F", "AVX512_SKX"]}, ("avx512", "avx2", "plain")),
        ({"baseline": ["SSE2"], "found": ["AVX2", "AVX512F"]}, ("plain",)),
        ({}, ("plain",)),
    ],
)
def test_instructions(found: Any, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.np, "show_config", lambda mode: {"SIMD Extensions": found})
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    assert build._instructions.__wrapped__() == expected
    monkeypatch.setattr(build.platform, "machine", lambda: "arm64")
    assert build._instructions.__wrapped__() == ("plain",)


def test_other_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.INSTRUCTIONS, "avx1024")
    with pytest.raises(ValueError, match=r"^BESS_JAX_NATIVE must be one of .*'plain', got 'avx1024'"):
        sums()
