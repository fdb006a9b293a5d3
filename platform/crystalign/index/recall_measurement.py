"""Measure the recall of an approximate index when it is built, against exact search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalign.index.recall import TARGET, RecallPoint
from crystalign.index.search import Segment
from crystalign.index.vector_store import EXTRA, Allowed, Ask

KS = (10, 100, 1000)
"""Numbers of results at which recall is measured. A search for more is exact."""
SELECTIVITIES = (1.0, 0.5, 0.15)
"""Parts of the rows that a filter allows, at which recall is measured. Behind narrower filters a search is exact."""
QUERIES = 200
"""Most queries of each modality."""
_SMALLEST, _HALVINGS = 64, 14
_TOGETHER = 64


def measure_recall(
    segment: Segment, queries: Mapping[str, NDArray[np.float32]], target: float = TARGET
) -> tuple[RecallPoint, ...]:
    """Measure recall against exact search, for rising effort until it is high enough.

    Args:
        segment: every row of the index.
        queries: modality → (q, D) query vectors that were not used for training; at most `QUERIES` are used. Those of
            the modality of the index may be stored rows: a row does not count as its own neighbour.
        target: the recall that searches are to reach.
    """
    points = []
    for modality, vectors in queries.items():
        for selectivity in SELECTIVITIES:
            allowed = _random_rows(len(segment), selectivity)
            points += list(_curve(segment, modality, vectors[:QUERIES], allowed, selectivity, target))
    return tuple(points)


def _curve(
    segment: Segment,
    modality: str,
    vectors: NDArray[np.float32],
    allowed: Allowed | None,
    selectivity: float,
    target: float,
) -> Iterator[RecallPoint]:
    """The points of one modality behind one filter."""
    n = len(segment) if allowed is None else allowed.n
    ks = [k for k in KS if k < n // 2]
    if not ks:
        return
    truth = _answers(segment, vectors, allowed, ks[-1] + 1, None)
    for k in ks:
        for effort in _efforts(n, k):
            found = _answers(segment, vectors, allowed, k + 1, effort)
            recalls = [_recall(a, b, k) for a, b in zip(found, truth, strict=True)]
            mean, error = float(np.mean(recalls)), float(np.std(recalls) / math.sqrt(len(recalls)))
            yield RecallPoint(
                modality=modality,
                k=k,
                selectivity=selectivity,
                effort=effort,
                recall=round(mean, 5),
                error=round(error, 5),
                queries=len(recalls),
            )
            if mean - error >= target:
                break


def _efforts(n: int, k: int) -> list[int]:
    """Efforts from few rows, but more than k, to a quarter of n, each twice the one before."""
    efforts = [n >> halvings for halvings in range(_HALVINGS, 1, -1)]
    return [effort for effort in efforts if effort >= max(_SMALLEST, 2 * k)] or [max(1, n // 4)]


def _answers(
    segment: Segment, vectors: NDArray[np.float32], allowed: Allowed | None, k: int, effort: int | None
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """(k,) rows and scores of each query."""
    n = len(segment) if allowed is None else allowed.n
    asks = [Ask(query, min(n, k + EXTRA), allowed, effort) for query in vectors]
    found: list[Any] = []
    for start in range(0, len(asks), _TOGETHER):
        found += segment.answer(asks[start : start + _TOGETHER], [k] * _TOGETHER)
    return [(one.rows, one.scores) for one in found]


def _recall(
    found: tuple[NDArray[np.int64], NDArray[np.float64]], truth: tuple[NDArray[np.int64], NDArray[np.float64]], k: int
) -> float:
    """Recall@k, without a stored row that is the query itself: a best row of cosine 1."""
    (rows, _), (best, scores) = found, truth
    skip = int(scores[0] > 1.0 - 1e-3)
    wanted = best[skip : skip + k]
    return len(np.intersect1d(rows[: skip + k], wanted)) / len(wanted)


def _random_rows(n: int, selectivity: float) -> Allowed | None:
    """A random part of the rows; None for all."""
    if selectivity == 1.0:
        return None
    mask = np.random.default_rng(n).random(n) < selectivity
    return Allowed(np.packbits(mask, bitorder="little"), int(mask.sum()))
