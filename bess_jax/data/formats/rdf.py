"""Triples in RDF: N-Triples and Turtle."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bess_jax import _optional
from bess_jax._compat import zip
from bess_jax._typing import Int32Array
from bess_jax.data.files import DataError, DataWarning, open_unpacked
from bess_jax.data.formats.vocabulary import BadNameError, Vocabulary, clean_names
from bess_jax.data.text import shorten

_LABEL = "http://www.w3.org/2000/01/rdf-schema#label"

_BLOCK = 1 << 16
"""Triples that are turned into ids at a time."""


def read_rdf(file: Path, vocabulary: Vocabulary, columns: Sequence[str | int] | None, is_turtle: bool) -> Int32Array:
    """Triples (n, 3) int32 of an N-Triples or Turtle file, whose IRIs are the names.

    Literals are no entities: `rdfs:label` gives labels, what else has one is left out, and told.

    Raises:
        DataError: if something is wrong with the file.
    """
    if columns is not None:
        raise DataError(
            "has no columns to choose, since RDF tells subject, predicate and object: leave out columns", file
        )
    reader = _Reader(file, vocabulary, is_turtle)
    found = [np.empty((0, 3), dtype=np.int32)]
    try:
        with open_unpacked(file) as stream:
            names = reader.names(stream)
            while rows := [*itertools.islice(names, _BLOCK)]:
                found.append(vocabulary.ids(*(clean_names([*column]) for column in zip(*rows, strict=True))))
    except SyntaxError as error:
        raise DataError(f"not {reader.format}: {shorten(error.msg, 200)}", file, error.lineno) from None
    except BadNameError as error:
        raise DataError(error.reason, file) from None
    except MemoryError:
        raise DataError(f"not {reader.format}: a word of more than 16 MiB", file) from None
    except (EOFError, OSError) as error:
        raise DataError(f"cannot be read: {getattr(error, 'strerror', None) or error}", file) from None
    reader.tell()
    return np.concatenate(found)


class _Reader:
    """Names of triples, and what else is in the file."""

    def __init__(self, file: Path, vocabulary: Vocabulary, is_turtle: bool) -> None:
        self.format = "Turtle" if is_turtle else "N-Triples"
        self._file, self._vocabulary, self._is_turtle = file, vocabulary, is_turtle
        self._nodes: dict[str, str] = {}
        self._ranks: dict[str, int] = {}
        self._n_left = 0
        self._example: Any = None

    def names(self, stream: BinaryIO) -> Iterator[tuple[str, str, str]]:
        """Subject, predicate and object of each triple that has no literal."""
        rdf = _optional.require("pyoxigraph", "rdf", self._file.name)
        if stream.read(3) != b"\xef\xbb\xbf":
            stream.seek(0)
        iri = rdf.NamedNode
        wanted = rdf.RdfFormat.TURTLE if self._is_turtle else rdf.RdfFormat.N_TRIPLES
        for triple in rdf.parse(stream, format=wanted):
            subject, predicate, object_ = triple.subject, triple.predicate.value, triple.object
            if type(object_) is iri and type(subject) is iri:
                yield subject.value, predicate, object_.value
            elif isinstance(object_, (iri, rdf.BlankNode)):
                yield self._node(subject, iri), predicate, self._node(object_, iri)
            elif isinstance(object_, rdf.Literal) and predicate == _LABEL:
                self._label(self._node(subject, iri), object_)
            else:
                self._n_left += 1
                self._example = self._example or triple

    def _node(self, node: Any, iri: type) -> str:
        """The name of a node; blank ones are numbered in Turtle, where most have no name of their own."""
        if isinstance(node, iri):
            return str(node.value)  # type: ignore[attr-defined]
        if not self._is_turtle:
            return f"_:{node.value}"
        return self._nodes.setdefault(node.value, f"_:b{len(self._nodes) + 1}")

    def _label(self, name: str, literal: Any) -> None:
        """Keeps the first label of the best language: none, else English, else any."""
        text, language = literal.value.strip(), literal.language or ""
        rank = {"": 2, "en": 1}.get(language.partition("-")[0], 0)
        if text and rank > self._ranks.get(name, -1):
            self._ranks[name] = rank
            name, text = clean_names([name, text])
            self._vocabulary.entity_labels[name] = text

    def tell(self) -> None:
        """Warns of what was left out."""
        if self._n_left:
            warnings.warn(
                f"{self._file}: {self._n_left:,} left out of the triples, since the object is a literal, not an "
                f"entity; the first is {shorten(str(self._example), 200)}",
                DataWarning,
                stacklevel=2,
            )
