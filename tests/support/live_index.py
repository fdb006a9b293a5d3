"""An index that changes, and beside it what it should hold: plain rows, searched by a full sort."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crystalign.index.manifest import IndexManifest
from crystalign.index.search import DECIMALS, Search, Segment, merge

LOOKED_UP = 60
"""Ids that are looked for after each change."""
HULL = "_crystalign_energy_above_hull"
FILTERS = (None, 'elements HAS "O"', f"{HULL}<0.4", 'NOT elements HAS ANY "O","Fe" AND nelements>=2', "nsites>1000")


class Held:
    """The rows that an index should hold, by id; a value is a row of one of several tables."""

    def __init__(self, rows: Any, places: Iterable[int]) -> None:
        self.rows = rows
        self.at = {rows.ids[place]: place for place in places}

    def copy(self) -> Held:
        return Held._of(self.rows, dict(self.at))

    @classmethod
    def _of(cls, rows: Any, at: dict[str, int]) -> Held:
        held = cls(rows, ())
        held.at = at
        return held

    def satisfies(self, place: int, text: str | None) -> bool:
        """The filters, in plain Python."""
        elements, hull = self.rows.elements[place], self.rows.hull[place]
        if text == FILTERS[1]:
            return "O" in elements
        if text == FILTERS[2]:
            return hull is not None and hull < 0.4
        if text == FILTERS[3]:
            return not elements & {"O", "Fe"} and len(elements) >= 2
        return text is None

    def allowed(self, text: str | None) -> list[str]:
        return [name for name, place in self.at.items() if self.satisfies(place, text)]

    def best(self, query: NDArray[Any], k: int, text: str | None) -> list[tuple[str, float]]:
        names = self.allowed(text)
        vectors = (
            self.rows.vectors[[self.at[name] for name in names]]
            .astype(np.float64)
            .reshape(len(names), self.rows.vectors.shape[1])
        )
        scores = np.round((vectors * query.astype(np.float64)).sum(1), DECIMALS) + 0.0
        return sorted(zip(names, scores.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))[:k]

    def elements(self, text: str | None) -> dict[str, int]:
        counts: dict[str, int] = {}
        for name in self.allowed(text):
            for symbol in self.rows.elements[self.at[name]]:
                counts[symbol] = counts.get(symbol, 0) + 1
        return counts


def part_of(rows: Any, places: Iterable[int]) -> Any:
    """Some of the rows, as rows of their own."""
    chosen = list(places)
    return rows._replace(
        ids=[rows.ids[i] for i in chosen],
        elements=[rows.elements[i] for i in chosen],
        hull=[rows.hull[i] for i in chosen],
        table=rows.table.take(pa.array(chosen)),
        vectors=rows.vectors[chosen],
    )


def opened(uri: str, manifest: IndexManifest, shards: int) -> list[Segment]:
    """The index, spread over processes as a service spreads it."""
    count = min(shards, len(manifest.segments))
    return [Segment.load(uri, manifest, list(manifest.segments[number::count])) for number in range(count)]


def require_same(segments: list[Segment], held: Held, rng: np.random.Generator, *, k: int = 7) -> None:
    """Compare searches, counts, facets and look-ups with the rows that the index should hold."""
    dimension = held.rows.vectors.shape[1]
    assert sum(segment.live for segment in segments) == len(held.at)
    for text in FILTERS:
        query = rng.normal(size=dimension).astype(np.float32)
        query /= np.linalg.norm(query)
        expected = held.best(query, k, text)
        found = merge([segment.search(query[None], k, text)[0] for segment in segments], k)
        assert list(zip(found.ids, found.scores.tolist(), strict=True)) == expected
        assert found.allowed == len(held.allowed(text)) == sum(segment.count(text) for segment in segments)
        counted: dict[str, int] = {}
        for segment in segments:
            for symbol, count in segment.facets(text).elements.items():
                counted[symbol] = counted.get(symbol, 0) + count
        assert counted == held.elements(text)
        _require_exact_part(segments, held, query, k, text)
    for name in rng.permutation(held.rows.ids)[:LOOKED_UP].tolist():
        places = [(segment, row) for segment in segments if (row := segment.row_of(name)) is not None]
        assert len(places) == (name in held.at), name
        for segment, row in places:
            np.testing.assert_array_equal(segment.vectors(np.array([row]))[0], held.rows.vectors[held.at[name]])


def _require_exact_part(segments: list[Segment], held: Held, query: NDArray[Any], k: int, text: str | None) -> None:
    """A search with the measured effort finds only rows that are there, with their scores, in order."""
    answers = [segment.search_many([Search(query, k, text, ("crystal",))])[0] for segment in segments]
    found = merge(answers, k)
    every = dict(held.best(query, len(held.at), text))
    pairs = list(zip(found.ids, found.scores.tolist(), strict=True))
    assert all(every[name] == score for name, score in pairs)
    assert pairs == sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
    assert len(set(found.ids)) == len(found.ids)
