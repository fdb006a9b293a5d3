"""The second look: candidates of an embedding, ordered also by how their computed pattern fits the measured one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crystalign.index.fusion import reciprocal_rank_fusion
from crystalign.physics.profile_match import ProfileMatcher
from crystalign_serve.backend import Answer

if TYPE_CHECKING:
    from crystalign.modalities.xrd import MeasuredPattern
    from crystalign.physics.diffraction import PowderPattern


class Reordered(NamedTuple):
    """An answer in its new order."""

    answer: Answer
    """Scores are those of the profile match; 0 where a candidate has no pattern."""
    matches: list[dict[str, Any] | None]
    """Of each record: the strain at which it fits, and the cosine of the embedding."""


def by_profile(
    measured: MeasuredPattern, answer: Answer, patterns: Sequence[PowderPattern | None], k: int
) -> Reordered:
    """Order candidates by both ranks, of the embedding and of the strain-scanned cosine of `ProfileMatcher`.

    The two err on different patterns: a match of peaks is misled where a cell is distorted, an
    embedding where structures are alike, and `reciprocal_rank_fusion` puts first what both like. Of
    equals, such as a first and a second place and a second and a first, the better match comes first.

    Args:
        measured: the query.
        answer: candidates of the embedding.
        patterns: of each candidate.
        k: how many are returned.

    Raises:
        SpectrumError: the measurement covers too little to be compared.
    """
    matcher = ProfileMatcher()
    profile, covered = matcher.measured(measured)
    scores, strains = np.full(len(patterns), -np.inf), np.zeros(len(patterns))
    known = [number for number, pattern in enumerate(patterns) if pattern is not None]
    if known:
        drawn = matcher.profiles([pattern for pattern in patterns if pattern is not None])
        scores[known], strains[known] = matcher.match(profile, covered, drawn)
    fused = reciprocal_rank_fusion(answer.scores, scores)
    order = np.lexsort((-scores, -fused))[:k].tolist()
    matches = [
        None if patterns[i] is None else {"strain": round(float(strains[i]), 4), "embedding_score": answer.scores[i]}
        for i in order
    ]
    best = answer._replace(
        scores=[max(float(scores[i]), 0.0) for i in order], records=[answer.records[i] for i in order]
    )
    return Reordered(best, matches)
