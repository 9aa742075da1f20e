"""Damaged and hostile files for everything that reads one: each must be refused by a `DataError`, or be harmless.

    make fuzz ARGS="--files 100000"

A file is made from a good one by a few random changes, and depends on its number alone: `--first N --files 1` makes it
again. Whatever else is raised, and whatever is read wrongly without a word, ends the program.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import gzip
import math
import random
import tempfile
import time
import tracemalloc
import warnings
import zlib
from pathlib import Path

from fuzz.changes import changed_file
from fuzz.importers import Importer, importers, write

from bess_jax.data.files import DataError, DataWarning
from bess_jax.data.text import LONGEST_LINE, read_columns

LONGEST_TIME = 10.0
"""Seconds of this process for one file, at most; a busy machine needs far fewer."""


@dataclasses.dataclass
class Count:
    """What became of the files of an importer."""

    refused: int = 0
    read: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    memory: float = 0.0  # the highest peak, in longest allowed lines


def fuzz(folder: Path, numbers: range, seconds: float = math.inf) -> dict[str, Count]:
    """Reads the files of these numbers, by all importers in turn.

    Args:
        folder: an empty folder.
        numbers: of the files.
        seconds: how long it may take; then it stops, wherever it is.

    Raises:
        AssertionError: if a file is read wrongly, refused without its name, or takes too much memory or time.
    """
    known = importers(folder)
    good = {importer.name: importer.file.read_bytes() for importer in known}
    expected = {importer.name: importer.read() for importer in known}
    counts = {importer.name: Count() for importer in known}
    end = time.monotonic() + seconds
    for number in numbers:
        if time.monotonic() > end:
            break
        importer = known[number % len(known)]
        count = counts[importer.name]
        content = changed_file(random.Random(number), importer.file.suffix, good[importer.name], importer.tokens)
        write(importer.file, content)
        try:
            read_one(importer, count, expected[importer.name])
            if importer.is_text and (len(content) > len(good[importer.name]) + 1000 or number % 10 == 0):
                count.memory = max(count.memory, peak_of(importer.file))
        except Exception as error:
            error.add_note(f"file {number}, {importer.name}: {content[:200]!r}")
            raise
        write(importer.file, good[importer.name])
    return counts


def read_one(importer: Importer, count: Count, expected: object) -> None:
    """Reads a file, and counts."""
    start = time.process_time()
    try:
        found = importer.read()
    except DataError as error:
        count.refused += 1
        if error.file not in (importer.file, importer.file.parent):
            raise AssertionError(f"{error.file} is blamed") from error
        if len(error.reason) > 1003:
            raise AssertionError(f"a message of {len(error.reason)} characters") from error
    else:
        count.read += 1
        if importer.exact and found != expected:
            raise AssertionError(f"{found} was read, not {expected}")
    taken = time.process_time() - start
    count.seconds, count.slowest = count.seconds + taken, max(count.slowest, taken)
    if taken > LONGEST_TIME:
        raise AssertionError(f"took {taken:.1f} s")


def peak_of(file: Path) -> float:
    """Peak of memory while the lines of a file are read, in longest allowed lines of characters like its own."""
    longest = LONGEST_LINE * width_of(file)
    tracemalloc.start()
    try:
        collections.deque(read_columns(file, 3), 0)
    except DataError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    if peak > 3 * longest:
        raise AssertionError(f"{peak:,} bytes of memory for lines of at most {longest:,} bytes")
    return peak / longest


def width_of(file: Path) -> int:
    """Bytes of a character of a file, as Python holds its text: 1, 2 or 4."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            highest = max(stream.read().decode("utf-8", "ignore"), default="")
    except (EOFError, OSError, zlib.error):
        return 1
    return 1 if highest < "\u0100" else 2 if highest < "\U00010000" else 4


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000, help="how many; 100,000 take some minutes")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after this time")
    args = parser.parse_args()
    warnings.simplefilter("ignore", DataWarning)
    with tempfile.TemporaryDirectory() as folder:
        counts = fuzz(Path(folder), range(args.first, args.first + args.files), args.seconds)
    print(f"{'importer':<14}{'refused':>9}{'read':>9}{'s':>9}{'slowest s':>11}{'memory, longest lines':>24}")
    for name, n in counts.items():
        memory = f"{n.memory:.2f}" if n.memory else ""
        print(f"{name:<14}{n.refused:>9,}{n.read:>9,}{n.seconds:>9.1f}{n.slowest:>11.2f}{memory:>24}")
    refused, read = (sum(getattr(n, what) for n in counts.values()) for what in ("refused", "read"))
    print(f"{refused + read:,} files: {refused:,} refused by name, {read:,} read, none in another way")


if __name__ == "__main__":
    main()
