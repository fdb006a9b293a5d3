"""How sure an answer is: the signals of an answer, and what the service says of it.

The probability that an answer is right follows from its signals by the calibration of the index
(`crystalign.index.calibration`). If the modality of the query is not calibrated, nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from crystalign.index.calibration import FIRST, Calibration, level_of
from crystalign.index.lexical import Lexicon
from crystalign.text_query.chips import Understanding
from crystalign_serve.backend import IndexAnswer

SHOWN_WORDS = 8
"""Largest number of unknown words in the sentence of a weak answer."""


class Words(NamedTuple):
    """What became of the typed words of a query."""

    understood: float
    """Weight of the words that became conditions, if the first result satisfies these."""
    total: float
    """Weight of all typed words."""
    found: float
    """Weight of the words that are understood, or that one text of the first tier holds."""
    unknown: tuple[str, ...]
    """Words, as typed, that are neither understood nor in any text of the index."""


def words_of_query(
    understood: Understanding | None, compared: str, lexicon: Lexicon | None, best: IndexAnswer, tiers: Sequence[int]
) -> Words:
    """Weigh the typed words by how rare they are in the index.

    The weight of a word is its inverse document frequency. Words that became conditions, and words that no text holds,
    weigh as much as the rarest word. Numbers, formulas with digits and words of one or two letters weigh nothing unless
    they are understood.

    Args:
        understood: conditions; None for a literal search.
        compared: the words that are compared with texts.
        lexicon: words of the index; without one, all words weigh the same and none is known.
        best: the results.
        tiers: tier of each result.
    """
    known = {} if lexicon is None else lexicon.weights(compared)
    unknown = (lexicon or Lexicon(texts=0, holding={})).unknown(compared)
    rarest = 1.0 if lexicon is None else lexicon.rarest
    chips = () if understood is None else understood.chips
    held = rarest * sum(len(chip.words.split()) for chip in chips if chip.strict or _holds_loose(understood, tiers))
    typed = rarest * (sum(len(chip.words.split()) for chip in chips) + len(unknown)) + sum(known.values())
    return Words(held, typed, held + min(best.words_score, sum(known.values())), unknown)


def _holds_loose(understood: Understanding | None, tiers: Sequence[int]) -> bool:
    """Whether the first result satisfies the conditions that only order the results: its tier is not the last."""
    return understood is not None and bool(tiers) and tiers[0] < len(understood.tiers()) - 1


def signals_of(best: IndexAnswer, matches: Sequence[dict[str, Any] | None], words: Words | None) -> dict[str, float]:
    """The signals of an answer; none if there are no results. More of each makes an answer more sure.

    - `cosine`: largest cosine similarity of the embeddings among the first ten results
    - `match`: largest score of the pattern match among them, if they were reranked
    - `found`: share of the weight of the typed words that are understood, or that a text holds
    - `understood`: share of the words of conditions that the first result satisfies
    """
    if not best.scores:
        return {}
    first = list(zip(best.scores, matches, strict=True))[:FIRST]
    signals = {"cosine": max(score if match is None else match["embedding_score"] for score, match in first)}
    if any(match is not None for match in matches):
        signals["match"] = max(score for score, match in first if match is not None)
    if words is not None:
        total = words.total or 1.0
        signals |= {"found": words.found / total, "understood": words.understood / total}
    return signals


def confidence(
    calibration: Calibration | None,
    modality: str,
    signals: dict[str, float],
    words: Words | None,
    understood: Understanding | None,
    *,
    earlier: bool = False,
) -> dict[str, Any] | None:
    """`query.confidence` of a response; None if the index is not calibrated for queries of this modality.

    Args:
        calibration: of the index.
        modality: modality of the query.
        signals: of the answer.
        words: what became of typed words; None for a query without words.
        understood: conditions.
        earlier: whether the calibration was measured on an earlier version of the index.
    """
    if calibration is None:
        return None
    probability = calibration.probability(modality, signals)
    if probability is None:
        return None
    level = level_of(probability)
    unknown = [] if words is None else list(words.unknown)
    text = _sentence(level, probability, unknown, None if words is None else understood)
    if earlier:
        text += " This estimate was made before rows of the index changed."
    return {"probability": round(probability, 3), "level": level, "text": text, "unknown_words": unknown}


def _sentence(level: str, probability: float, unknown: Sequence[str], understood: Understanding | None) -> str:
    share = f"estimated chance that the first results fit: {100 * probability:.0f} %"
    begins = {
        "low": f"Nothing in this index seems to match well ({share}).",
        "medium": f"The first results may not be what is asked for ({share}).",
        "high": f"The first results probably fit ({share}).",
    }
    sentences = [begins[level]]
    if understood is not None and level != "high":
        labels = "; ".join(chip.label for chip in understood.chips)
        sentences.append(f"Understood: {labels}." if labels else "No condition was understood.")
    if unknown and level != "high":
        more = f" and {len(unknown) - SHOWN_WORDS} more" if len(unknown) > SHOWN_WORDS else ""
        listed = ", ".join(f"“{word}”" for word in unknown[:SHOWN_WORDS])
        sentences.append(f"No description in the index has {listed}{more}.")
    return " ".join(sentences)
