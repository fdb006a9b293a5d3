"""Search by words: BM25 from its definition, the same order for every number of segments, filters before the search."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from both_ways import selected
from crystalign.index.filters import make_fields
from crystalign.index.lexical import K1, MAX_QUERY_WORDS, LexicalIndex, Lexicon, LexiconBuilder, WordCounts, words_of
from crystalign.index.search import Segment, merge

WORDS = [
    "layered",
    "oxide",
    "of",
    "lithium",
    "and",
    "cobalt",
    "octahedral",
    "quartz",
    "rutile",
    "sulfide",
    "tetrahedral",
    "silicon",
    "chain",
    "cubic",
]


def make_texts(n: int) -> list[str | None]:
    rng = np.random.default_rng(5)
    draw = [" ".join(rng.choice(WORDS, int(rng.integers(1, 12)))) for _ in range(n)]
    return [None if number % 11 == 0 else text for number, text in enumerate(draw)]


def lexicon_of(*parts: WordCounts) -> Lexicon:
    builder = LexiconBuilder()
    for part in parts:
        builder.add(part)
    return builder.lexicon()


def bm25(texts: list[str | None], query: str) -> list[float]:
    """The formula of the module, from counts in plain Python."""
    counts = [Counter(words_of(text or "")) for text in texts]
    total = sum(text is not None for text in texts)
    scores = [0.0] * len(texts)
    for word in dict.fromkeys(words_of(query)):
        holding = sum(word in count for count in counts)
        if holding:
            idf = math.log(1 + (total - holding + 0.5) / (holding + 0.5))
            scores = [s + idf * (K1 + 1) * c[word] / (K1 + c[word]) for s, c in zip(scores, counts, strict=True)]
    return scores


@pytest.mark.parametrize("query", ["layered oxide", "quartz quartz rutile", "Layers of OXIDES", "nothing known here"])
def test_scores_are_those_of_the_definition(query):
    texts = make_texts(300)
    counts = WordCounts.load(WordCounts.of(texts).save())
    lexicon = Lexicon.load(lexicon_of(counts).save())
    scores = LexicalIndex([(counts, len(texts))]).scores(lexicon.weights(query))
    np.testing.assert_allclose(scores, bm25(texts, query), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Sulphides, sulfide", ["sulfid", "sulfid"]),
        ("aluminium ALUMINUM", ["aluminum", "aluminum"]),
        ("LiCoO2 has 2 layers", ["has", "layer"]),
        ("Na is bonded to 6 Cl (2.82 Å)", ["bond"]),
        ("corner-sharing octahedra", ["corner", "share", "octahedra"]),
        ("\x00 ☃ ... 12", []),
    ],
)
def test_words_are_folded_and_stemmed_and_numbers_and_symbols_left_out(text, words):
    assert words_of(text) == words


def test_a_query_of_many_words_is_cut():
    texts = [" ".join(f"{a}{b}c" for a in "abcdefgh" for b in "klmnopqrst")]
    lexicon = lexicon_of(WordCounts.of(texts))
    assert len(lexicon.weights(texts[0])) == MAX_QUERY_WORDS < len(lexicon.holding)


def segment_of(rows, texts, places):
    counts = WordCounts.of([texts[i] for i in places])
    table = rows.table.take(pa.array(places))
    return Segment(table, rows.vectors[places], rows.properties, words=[(counts, len(places))]), counts


def test_the_order_does_not_depend_on_the_number_of_segments(make):
    rows, texts = make(400, seed=3), make_texts(400)
    query = rows.vectors[7].astype(np.float32)
    whole, counts = segment_of(rows, texts, np.arange(400))
    weights = lexicon_of(counts).weights("layered lithium oxide quartz")
    expected = whole.search_words(weights, query, 25)
    assert len(expected.ids) == 25
    for pieces in (2, 7):
        cut = np.array_split(np.random.default_rng(0).permutation(400), pieces)
        segments = [segment_of(rows, texts, places) for places in cut]
        assert lexicon_of(*(c for _, c in segments)) == lexicon_of(counts)
        merged = merge([one.search_words(weights, query, 25) for one, _ in segments], 25)
        assert merged.ids == expected.ids
        np.testing.assert_array_equal(merged.scores, expected.scores)
        np.testing.assert_array_equal(merged.similarities, expected.similarities)


def test_equal_scores_are_ordered_by_similarity_and_the_filter_comes_first(make):
    rows = make(200, seed=4)
    texts = ["quartz" if i % 2 else "rutile" for i in range(200)]
    segment, counts = segment_of(rows, texts, np.arange(200))
    query = rows.vectors[0].astype(np.float32)
    found = segment.search_words(lexicon_of(counts).weights("quartz"), query, 10, 'elements HAS "O"')
    allowed = [i for i in range(200) if i % 2 and "O" in rows.elements[i]]
    similar = np.round((rows.vectors.astype(np.float64) @ query.astype(np.float64)), 7)
    best = sorted(allowed, key=lambda i: (-similar[i], rows.ids[i]))[:10]
    assert found.ids == [rows.ids[i] for i in best]
    assert found.allowed == sum("O" in e for e in rows.elements)


def test_a_segment_without_texts_and_an_unknown_word_find_nothing(make):
    rows = make(20)
    query = rows.vectors[0].astype(np.float32)
    assert rows.segment().search_words({"quartz": 1.0}, query, 5).ids == []
    segment, _ = segment_of(rows, ["rutile"] * 20, np.arange(20))
    assert segment.search_words({"quartz": 1.0}, query, 5).ids == []


KEYWORDS = [";class:oxide;type:rutile;", ";class:oxide;type:rutile-like;", ";class:sulfide;", None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('_crystalign_keywords HAS "type:rutile"', [True, False, False, False]),
        ('_crystalign_keywords HAS ANY "type:rutile","class:sulfide"', [True, False, True, False]),
        ('_crystalign_keywords HAS ALL "class:oxide","type:rutile-like"', [False, True, False, False]),
        ('NOT _crystalign_keywords HAS "class:oxide"', [False, False, True, False]),
        ("_crystalign_keywords IS UNKNOWN", [False, False, False, True]),
        ("_crystalign_density>4", [True, False, False, False]),
    ],
)
def test_keywords_are_compared_whole(text, expected):
    table = pa.table({"keywords": KEYWORDS, "density": [5.0, 3.0, None, None]})
    assert selected(table, text, make_fields((), has_facts=True)).tolist() == expected
