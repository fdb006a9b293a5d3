"""The signals of an answer: what became of the typed words, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from crystalign.index.filters import make_fields
from crystalign.index.lexical import Lexicon
from crystalign.text_query.understanding import understand
from crystalign_serve.backend import IndexAnswer
from crystalign_serve.confidence import signals_of, words_of_query
from crystalign_serve.tiers import together

LEXICON = Lexicon(texts=100, holding={"layer": 20, "octahedr": 50, "oxid": 60})
FIELDS = make_fields((), has_facts=True)


def best(scores: list[float], words_score: float = 0.0) -> IndexAnswer:
    return IndexAnswer(scores, [{} for _ in scores], 9, 1, 1, words_score)


def read(text: str, tiers: list[int], words_score: float = 0.0, lexicon: Lexicon | None = LEXICON) -> Any:
    understood = together([understand(text, FIELDS)])
    assert understood is not None
    return words_of_query(understood, understood.rest, lexicon, best([0.5], words_score), tiers)


def test_words_of_conditions_weigh_as_much_as_the_rarest_word():
    words = read("sodium chloride", [0])
    assert words.unknown == ()
    assert words.understood == words.found == words.total == pytest.approx(2 * LEXICON.rarest)


def test_unknown_words_count_as_not_found_and_are_named_as_typed():
    words = read("sodium chloride Soup und 3.5 q7", [0])
    assert words.unknown == ("Soup", "und")
    assert words.total == pytest.approx(4 * LEXICON.rarest)
    assert words.found == pytest.approx(2 * LEXICON.rarest)


def test_known_words_count_as_found_as_far_as_one_text_holds_them():
    idf = LEXICON.weights("octahedral oxide")
    both = words_of_query(None, "octahedral oxides", LEXICON, best([0.5], sum(idf.values())), [])
    assert both.found == both.total == pytest.approx(sum(idf.values()))
    one = words_of_query(None, "octahedral oxides", LEXICON, best([0.5], idf["oxid"]), [])
    assert one.found == pytest.approx(idf["oxid"])
    repeated = words_of_query(None, "octahedral oxides", LEXICON, best([0.5], 99.0), [])
    assert repeated.found == pytest.approx(sum(idf.values()))  # a text may repeat a word


def test_a_formula_counts_as_understood_only_if_the_first_result_has_it():
    understood = understand("NaCl", FIELDS)
    last = len(understood.tiers()) - 1
    assert read("NaCl", [0]).understood > 0
    assert read("NaCl", [last]).understood == 0
    assert read("NaCl", [last]).total == read("NaCl", [0]).total


def test_without_a_lexicon_words_weigh_the_same_and_none_is_known():
    words = read("sodium chloride layered octahedral soup", [0], lexicon=None)
    assert words.unknown == ("octahedral", "soup")
    assert (words.found, words.total) == (3.0, 5.0)


def test_signals_are_those_of_the_first_ten_results():
    assert signals_of(best([]), [], None) == {}
    scores = [0.1, 0.7] + [0.2] * 8 + [0.9]
    assert signals_of(best(scores), [None] * 11, None) == {"cosine": 0.7}
    matches = [{"embedding_score": 0.3, "strain": 0.0}, None]
    assert signals_of(best([0.8, 0.4]), matches, None) == {"cosine": 0.4, "match": 0.8}


def test_a_text_without_words_has_nothing_found():
    words = words_of_query(None, "!!! 42", LEXICON, best([0.5]), [])
    assert signals_of(best([0.5]), [None], words) == {"cosine": 0.5, "found": 0.0, "understood": 0.0}
