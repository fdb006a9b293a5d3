"""Searches in tiers: rows that satisfy everything that was understood of the typed words come first."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from crystalign.errors import QueryError
from crystalign.index.filters import Fields, compile_filter
from crystalign.text_query.chips import Understanding
from crystalign_serve.backend import Backend, IndexAnswer, IndexSearch


class TieredAnswer(NamedTuple):
    """Result of a search in tiers."""

    answer: IndexAnswer
    """The best rows: those of the first tier, then those of the second that are not among them, and so on."""
    tiers: list[int]
    """For each row, the number of its tier, from 0."""


def together(parts: Sequence[Understanding | None]) -> Understanding | None:
    """Join what was understood of the parts of a query; None if no part was interpreted."""
    understood = [part for part in parts if part is not None]
    if not understood:
        return None
    return Understanding(
        text=" ".join(one.text for one in understood),
        chips=tuple(chip for one in understood for chip in one.chips),
        rest=" ".join(one.rest for one in understood if one.rest),
        notes=tuple(note for one in understood for note in one.notes),
    )


def filters_of(understood: Understanding | None, filter_text: str | None, fields: Fields) -> list[str | None]:
    """The filter of each tier: what the user filters by, and what was understood.

    Raises:
        QueryError: both together exceed the limits of a filter.
    """
    if understood is None:
        return [filter_text]
    filters = [" AND ".join(f"({part})" for part in (filter_text, tier) if part) or None for tier in understood.tiers()]
    try:
        for text in filters:
            if text is not None:
                compile_filter(text, fields)
    except QueryError as error:
        raise QueryError(
            f"the filter cannot be combined with what was understood of the words: {error}; shorten either of them, or "
            "search with literal",
            reason=error.reason,
        ) from error
    return filters


def tier_searches(search: IndexSearch, filters: Sequence[str | None]) -> tuple[IndexSearch, ...]:
    """One search for each tier.

    Args:
        search: the search; its filter is not used.
        filters: one per tier, each satisfied by the rows of those before it.
    """
    return tuple(search._replace(k=search.k * (n + 1), filter_text=text) for n, text in enumerate(filters))


def merge_tiers(answers: Sequence[IndexAnswer], k: int) -> TieredAnswer:
    """The k best rows, those of the first tier first; within a tier by vector and words.

    Args:
        answers: to the searches of `tier_searches`.
        k: number of rows.
    """
    rows: dict[str, tuple[float, dict[str, Any], int]] = {}
    for tier, answer in enumerate(answers):
        for score, record in zip(answer.scores, answer.records, strict=True):
            rows.setdefault(record["id"], (score, record, tier))
    best = list(rows.values())[:k]
    last = min(answers, key=lambda answer: answer.shards_ok)
    scores, records = [score for score, _, _ in best], [record for _, record, _ in best]
    tiers = [tier for _, _, tier in best]
    words_score = answers[tiers[0]].words_score if tiers else 0.0
    merged = IndexAnswer(scores, records, answers[-1].allowed, last.shards_ok, last.shards_total, words_score)
    return TieredAnswer(merged, tiers)


async def why_empty(backend: Backend, understood: Understanding, filter_text: str | None) -> str:
    """A sentence that says how many rows satisfy each chip alone, for a search without results."""
    conditions = [(chip.label, chip.filter) for chip in understood.chips if chip.strict]
    conditions += [("your filter", filter_text)] if filter_text else []
    rows = await asyncio.gather(*(backend.count(text) for _, text in conditions))
    counts = [f"{label} ({count:,} rows)" for (label, _), count in zip(conditions, rows, strict=True)]
    return f"no row satisfies all of: {'; '.join(counts)}. Remove one of them"


def described(understood: Understanding) -> dict[str, Any]:
    """What was understood, as JSON: `query.understood` of a response."""
    return {
        "chips": [dataclasses.asdict(chip) for chip in understood.chips],
        "rest": understood.rest,
        "notes": list(understood.notes),
    }
