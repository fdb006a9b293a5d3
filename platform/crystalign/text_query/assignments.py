"""What a letter of a formula stands for: `ABO3 with B = Ti`, `CsPbX3, X = Cl, Br or I`, `RMn2O5, R = rare earth`."""

from __future__ import annotations

import re

from crystalign.crystal import SYMBOLS
from crystalign.text_query.chips import Meaning, any_of, has
from crystalign.text_query.lexicon import lexicon
from crystalign.text_query.words import Words

_LETTERS = frozenset("A B C M X R T Q Z L Ln RE TM AE".split())  # noqa: SIM905 (letters)
_ELEMENTS = frozenset(SYMBOLS[1:104])


def read_assignment(words: Words, at: int) -> tuple[Meaning, int] | None:
    """The meaning of `B = Ti` at a word, and the word behind it; None if no formula of the query has the letter."""
    letter = words.words[at].text
    equals = at + 1 < len(words.words) and words.words[at + 1].text == "="
    if letter not in _LETTERS or not equals or not _is_in_a_formula(letter, words):
        return None
    symbols: list[str] = []
    groups: list[Meaning] = []
    end = position = at + 2
    while position < len(words.words):
        word = words.words[position]
        if position > at + 2 and words.words[position + 1 : position + 2] and words.words[position + 1].text == "=":
            break  # the next letter: A = Cs, B = Pb
        entry = lexicon().find(words.words, position)
        if word.text in _ELEMENTS:
            symbols.append(word.text)
            position += 1
        elif entry and entry.key in lexicon().elements:
            symbols.append(lexicon().elements[entry.key].symbol)
            position += entry.words
        elif entry and lexicon().meanings[entry.key].label.startswith("contains a"):
            groups.append(lexicon().meanings[entry.key])
            position += entry.words
        elif word.folded in {"and", "or"} and position > at + 2:
            position += 1
            continue
        else:
            break
        end = position
    if not symbols and not groups:
        return None
    filters = [has(list(dict.fromkeys(symbols)), "ANY")] if symbols else []
    filters += [group.filters[0] for group in groups]
    named = " or ".join([*dict.fromkeys(symbols), *(g.label.removeprefix("contains ") for g in groups)])
    return Meaning("elements", f"{letter} is {named}", (any_of(*filters),)), end


def _is_in_a_formula(letter: str, words: Words) -> bool:
    pattern = re.compile(rf"(?<![A-Za-z]){letter}(?=[A-Z\d(])|(?<=[A-Za-z\d)]){letter}(?![a-z])")
    return any(len(word.text) > len(letter) and pattern.search(word.text) for word in words.words)
