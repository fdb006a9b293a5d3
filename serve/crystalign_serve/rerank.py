"""Rerank the candidates of an embedding search by how well their computed patterns match the measured one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from crystalign.index.fusion import reciprocal_rank_fusion
from crystalign.modalities.query import resolved
from crystalign_serve.backend import IndexAnswer
from crystalign_serve.query_fields import spec_of


class Reranked(NamedTuple):
    """A reranked search result."""

    answer: IndexAnswer
    """The candidates in the new order. Scores are those of the profile match; 0 for a candidate without a pattern."""
    matches: list[dict[str, Any] | None]
    """For each candidate, the strain of the best match and the cosine similarity of the embeddings."""


def rerank_by_match(modality: str, query: Any, answer: IndexAnswer, stored: Sequence[Any], k: int) -> Reranked:
    """Rank candidates by reciprocal rank fusion of the embedding score and the score of the modality's matcher.

    The matcher of powder patterns is `ProfileMatcher`: a cosine similarity, maximised over strain. The two
    rankings fail on different patterns: peak matching fails for distorted cells, the embedding for similar
    structures. Ties are broken by the match score.

    Args:
        modality: modality whose matcher is used.
        query: value of the query.
        answer: candidates of the embedding search.
        stored: value of each candidate, or None.
        k: number of results.

    Raises:
        SpectrumError: the measured range is too short to compare.
    """
    spec = spec_of(modality)
    assert spec is not None
    assert spec.matcher is not None
    matcher = resolved(spec.matcher)()
    profile, covered = matcher.measured(query)
    scores, strains = np.full(len(stored), -np.inf), np.zeros(len(stored))
    with_value = [number for number, value in enumerate(stored) if value is not None]
    if with_value:
        profiles = matcher.profiles([value for value in stored if value is not None])
        scores[with_value], strains[with_value] = matcher.match(profile, covered, profiles)
    fused = reciprocal_rank_fusion(answer.scores, scores)
    order = np.lexsort((-scores, -fused))[:k].tolist()
    matches = [
        None if stored[i] is None else {"strain": round(float(strains[i]), 4), "embedding_score": answer.scores[i]}
        for i in order
    ]
    best = answer._replace(
        scores=[max(float(scores[i]), 0.0) for i in order], records=[answer.records[i] for i in order]
    )
    return Reranked(best, matches)
