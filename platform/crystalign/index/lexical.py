"""Search by words: BM25 over the texts of the rows, stored beside the vectors of each segment.

The score of a text d for the query words t is

    s(d) = Σ_t idf(t) · (k₁ + 1) n_td / (k₁ + n_td),    idf(t) = ln(1 + (N − n_t + ½) / (n_t + ½))

with n_td the number of times that t occurs in d, N the number of texts of the whole index, and n_t how many of them
hold t (Robertson & Zaragoza, Found. Trends Inf. Retr. 3, 333 (2009), with b = 0: captions are of similar length). The
statistics N and n_t belong to the index, not to a segment, so that the order of results does not depend on how many
segments there are. The usual libraries weigh words by the statistics of one segment, which is why the sum is ours.
"""

from __future__ import annotations

import functools
import io
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from crystalign.config import Config

WORDS = "words.npz"
"""Name of the file of a segment's word counts."""
K1 = 1.2
"""How quickly the score saturates when a word is repeated."""
MAX_QUERY_WORDS = 32
"""Number of different words of a query that count; the rest is ignored."""
SHORTEST = 3
"""Shorter words are left out: they are symbols of elements and glue."""
_MOST = 255
_WORD = re.compile(r"(?<![^\W_])[^\W\d_]+(?![^\W_])")
_AMERICAN = (
    ("sulph", "sulf"),
    ("aluminium", "aluminum"),
    ("caesium", "cesium"),
    ("centred", "centered"),
    ("grey", "gray"),
    ("haem", "hem"),
)
_CACHED_WORDS = 100_000


def words_of(text: str) -> list[str]:
    """The words of a text as they are indexed: lower case, American spelling, reduced to their stems.

    Numbers, formulas with digits and words of fewer than three letters are left out.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [_stem(word) for word in _WORD.findall(folded) if len(word) >= SHORTEST]


class Lexicon(Config):
    """How many texts of an index hold each word."""

    texts: int
    """Number of texts N."""
    holding: dict[str, int]
    """Word → number of texts n_t that hold it."""

    @classmethod
    def load(cls, data: bytes) -> Self:
        """Read what `save` wrote."""
        return cls.from_mapping(json.loads(data), origin="the lexicon of the index")

    def save(self) -> bytes:
        """The statistics as JSON."""
        return self.model_dump_json().encode()

    def weights(self, text: str) -> dict[str, float]:
        """Word of the query → idf, for the words that occur in the index; at most `MAX_QUERY_WORDS`."""
        indexed = [word for word in dict.fromkeys(words_of(text)) if word in self.holding]
        return {word: self._idf(self.holding[word]) for word in indexed[:MAX_QUERY_WORDS]}

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of a query, as typed, that no text of the index holds; at most `MAX_QUERY_WORDS`."""
        typed = _WORD.findall(unicodedata.normalize("NFKC", text))
        long = [word for word in dict.fromkeys(typed) if len(word.casefold()) >= SHORTEST]
        return tuple(word for word in long if _stem(word.casefold()) not in self.holding)[:MAX_QUERY_WORDS]

    @property
    def rarest(self) -> float:
        """The idf of a word that no text holds, the largest that there is."""
        return self._idf(0)

    def _idf(self, holding: int) -> float:
        return math.log1p((self.texts - holding + 0.5) / (holding + 0.5))


class WordCounts(NamedTuple):
    """Which rows of a segment hold each word, and how often."""

    words: Sequence[str]
    """The W words, in alphabetical order."""
    starts: NDArray[np.int64]
    """(W + 1,) the entries of word w are `starts[w]` to `starts[w + 1]`."""
    rows: NDArray[np.int32]
    """(E,) row of each entry, ascending within a word."""
    counts: NDArray[np.uint8]
    """(E,) how often the row holds the word, at most 255."""
    texts: int
    """Number of rows that have a text."""

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> Self:
        """Count the words of texts, one per row; None for a row without a text."""
        entries: dict[str, list[tuple[int, int]]] = {}
        for row, text in enumerate(texts):
            for word, count in Counter(words_of(text or "")).items():
                entries.setdefault(word, []).append((row, min(count, _MOST)))
        words = sorted(entries)
        starts = np.cumsum([0, *(len(entries[word]) for word in words)], dtype=np.int64)
        flat = np.array([pair for word in words for pair in entries[word]], np.int64).reshape(-1, 2)
        present = sum(text is not None for text in texts)
        return cls(words, starts, flat[:, 0].astype(np.int32), flat[:, 1].astype(np.uint8), present)

    def kept(self, keep: NDArray[np.bool_]) -> Self:
        """The counts of some rows, renumbered. A text without any indexed word counts as kept.

        Args:
            keep: (n,) which rows.
        """
        entries = keep[self.rows]
        held = np.add.reduceat(entries.astype(np.int64), self.starts[:-1]) if len(self.words) else np.empty(0, int)
        used = np.flatnonzero(held)
        starts = np.cumsum([0, *held[used].tolist()], dtype=np.int64)
        number = (np.cumsum(keep) - 1).astype(np.int32)
        words = [self.words[place] for place in used.tolist()]
        gone = len(np.unique(self.rows[~entries]))
        texts = self.texts - gone if keep.any() else 0
        return type(self)(words, starts, number[self.rows[entries]], self.counts[entries], texts)

    @classmethod
    def joined(cls, parts: Sequence[tuple[Self, int]]) -> Self:
        """The counts of one table that holds the rows of several tables, in order.

        Args:
            parts: the counts and the number of rows of each.
        """
        entries: dict[str, list[tuple[NDArray[np.int32], NDArray[np.uint8]]]] = {}
        first = 0
        for counts, rows in parts:
            for number, word in enumerate(counts.words):
                place = slice(*counts.starts[number : number + 2].tolist())
                entries.setdefault(word, []).append((counts.rows[place] + np.int32(first), counts.counts[place]))
            first += rows
        words = sorted(entries)
        pairs = [pair for word in words for pair in entries[word]]
        sizes = [sum(len(rows) for rows, _ in entries[word]) for word in words]
        empty = (np.empty(0, np.int32), np.empty(0, np.uint8))
        all_rows, all_counts = (np.concatenate(arrays) for arrays in zip(empty, *pairs, strict=True))
        starts, texts = np.cumsum([0, *sizes], dtype=np.int64), sum(counts.texts for counts, _ in parts)
        return cls(words, starts, all_rows, all_counts, texts)

    @classmethod
    def load(cls, data: bytes) -> Self:
        """Read what `save` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            words = bytes(arrays["words"]).decode().split("\n") if len(arrays["words"]) else []
            return cls(words, arrays["starts"], arrays["rows"], arrays["counts"], int(arrays["texts"]))

    @property
    def holding(self) -> dict[str, int]:
        """Word → number of rows that hold it."""
        return dict(zip(self.words, np.diff(self.starts).tolist(), strict=True))

    def save(self) -> bytes:
        """The counts as a NumPy archive."""
        sink = io.BytesIO()
        arrays: dict[str, Any] = {
            "words": np.frombuffer("\n".join(self.words).encode(), np.uint8),
            "starts": self.starts,
            "rows": self.rows,
            "counts": self.counts,
            "texts": np.array(self.texts),
        }
        np.savez_compressed(sink, **arrays)
        return sink.getvalue()


class LexiconBuilder:
    """Adds up the word counts of the segments of an index."""

    def __init__(self, lexicon: Lexicon | None = None) -> None:
        self.texts = 0 if lexicon is None else lexicon.texts
        self._holding: Counter[str] = Counter({} if lexicon is None else lexicon.holding)

    def add(self, counts: WordCounts) -> None:
        """Add a segment."""
        self.texts += counts.texts
        self._holding.update(counts.holding)

    def subtract(self, before: WordCounts, after: WordCounts) -> None:
        """Replace the counts of a segment by those of the rows that remain."""
        self.texts += after.texts - before.texts
        self._holding.subtract(before.holding)
        self._holding.update(after.holding)

    def lexicon(self) -> Lexicon:
        """The statistics of all segments together."""
        held = {word: count for word, count in sorted(self._holding.items()) if count}
        return Lexicon(texts=self.texts, holding=held)


class LexicalIndex:
    """The words of one or several segment files, whose rows follow one another.

    Args:
        parts: word counts and number of rows of each segment file.
    """

    def __init__(self, parts: Sequence[tuple[WordCounts, int]]) -> None:
        self._parts = [(counts, {word: n for n, word in enumerate(counts.words)}, rows) for counts, rows in parts]

    def scores(self, weights: Mapping[str, float]) -> NDArray[np.float64]:
        """(n,) score of each row; 0 for rows that hold none of the words.

        Args:
            weights: word of the query → idf, from `Lexicon.weights`.
        """
        return np.concatenate([_scores(counts, position, rows, weights) for counts, position, rows in self._parts])


def _scores(
    counts: WordCounts, position: Mapping[str, int], rows: int, weights: Mapping[str, float]
) -> NDArray[np.float64]:
    scores = np.zeros(rows)
    for word, idf in weights.items():
        if word in position:
            entries = slice(*counts.starts[position[word] : position[word] + 2].tolist())
            n = counts.counts[entries].astype(np.float64)
            scores[counts.rows[entries]] += idf * (K1 + 1) * n / (K1 + n)
    return scores


@functools.lru_cache(_CACHED_WORDS)
def _stem(word: str) -> str:
    for british, american in _AMERICAN:
        word = word.replace(british, american)
    return str(_stemmer().stemWord(word))


@functools.cache
def _stemmer() -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer("english")
