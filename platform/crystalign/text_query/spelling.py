"""Misspelled words of a query: `pervoskite`, `galium`, `flourite` are read as the known word one edit away."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from crystalign.text_query.lexicon import CONTAINING, GLUE, NEGATIONS, ONLY, TYPE_WORDS, lexicon
from crystalign.text_query.property_words import quantity_names
from crystalign.text_query.words import MAX_WORD, Words, fold, singulars

SHORTEST = 6
"""Fewest letters of a word that is corrected; shorter words are too often other words."""

_RIGHT = """bismide caloric carbonated ferroic germanane ionized magneto networked nitrido organize organizes oxyanion
photocatalysis silicane solver solvers triton"""
"""Words that are no misspellings although a known word is one edit away."""


def corrected(words: Words) -> Words:
    """The words, with `folded` set to the word that is meant where exactly one known word is one edit away.

    An edit inserts, deletes or replaces a letter, or exchanges two neighbours (Damerau, Commun. ACM 7, 171 (1964)).
    The first letter must agree. Known words and parts of known phrases are never changed.
    """
    right = (w._replace(folded=_correct(w.folded)) if _may_err(w.text) else w for w in words.words)
    return words._replace(words=tuple(right))


def remarks(words: Words, first: int, last: int) -> str:
    """`'galium' is read as gallium`, for the words from `first` to before `last`."""
    changed = [word for word in words.words[first:last] if word.folded != fold(word.text)]
    return "; ".join(f"{word.text!r} is read as {word.folded}" for word in changed)


def _may_err(text: str) -> bool:
    return SHORTEST <= len(text) <= MAX_WORD and text.isalpha() and text[1:].islower()


@functools.lru_cache(maxsize=4096)
def _correct(word: str) -> str:
    if any(one in _known() for one in singulars(word)):
        return word
    for one in singulars(word):
        found = {target for key in _deletions(one) for target in _targets().get(key, ()) if _is_near(one, target)}
        if len(found) == 1:
            return next(iter(found)) + ("s" if one != word else "")
    return word


@functools.cache
def _known() -> str:
    """All known words and phrases in one text: a word that occurs in it is part of one."""
    tables = lexicon()
    phrases = {*tables.elements, *tables.anions, *tables.meanings, *tables.silent, *quantity_names()}
    return "\n".join(phrases | GLUE | NEGATIONS | TYPE_WORDS | CONTAINING | ONLY | set(_RIGHT.split()))


@functools.cache
def _targets() -> dict[str, tuple[str, ...]]:
    """A known word without one of its letters, or whole → the words it may be."""
    tables = lexicon()
    found: dict[str, set[str]] = {}
    for word in {*tables.elements, *tables.anions, *tables.meanings}:
        if len(word) >= SHORTEST and word.isalpha():
            for key in _deletions(word):
                found.setdefault(key, set()).add(word)
    return {key: tuple(sorted(words)) for key, words in found.items()}


def _deletions(word: str) -> Iterator[str]:
    yield word
    yield from {word[:i] + word[i + 1 :] for i in range(len(word))}


def _is_near(typed: str, word: str) -> bool:
    """Whether one edit behind the first letter turns `typed` into `word`."""
    if typed[0] != word[0] or abs(len(typed) - len(word)) > 1:
        return False
    at = next((i for i, (a, b) in enumerate(zip(typed, word, strict=False)) if a != b), min(len(typed), len(word)))
    if len(typed) != len(word):
        longer, shorter = sorted((typed, word), key=len, reverse=True)
        return longer[at + 1 :] == shorter[at:]
    exchanged = typed[at : at + 2] == word[at : at + 2][::-1] and typed[at + 2 :] == word[at + 2 :]
    return exchanged or typed[at + 1 :] == word[at + 1 :]
