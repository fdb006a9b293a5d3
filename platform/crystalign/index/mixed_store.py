"""Segments of several kinds in one process: each part is searched by its own vector store.

Rows that are added to an approximate index are searched exactly until the index is compacted. What is exact about an
answer stays exact: as long as a row of an exact part may be missing, the result says so by its margin, and the search
asks for more candidates.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.index.vector_store import VECTOR_STORES, Allowed, Ask, Candidates, OpenStore

_FILTERS_KEPT = 64


class Part(NamedTuple):
    """Consecutive rows of one kind."""

    start: int
    """First row."""
    stop: int
    """Last row plus one."""
    store: OpenStore
    """Their store."""


def open_store(
    vectors: NDArray[np.float16],
    kinds: Sequence[tuple[str, int]],
    trained: Mapping[str, bytes],
    saved: Sequence[Mapping[str, bytes]],
) -> OpenStore:
    """The vector store of segment files, which may be of several kinds.

    Args:
        vectors: (n, D) the vectors of all segment files, in order.
        kinds: for each segment file, the name of its vector store and its number of rows.
        trained: the files that the vector stores share.
        saved: for each segment file, the files that its vector store saved.
    """
    parts, first, start = [], 0, 0
    for kind, group in itertools.groupby(kinds, key=lambda entry: entry[0]):
        sizes = [rows for _, rows in group]
        stop, last = start + sum(sizes), first + len(sizes)
        parts.append(Part(start, stop, VECTOR_STORES[kind].load(vectors[start:stop], trained, saved[first:last])))
        first, start = last, stop
    return parts[0].store if len(parts) == 1 else MixedStore(parts)


class MixedStore:
    """Stores of consecutive rows, as one.

    Args:
        parts: the stores, in the order of their rows.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self.is_exact = all(part.store.is_exact for part in parts)
        self._slice = functools.lru_cache(_FILTERS_KEPT * len(parts))(_slice)

    def candidates(self, asks: Sequence[Ask]) -> list[Candidates]:
        """The candidates of each request, from all parts."""
        found: list[list[tuple[Candidates, bool]]] = [[] for _ in asks]
        for part in self._parts:
            for i, candidates, complete in self._of_part(part, asks):
                found[i].append((candidates._replace(rows=candidates.rows + part.start), complete))
        return [_joined(parts) for parts in found]

    def _of_part(self, part: Part, asks: Sequence[Ask]) -> list[tuple[int, Candidates, bool]]:
        """The candidates of the requests that allow rows of a part, and whether these are all of its allowed rows."""
        n, own = part.stop - part.start, []
        for i, ask in enumerate(asks):
            allowed = None if ask.allowed is None else self._slice(ask.allowed, part.start, part.stop)
            count = n if allowed is None else allowed.n
            if count:
                narrowed = allowed if allowed is not None and count < n else None
                own.append((i, ask._replace(fetch=min(ask.fetch, count), allowed=narrowed), ask.fetch >= count))
        if not own:
            return []
        answers = part.store.candidates([ask for _, ask, _ in own])
        return [(i, answer, complete) for (i, _, complete), answer in zip(own, answers, strict=True)]


def _joined(parts: Sequence[tuple[Candidates, bool]]) -> Candidates:
    """The candidates of all parts, descending.

    A row of an exact part that is not among them scores at most the last candidate of that part plus its margin. The
    margin of the result is such that its own last candidate plus that margin is the largest of these bounds.
    """
    scores = np.concatenate([candidates.scores for candidates, _ in parts])
    rows = np.concatenate([candidates.rows for candidates, _ in parts])
    order = np.argsort(-scores, kind="stable")
    bounds = [
        float(candidates.scores[-1]) + candidates.margin
        for candidates, complete in parts
        if candidates.margin is not None and not complete
    ]
    margin = max(bounds) - float(scores[order[-1]]) if bounds else None
    return Candidates(scores[order], rows[order], margin)


def _slice(allowed: Allowed, start: int, stop: int) -> Allowed:
    """The allowed rows of a part, counted from its first row."""
    mask = np.unpackbits(allowed.bits, bitorder="little", count=stop)[start:]
    return Allowed(np.packbits(mask, bitorder="little"), int(mask.sum()))
