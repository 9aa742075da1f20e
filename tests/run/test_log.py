"""The metrics of a run: each record once, whatever happens in between."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Self

import pytest

from bess_jax.run.log import RunLog


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "metrics.jsonl"
    log = RunLog(file, 0)
    for epoch in (1, 2, 3):
        log.add(epoch, loss=1 / epoch)
    log.add(3, "valid", both={"mrr": 0.1})
    log.flush()
    return file


def test_a_record_stands_once(file: Path) -> None:
    log = RunLog(file, 3)
    assert log.add(3, loss=9) is None
    assert log.add(3, "valid", both={"mrr": 0.9}) is None
    log.add(3, "test", both={"mrr": 0.2})
    log.flush()
    assert log.find(3, "valid") == {"epoch": 3, "split": "valid", "both": {"mrr": 0.1}}
    assert log.find(4) is None
    assert [(line["epoch"], line.get("split")) for line in records(file)] == [
        (1, None),
        (2, None),
        (3, None),
        (3, "valid"),
        (3, "test"),
    ]
    assert records(file)[2]["loss"] == 1 / 3  # numbers come back as they were


def test_another_checkpoint_has_another_record(file: Path) -> None:
    """A run that ended goes on with another metric, and with that from another best state: test is ranked by it."""
    log = RunLog(file, 3)
    log.add(3, "test", checkpoint="epoch-2", both={"mrr": 0.2})
    log.flush()
    log = RunLog(file, 3)
    assert log.add(3, "test", checkpoint="epoch-2", both={"mrr": 0.2}) is None
    assert log.add(3, "test", checkpoint="epoch-3", both={"mrr": 0.3}) is not None
    log.flush()
    assert [line.get("checkpoint") for line in records(file)][-2:] == ["epoch-2", "epoch-3"]


def test_later_records_are_made_again(file: Path) -> None:
    log = RunLog(file, 2)
    assert [line["epoch"] for line in records(file)] == [1, 2]
    assert log.add(3, loss=7) == {"epoch": 3, "loss": 7}
    log.flush()
    assert records(file)[-1] == {"epoch": 3, "loss": 7}


def test_other_processes_write_nothing(file: Path) -> None:
    before = file.read_bytes()
    log = RunLog(file, 1, writes=False)
    log.add(2, loss=5)
    log.flush()
    assert log.find(2) == {"epoch": 2, "loss": 5}
    assert file.read_bytes() == before


def test_lines_that_were_broken_off_go_and_others_stay(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"no record\n\xff\n[1]\n" + b"[" * 100_000 + b'\n{"epoch": 4, "lo')
    RunLog(file, 3)
    lines = file.read_bytes().splitlines()
    assert lines[4:7] == [b"no record", b"\xff", b"[1]"]
    assert len(lines) == 8


def test_what_cannot_be_written_is_written_later(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a disk takes a part of a line."""
    log, before = RunLog(file, 3), file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *args, **options: FullDisk(self))
        for epoch in (4, 5):
            log.add(epoch, loss=0)
            with pytest.raises(OSError, match="No space left"):
                log.flush()
    assert file.read_bytes() == before
    log.flush()
    assert [line["epoch"] for line in records(file)] == [1, 2, 3, 3, 4, 5]


class FullDisk:
    """A file that takes five bytes."""

    def __init__(self, path: Path) -> None:
        self.stream = open(path, "ab", buffering=0)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.stream.close()

    def tell(self) -> int:
        return self.stream.tell()

    def truncate(self, size: int) -> None:
        self.stream.truncate(size)

    def write(self, content: bytes) -> int:
        self.stream.write(content[:5])
        os.fsync(self.stream.fileno())
        raise OSError(28, "No space left on device")
