"""The recall of an approximate index: measured when it is built, and used to choose how much of it a search visits.

Recall@k is the share of the k best rows, by an exact search, that the approximate search returns as well. It depends
on the modality of the query: vectors of other modalities lie outside of the distribution of the stored vectors, and
need more effort. It is measured for each modality at several numbers of results, with filters that allow a random part
of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crystalign.config import Config

TARGET = 0.99
"""Default recall that searches are to reach."""


class RecallPoint(Config):
    """The recall of one modality's queries at one effort."""

    modality: str
    """Modality of the queries."""
    k: int
    """Number of results."""
    selectivity: float
    """Part of the rows that the filter allowed; 1 without a filter."""
    effort: int
    """Number of allowed rows that were scored."""
    recall: float
    """Mean recall@k."""
    error: float
    """Its standard error over the queries."""
    queries: int
    """Number of queries."""


def effort_for(
    points: Iterable[RecallPoint], target: float, modalities: Sequence[str], k: int, fraction: float
) -> int | None:
    """The least effort whose measured recall, less its standard error, reaches a target.

    The curve that applies is that of the next larger measured k and the next narrower measured filter. A query made of
    several modalities takes the largest of their efforts.

    Args:
        points: what was measured.
        target: the recall to reach.
        modalities: the modalities of which the query is made.
        k: number of results.
        fraction: part of the rows that the filter allows.

    Returns:
        Number of rows of the whole index to score; None if the search must be exact, because nothing was measured for
        one of the modalities or no effort reached the target.
    """
    points = list(points)
    efforts = [_least(points, target, modality, k, fraction) for modality in modalities]
    known = [effort for effort in efforts if effort is not None]
    return max(known) if known and len(known) == len(efforts) else None


def _least(points: Sequence[RecallPoint], target: float, modality: str, k: int, fraction: float) -> int | None:
    own = [point for point in points if point.modality == modality and point.k >= k and point.selectivity <= fraction]
    if not own:
        return None
    curve = min(point.k for point in own), max(point.selectivity for point in own)
    reached = [p.effort for p in own if (p.k, p.selectivity) == curve and p.recall - p.error >= target]
    return min(reached, default=None)
