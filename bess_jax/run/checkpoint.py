"""Checkpoints: folders of NumPy files with a list of them, whose checksums are checked when they are read."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bess_jax._optional import require
from bess_jax.data.archive import DAMAGE
from bess_jax.data.files import DataError, canonical_json, open_file, read_checked, sync_folder, write_checked
from bess_jax.run.about import FIRST_METRIC, About, Point
from bess_jax.run.metric import Metric
from bess_jax.run.team import ALONE, Team

BEST, LAST = "best", "last"
"""Of the checkpoints of a run: that of the best validation, and the latest. Others are chosen by their names."""

_LIST = "about.json"
_PIECE, _WINDOW = 2**18, 2**24
"""Numbers that are checked, summed and written at a time, and that are brought to the disk at a time."""


class NonFiniteStateError(ArithmeticError):
    """Training diverged: a parameter, or a number of the optimizer, is NaN or infinite."""


class Entry(NamedTuple):
    """An array of a checkpoint: one file for each shard, or one for all."""

    dtype: str
    shape: tuple[int, ...]  # of one shard
    per_shard: bool

    def file(self, name: str, shard: int) -> str:
        """Name of the file that holds the array of a shard."""
        return f"{name}.{shard}.npy" if self.per_shard else f"{name}.npy"


class Part(NamedTuple):
    """What a process holds of an array that is saved."""

    array: NDArray[Any]  # (its shards, ...)
    per_shard: bool  # False: the same on all shards, so that one is saved


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that is read.

    Attributes:
        path: its folder.
        about: what it is of.
        entries: name -> array.
        xxh3: file -> checksum of the array in it, XXH3 of 64 bits in hexadecimal.
        earlier: name of the checkpoint before it, which messages offer, or None.
    """

    path: Path
    about: About
    entries: Mapping[str, Entry]
    xxh3: Mapping[str, str]
    earlier: str | None = None
    _whole: set[str] = dataclasses.field(default_factory=set, init=False, repr=False)  # files that were compared

    @classmethod
    def open(cls, path: Path, earlier: str | None = None) -> Self:
        """Reads what it is of. Its arrays are read, and checked, by `array`.

        Raises:
            DataError: if there is none, or its list is damaged, or is that of another folder.
        """
        file = path / _LIST
        with _offering(earlier):
            document = read_checked(file)
            try:
                about = About.parse(*document["about"])
                entries = {name: Entry(e[0], tuple(e[1]), e[2]) for name, e in document["entries"].items()}
                xxh3 = dict(document["xxh3"])
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise DataError(f"not the list of a checkpoint ({error!r})", file) from None
            if str(about.point) != path.name:
                raise DataError(f"the checkpoint in it is {about.point}: the folder was renamed", path)
        return cls(path, about, entries, xxh3, earlier)

    @property
    def label(self) -> str:
        """Its name and a checksum of all of it."""
        return f"{self.path.name} {zlib.crc32(canonical_json(self.xxh3)):08x}"

    def array(self, name: str, shard: int = 0) -> NDArray[Any]:
        """An array of a shard, mapped into memory; compared with its checksum the first time.

        Raises:
            DataError: if its file is missing, damaged, or another one.
        """
        entry = self.entries[name]
        file = self.path / entry.file(name, shard)
        with _offering(self.earlier):
            array = _map_array(file)
            found, expected = (array.dtype, array.shape), (_stored(np.dtype(entry.dtype)), entry.shape)
            if found != expected or not (file.name in self._whole or _checksum(array) == self.xxh3.get(file.name)):
                raise DataError("damaged, or swapped with another file", file)
            self._whole.add(file.name)
        return array.view(np.dtype(entry.dtype))


class Checkpoints:
    """The checkpoints of a run: the latest few, and the best by validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def points(self) -> list[Point]:
        """Those there are, in the order of the run.

        Raises:
            DataError: on a folder with another name than a checkpoint has.
        """
        if not self.folder.is_dir():
            return []
        found = []
        for path in sorted(self.folder.iterdir()):
            point = Point.parse(path.name)
            if point is None and not path.name.startswith("."):
                raise DataError("not the name of a checkpoint: the folder was renamed, or belongs elsewhere", path)
            found += [] if point is None else [point]
        return sorted(found, key=lambda point: point.progress)

    def pick(self, which: str = LAST, metric: Metric | None = None) -> Checkpoint:
        """The checkpoint of a name, the `LAST` one, or the `BEST`: the last one, too, where none was validated.

        Args:
            which: see there.
            metric: what the best one is the best by; default: the metric in the settings of the last one.

        Raises:
            DataError: if there is none, or one of those to choose from is damaged.
        """
        names = [str(point) for point in self.points()]
        if not names:
            raise DataError("holds no checkpoint: the run ended before its first one", self.folder.parent)
        if which not in (BEST, LAST, *names):
            raise DataError(f"holds no checkpoint {which!r}; there are {', '.join(names)}", self.folder.parent)
        if which == BEST:
            return _best([self._open(names, name) for name in names], metric)
        return self._open(names, names[-1] if which == LAST else which)

    def write(
        self, about: About, parts: Mapping[str, Part], shards: Sequence[int] = (0,), keep: int = 1, team: Team = ALONE
    ) -> None:
        """Writes a checkpoint beside its place, renames it, and removes those that are not kept.

        Every process writes the arrays of its shards; the first one writes what is the same on all shards, and the
        list. A process that fails still meets the others.

        Args:
            about: what it is of.
            parts: name -> what this process holds of an array.
            shards: numbers of the shards of this process.
            keep: how many of the latest to keep; the best one is kept too.
            team: the processes.

        Raises:
            NonFiniteStateError: if a number is NaN or infinite.
            DataError: if another process failed.
            OSError: if a file cannot be written. What was there before is then as it was.
        """
        name, is_first = str(about.point), team.is_first
        part = self.folder / f".{name}.part"
        try:
            with contextlib.ExitStack() as at_end:
                at_end.callback(team.barrier, f"arrays of {name}")
                try:
                    if is_first:
                        _remove(part)
                        self.folder.mkdir(exist_ok=True)  # not its parents: a run folder that has gone stays so
                        part.mkdir()
                finally:
                    team.barrier(f"folder of {name}")
                written = _write_parts(part, parts, shards, is_first)
                write_checked(part / f".{team.process}.json", written)
            if is_first:
                _write_list(part, about, parts, team.n_process)
                self._put_in_place(part, name)
                self._prune(keep)
        except OSError as error:
            error.filename = error.filename or str(self.folder)  # a full disk tells none
            raise
        finally:
            if is_first:
                _remove(part)

    def tidy(self, last: Point | None = None) -> None:
        """Removes what writers left that were broken off, and what is later than `last`, where a run goes on.

        Raises:
            OSError: if something cannot be removed.
        """
        for old in self.folder.glob(".*.old"):
            place = self.folder / old.name[1 : -len(".old")]
            if not place.exists():
                old.rename(place)
        for ending in ("part", "old", "removed"):  # other hidden files are the system's
            for left in self.folder.glob(f".epoch-*.{ending}"):
                _remove(left)
        if last is not None:
            for point in self.points():
                if point.progress > last.progress:
                    _remove(self.folder / str(point))

    def _open(self, names: Sequence[str], name: str) -> Checkpoint:
        place = names.index(name)
        return Checkpoint.open(self.folder / name, names[place - 1] if place else None)

    def _put_in_place(self, part: Path, name: str) -> None:
        """Renames a whole folder; one of that name is moved away, from where `tidy` brings it back if that is all."""
        place, old = self.folder / name, self.folder / f".{name}.old"
        if place.exists():
            place.rename(old)
        part.rename(place)
        sync_folder(self.folder)
        _remove(old)

    def _prune(self, keep: int) -> None:
        """Removes all but the latest `keep` and the best one; leaves one alone that cannot be read."""
        names = [str(point) for point in self.points()]
        readable = []
        for name in names:
            with contextlib.suppress(DataError):
                readable.append(self._open(names, name))
        best = _best(readable) if readable else None
        for checkpoint in readable[:-keep]:
            if checkpoint is not best:
                _remove(checkpoint.path)


def _best(checkpoints: Sequence[Checkpoint], metric: Metric | None = None) -> Checkpoint:
    """The first of those with the best value of a metric, the last one where none was ranked."""
    metric = metric or Metric.parse(checkpoints[-1].about.settings.get("metric", FIRST_METRIC))
    best, value = checkpoints[-1], None
    for checkpoint in checkpoints:
        if metric.is_better(checkpoint.about.value(metric), value):
            best, value = checkpoint, checkpoint.about.value(metric)
    return best


def _write_parts(folder: Path, parts: Mapping[str, Part], shards: Sequence[int], is_first: bool) -> dict[str, str]:
    """Writes the arrays of one process; file -> checksum."""
    written = {}
    for name, (array, per_shard) in parts.items():
        for own, shard in zip(array, shards, strict=False) if per_shard else [(array[0], 0)] * is_first:
            file = folder / Entry("", (), per_shard).file(name, shard)
            written[file.name] = _write_array(file, name, own)
    return written


def _write_array(file: Path, name: str, array: NDArray[Any]) -> str:
    """Writes an array and brings it to the disk; its checksum. In pieces that stay in a processor's cache.

    Raises:
        NonFiniteStateError: if a number is NaN or infinite.
    """
    flat, checksum = np.ascontiguousarray(array).reshape(-1), _xxh3()
    with file.open("xb") as stream:
        header = np.lib.format.header_data_from_array_1_0(array.view(_stored(array.dtype)))
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, len(flat), _PIECE):
            piece = flat[start : start + _PIECE]
            if not _is_finite(piece):
                raise NonFiniteStateError(
                    f"{name} holds NaN or infinity: training diverged, and this state is not saved"
                )
            content = piece.view(np.uint8).data
            checksum.update(content)
            stream.write(content)
            if (start + _PIECE) % _WINDOW == 0:
                _to_disk(stream)
        _to_disk(stream)
    return str(checksum.hexdigest())


def _to_disk(stream: BinaryIO) -> None:
    """Brings what was written to the disk, and out of the system's cache, where it would displace what is needed."""
    stream.flush()
    os.fsync(stream.fileno())
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _write_list(folder: Path, about: About, parts: Mapping[str, Part], n_process: int) -> None:
    """Writes what the checkpoint is of, with the checksums that each process found."""
    xxh3: dict[str, str] = {}
    for process in range(n_process):
        file = folder / f".{process}.json"
        xxh3 |= read_checked(file)
        file.unlink()
    entries = {name: Entry(x.dtype.name, x.shape[1:], per_shard) for name, (x, per_shard) in parts.items()}
    write_checked(folder / _LIST, {"about": about, "entries": entries, "xxh3": xxh3})


def _is_finite(array: NDArray[Any]) -> bool:
    """Whether all numbers are finite; makes no copy."""
    if np.issubdtype(array.dtype, np.integer):
        return True
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def _stored(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What an array is in a file, for one that NumPy's format does not know, such as bfloat16: its bits."""
    return dtype if dtype.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")


def _checksum(array: NDArray[Any]) -> str:
    """Checksum of the numbers of an array, as they lie in memory."""
    checksum = _xxh3()
    checksum.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return str(checksum.hexdigest())


def _xxh3() -> Any:
    """A checksum that takes a tenth of the time of CRC-32."""
    return require("xxhash", "cli", "a checkpoint").xxh3_64()


def _map_array(file: Path) -> NDArray[Any]:
    open_file(file).close()  # tells what it is, if it is no file
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except DAMAGE:
        raise DataError("damaged: not a NumPy file", file) from None
    return array


@contextlib.contextmanager
def _offering(earlier: str | None) -> Iterator[None]:
    """Adds the checkpoint before it to what is said of a damaged one."""
    try:
        yield
    except DataError as error:
        if earlier is None:
            raise
        raise DataError(f"{error.reason}; the one before it: --checkpoint {earlier}", error.file) from None


def _remove(path: Path) -> None:
    """Removes a folder, if it is there: from its place at once, so that no half of it is ever found."""
    if not path.exists():
        return
    if not path.name.startswith("."):
        path = path.rename(path.with_name(f".{path.name}.removed"))
    shutil.rmtree(path)
