"""What archives of public graphs hold, laid out as folders that `read_folder` reads."""

from __future__ import annotations

import contextlib
import csv
import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from bess_jax._compat import TypeAlias
from bess_jax.data.archive import DAMAGE
from bess_jax.data.files import DataError, open_file
from bess_jax.data.text import read_columns

Members: TypeAlias = "Mapping[str, str]"
"""Member of an archive -> name of the file that is made of it."""

_DAMAGE = (tarfile.TarError, gzip.BadGzipFile, zlib.error, NotImplementedError, UnicodeDecodeError, *DAMAGE)


@contextlib.contextmanager
def telling(file: Path) -> Iterator[None]:
    """Makes a DataError of what is raised where a file is damaged or not as expected."""
    try:
        yield
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"damaged, or of another layout ({error})", file) from None


def unpack(archive: Path, members: Members, folder: Path) -> None:
    """Writes some members of a `.zip` or of a `.tar`, packed or not, into a folder, under names given here.

    Nothing else is unpacked, and no name in the archive becomes a path.

    Raises:
        DataError: if the archive is damaged, or one is not a file in it.
        OSError: if a file cannot be written.
    """
    left = dict(members)
    with telling(archive), open_file(archive) as stream:
        for name, content in _wanted(archive, stream, members):
            with (folder / left.pop(name)).open("wb") as out:
                shutil.copyfileobj(content, out, 1 << 20)
    if left:
        raise DataError(f"has no file {', '.join(left)}", archive)


def _wanted(archive: Path, stream: IO[bytes], members: Members) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of those files of an archive that are wanted, in its order."""
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(stream) as opened:
            for name in opened.namelist():
                if name in members:
                    with opened.open(name) as content:
                        yield name, content
        return
    with tarfile.open(fileobj=stream, mode="r:*") as packed:
        for member in packed:
            name = member.name[2 * member.name.startswith("./") :]
            found = packed.extractfile(member) if name in members and member.isfile() else None
            if found is not None:
                yield name, found
        while packed.fileobj is not None and packed.fileobj.read(1 << 20):
            pass  # the last read compares the checksum


def write_rows(file: Path, rows: Iterable[Iterable[str]]) -> None:
    """Writes lines of columns, separated by tabs; white space within a value becomes one blank."""
    with file.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write("\t".join(" ".join(value.split()) for value in row) + "\n")


def openbiolink(folder: Path) -> None:
    """`train_val_nodes.csv` of OpenBioLink (node, type; no header) becomes types. BESS-KGE: `build_openbiolink`."""
    types: dict[str, str] = {}
    for _, (node, kind) in read_columns(folder / "nodes.tsv", 2):
        types.setdefault(node, kind)
    write_rows(folder / "types.tsv", types.items())


def hetionet(folder: Path) -> None:
    """`nodes.tsv` of Hetionet (id, name, kind; a header) becomes types and labels."""
    with telling(folder / "nodes.tsv"), (folder / "nodes.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
        write_rows(folder / "types.tsv", ((row["id"], row["kind"]) for row in rows))
        write_rows(folder / "labels.tsv", ((row["id"], row["name"]) for row in rows if row["name"]))


def primekg(file: Path, folder: Path) -> None:
    """`kg.csv` of PrimeKG becomes triples of the indices of its nodes, their types, and their names as labels.

    Columns relation, display_relation, then x_ and y_ index, id, type, name, source; a header, quotes.
    """
    types: dict[str, str] = {}
    labels: dict[str, str] = {}

    def triples(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
        for row in rows:
            for end in "xy":
                index = row[f"{end}_index"]
                types[index], labels[index] = row[f"{end}_type"], row[f"{end}_name"]
            yield row["x_index"], row["relation"], row["y_index"]

    with telling(file), file.open(encoding="utf-8", newline="") as stream:
        write_rows(folder / "train.tsv", triples(csv.DictReader(stream)))
    write_rows(folder / "types.tsv", types.items())
    write_rows(folder / "labels.tsv", ((index, label) for index, label in labels.items() if label))
