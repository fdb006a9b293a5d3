"""Words of a query: their places in the text, and a folded form in which spellings and plurals agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from crystalign.text.typography import plain

MAX_WORDS = 500
"""Largest number of words that are parsed; the rest of a longer query is compared as text."""
MAX_CHARACTERS = 4000
"""Largest number of characters that are parsed; the rest of a longer query is compared as text."""
MAX_WORD = 40
"""Longest word that is looked up, in characters."""

_PIECE = re.compile(r"\d+(?:\.\d+)?(?![^\W_]|\.\d)|[^\W_]+|[<>≤≥=≈~]=?|[#№*]")
_BREAK = re.compile(r"[,;:!?|\n]|\.\s")
_SPELLINGS = (
    ("sulph", "sulf"),
    ("aluminium", "aluminum"),
    ("caesium", "cesium"),
    ("centred", "centered"),
    ("haem", "hem"),
    ("isation", "ization"),
    ("baryt", "barit"),
)
_GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "θ": "theta", "κ": "kappa"}
_WHOLE_WORDS = {"grey": "gray", "colour": "color", "tungstic": "tungsten", "wolfram": "tungsten"}


class Word(NamedTuple):
    """One word, number or sign of a query."""

    text: str
    """In plain characters, as typed."""
    folded: str
    """Lower case, American spelling; as typed apart from that."""
    start: int
    """Where it begins in the plain text."""
    end: int
    """Where it ends in the plain text."""
    apart: bool
    """Whether a comma or another mark stands before it."""
    hyphenated: bool
    """Whether only a hyphen stands between it and the word before."""
    spaced: bool
    """Whether a space stands before it."""


class Words(NamedTuple):
    """The words of a query, and where they are in the typed text."""

    typed: str
    """The text as typed."""
    text: str
    """The part of it that is parsed, in plain characters: Unicode indices and TeX are resolved."""
    words: tuple[Word, ...]
    """At most `MAX_WORDS` words."""
    starts: tuple[int, ...]
    """For each character of `text`, where it begins in `typed`."""
    ends: tuple[int, ...]
    """For each character of `text`, where it ends in `typed`."""
    tail: str
    """The part of the typed text that is not parsed."""

    def as_typed(self, first: int, last: int) -> str:
        """The typed text from word `first` to before word `last`."""
        start, end = self.words[first].start, self.words[last - 1].end
        inside = self.text[start:end]
        if inside.count(")") > inside.count("(") and self.text[:start].endswith("("):
            start -= 1
        if inside.count("(") > inside.count(")") and self.text[end : end + 1] == ")":
            end += 1
        return self.typed[self.starts[start] : self.ends[end - 1]]


def split_words(typed: str) -> Words:
    """Split a query into words with their places, at which formulas and symbols of symmetry are read from the text."""
    parsed = typed[:MAX_CHARACTERS]
    if len(typed) > MAX_CHARACTERS and not typed[MAX_CHARACTERS].isspace():
        parsed = parsed[: len(parsed) - len(re.split(r"\s", parsed)[-1])]  # no half word at the end
    found = plain(parsed)
    words: list[Word] = []
    cut = len(parsed)
    shouted = found.text.isupper() and len(found.text) > 12  # NO LEAD OXIDES
    for piece in _PIECE.finditer(found.text):
        if len(words) == MAX_WORDS:
            cut = found.starts[piece.start()]
            break
        before = found.text[words[-1].end : piece.start()] if words else " "
        text = piece[0].lower() if shouted and piece[0].isalpha() and len(piece[0]) > 2 else piece[0]
        words.append(
            Word(
                text,
                fold(piece[0]),
                piece.start(),
                piece.end(),
                bool(words) and _BREAK.search(before + " ") is not None,
                before in {"-", "‐", "‑", "–", "−"},
                any(c.isspace() for c in before),
            )
        )
    return Words(typed, found.text, tuple(words), tuple(found.starts), tuple(found.ends), typed[cut:])


def fold(word: str) -> str:
    """Lower case, American spelling: `Sulphide` → `sulfide`."""
    if len(word) > MAX_WORD:
        return word.lower()
    folded = word.casefold()
    folded = "".join(_GREEK.get(c, c) for c in folded)
    for british, american in _SPELLINGS:
        folded = folded.replace(british, american)
    return _WHOLE_WORDS.get(folded, folded)


def singulars(word: str) -> Iterator[str]:
    """The word itself, then what its singular may be: `alloys` → alloys, alloy."""
    yield word
    if len(word) > 3 and word.endswith("ies"):
        yield f"{word[:-3]}y"
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        yield word[:-1]
    if len(word) > 4 and word.endswith("es"):
        yield word[:-2]


def squeezed(words: str) -> str:
    """The key under which a phrase is found: without spaces, hyphens and other marks, folded."""
    return "".join(fold(piece) for piece in re.findall(r"[^\W_]+|[<>≤≥=*]", words))
