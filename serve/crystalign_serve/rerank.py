"""The second look: candidates of an embedding, ordered also by how their computed pattern fits the measured one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from crystalign.index.fusion import reciprocal_rank_fusion
from crystalign.modalities.query import resolved
from crystalign_serve.backend import Answer
from crystalign_serve.query_fields import spec_of


class Reordered(NamedTuple):
    """An answer in its new order."""

    answer: Answer
    """Scores are those of the profile match; 0 where a candidate has no pattern."""
    matches: list[dict[str, Any] | None]
    """Of each record: the strain at which it fits, and the cosine of the embedding."""


def by_match(modality: str, asked: Any, answer: Answer, stored: Sequence[Any], k: int) -> Reordered:
    """Order candidates by both ranks, of the embedding and of the modality's matcher.

    Of powder patterns that is the strain-scanned cosine of `ProfileMatcher`.

    The two err on different patterns: a match of peaks is misled where a cell is distorted, an
    embedding where structures are alike, and `reciprocal_rank_fusion` puts first what both like. Of
    equals, such as a first and a second place and a second and a first, the better match comes first.

    Args:
        modality: whose matcher is used.
        asked: value of the query.
        answer: candidates of the embedding.
        stored: value of each candidate, or None.
        k: how many are returned.

    Raises:
        SpectrumError: the measurement covers too little to be compared.
    """
    spec = spec_of(modality)
    assert spec is not None
    assert spec.matcher is not None
    matcher = resolved(spec.matcher)()
    profile, covered = matcher.measured(asked)
    scores, strains = np.full(len(stored), -np.inf), np.zeros(len(stored))
    known = [number for number, value in enumerate(stored) if value is not None]
    if known:
        drawn = matcher.profiles([value for value in stored if value is not None])
        scores[known], strains[known] = matcher.match(profile, covered, drawn)
    fused = reciprocal_rank_fusion(answer.scores, scores)
    order = np.lexsort((-scores, -fused))[:k].tolist()
    matches = [
        None if stored[i] is None else {"strain": round(float(strains[i]), 4), "embedding_score": answer.scores[i]}
        for i in order
    ]
    best = answer._replace(
        scores=[max(float(scores[i]), 0.0) for i in order], records=[answer.records[i] for i in order]
    )
    return Reordered(best, matches)
