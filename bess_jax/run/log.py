"""The metrics of a run as JSON lines, each record once, whatever happens in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

from bess_jax.data.files import open_file, replace_file

Record: TypeAlias = dict[str, Any]
_Key: TypeAlias = tuple[int, str | None, str | None]  # epoch, split, and the checkpoint that was ranked, of test


class RunLog:
    """A file of JSON objects, one a line, with an "epoch" and, if they are of a split, a "split".

    Args:
        file: the file; made when something is written.
        last_epoch: records of later epochs are dropped: the run goes on from there, and makes them again.
        writes: False in the processes of a run that leave writing to the first one.

    Raises:
        DataError: if the file cannot be read.
        OSError: if it cannot be written.
    """

    def __init__(self, file: Path, last_epoch: int, writes: bool = True) -> None:
        self.file, self.writes = file, writes
        self._records: dict[_Key, Record] = {}
        self._waiting: list[bytes] = []  # lines that are not written yet
        if not file.exists():
            return
        with open_file(file) as stream:
            before = stream.readlines()
        kept = [line for line in before if self._is_kept(line, last_epoch)]
        if kept != before and writes:
            with replace_file(file) as stream:
                stream.writelines(kept)

    def find(self, epoch: int, split: str | None = None) -> Record | None:
        """The record of an epoch and split, if there is one."""
        return self._records.get((epoch, split, None))

    @property
    def records(self) -> list[Record]:
        """All records, in the order in which they were made."""
        return list(self._records.values())

    def add(self, epoch: int, split: str | None = None, **values: Any) -> Record | None:
        """Adds a record, for the next `flush` to write; None, and nothing is done, if there is one of that key."""
        key = epoch, split, values.get("checkpoint")
        if key in self._records:
            return None
        record = {"epoch": epoch} | ({} if split is None else {"split": split}) | values
        self._records[key] = record
        if self.writes:
            self._waiting.append(json.dumps(record).encode() + b"\n")
        return record

    def flush(self) -> None:
        """Appends what was added.

        Raises:
            OSError: if it cannot be written; it is tried again the next time.
        """
        if not self._waiting:
            return
        with self.file.open("ab", buffering=0) as stream:
            start = stream.tell()
            lines = b"".join(self._waiting)
            try:
                n_written = stream.write(lines)
            except OSError:
                n_written = 0
                raise
            finally:
                if n_written != len(lines):  # on a disk that is full
                    stream.truncate(start)
        self._waiting.clear()

    def _is_kept(self, line: bytes, last_epoch: int) -> bool:
        """False for later records and for a line that was broken off; lines of others are left alone."""
        if not line.endswith(b"\n"):
            return False
        try:
            record = json.loads(line)
            key = record["epoch"], record.get("split"), record.get("checkpoint")
            if key[0] > last_epoch:
                return False
            self._records[key] = record
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # not a record
        return True
