"""Files of public graphs: downloaded once, compared with their digests, kept in a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from bess_jax._compat import new_digest
from bess_jax._optional import require
from bess_jax.data.files import DataError, open_file, read_checked, write_checked

FOLDER, OFFLINE = "BESS_JAX_DATA", "BESS_JAX_OFFLINE"
"""Environment variables: where public graphs are kept, and whether nothing is downloaded (any value but 0)."""

_NOTES = "digests.json"
_PART = 1 << 20
_HEADERS = {"Connection": "close"}  # or the sockets were left open


@dataclasses.dataclass(frozen=True)
class Source:
    """A file to download.

    Attributes:
        url: where it is.
        name: what it is called in the cache.
        digest: "sha256:", "md5:" or "git:" (SHA-1 of a blob of git) and hexadecimal digits, or "" where none is known.
    """

    url: str
    name: str
    digest: str = ""


def cache_folder(graph: str) -> Path:
    """The folder of a public graph: in `BESS_JAX_DATA`, else in the cache of the platform.

    Raises:
        MissingExtraError: without pooch, which knows the platform.
    """
    given = os.environ.get(FOLDER)
    root = Path(given) if given else Path(require("pooch", "download", "a graph by name").os_cache("bess_jax")) / "data"
    return root / graph


def bring(source: Source, folder: Path) -> Path:
    """The file in a folder, downloaded if it is not there, and compared with its digest.

    Where no digest is known, the SHA-256 of the first file is noted in the folder, and later ones are compared with it.

    Raises:
        DataError: if it is not there and must not be downloaded, or has another digest.
        OSError: if it cannot be downloaded or written.
        MissingExtraError: without pooch, if it has to be downloaded.
    """
    file = folder / source.name
    if file.exists():
        _check(source, file, file)
        return file
    if os.environ.get(OFFLINE, "0") not in ("", "0"):
        raise DataError(f"is not there, and {OFFLINE} forbids to download it: put there what is at {source.url}", file)
    folder.mkdir(parents=True, exist_ok=True)
    with _downloaded(source, file) as part:
        _check(source, part, file)
        part.replace(file)
    return file


@contextlib.contextmanager
def _downloaded(source: Source, file: Path) -> Iterator[Path]:
    """A new file beside `file`, which is removed at the end."""
    pooch, tqdm = (require(name, "download", f"the download of {source.name}") for name in ("pooch", "tqdm"))
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        bar = tqdm.tqdm(desc=source.name, total=1, unit="B", unit_scale=True, disable=None)  # None: on a terminal
        try:
            pooch.HTTPDownloader(progressbar=bar, chunk_size=_PART, headers=_HEADERS)(source.url, str(part), None)
        except OSError as error:  # those of requests, too
            raise OSError(
                f"{source.url} cannot be downloaded ({error}); if you have the file, put it at {file}"
            ) from error
        yield part
    finally:
        part.unlink(missing_ok=True)


def _check(source: Source, content: Path, file: Path) -> None:
    """Compares a file, or what shall become it, with its digest, once for each state of the file.

    Raises:
        DataError: if it is another one.
    """
    notes_file = file.with_name(_NOTES)
    notes = read_checked(notes_file) if notes_file.exists() else {}
    before = notes.get(file.name, {})
    state = content.stat()
    now = {"size": state.st_size, "mtime_ns": state.st_mtime_ns}
    wanted = source.digest or before.get("digest", "")
    if before == {**now, "digest": wanted}:
        return
    algorithm = wanted.partition(":")[0] or "sha256"
    found = f"{algorithm}:{digest_of_file(content, algorithm)}"
    if wanted and found != wanted:
        raise DataError(
            f"is another file than it should be: expected {wanted}, got {found}; remove it to download it again from "
            f"{source.url}{'' if source.digest else f', and {_NOTES} beside it, if what it has noted is wrong'}",
            file,
        )
    with contextlib.suppress(OSError):  # a cache that others fill, now or always: it is compared again the next time
        write_checked(notes_file, {**notes, file.name: {**now, "digest": found}})


def digest_of_file(file: Path, algorithm: str) -> str:
    """Hexadecimal digest of a file: by `hashlib`, or "git" for the SHA-1 of git's blobs.

    Raises:
        DataError: if the file cannot be read.
    """
    digest = new_digest("sha1" if algorithm == "git" else algorithm)
    if algorithm == "git":
        digest.update(b"blob %d\0" % file.stat().st_size)
    with open_file(file) as stream:
        while part := stream.read(_PART):
            digest.update(part)
    return str(digest.hexdigest())
