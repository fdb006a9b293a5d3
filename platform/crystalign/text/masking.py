"""Texts about a crystal without what they say of its composition and symmetry."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.text.formulas import MARK, find_formulas, find_symbols
from crystalign.text.symmetry_symbols import find_space_groups, find_structure_symbols
from crystalign.text.typography import Plain, plain
from crystalign.text.vocabulary import (
    COMPOUND_NAMES,
    class_words,
    element_words,
    find_words,
    mineral_like_words,
    phrases,
    system_words,
    type_words,
)

Spans = Iterable[tuple[int, int]]
_COMPOSITION = r"\[(?:formula|element|class)\]"
_CLAUSE = " with the [type] structure"
_RUN = re.compile(rf"{_COMPOSITION}(?:(?:\s*[,/:;&+·–-]?\s*(?:and |or |of )?){_COMPOSITION})+")


def mask_text(text: str, crystal: Crystal) -> str:
    """The text without formulas, elements, structure types, space groups, crystal systems and classes of compounds.

    What remains are coordination numbers, lengths, shapes and everything that is no chemistry: retrieval
    with masked texts shows what is learned beyond reading the formula off. Names, formulas and symbols are
    masked whosever they are; where letters may be a word, a unit or a quantity (`In`, `K`, `BCS`) the
    elements of the crystal and the neighbours decide. A run of marks becomes one, for its length counts elements.

    Args:
        text: any description, in plain characters, Unicode, TeX or HTML.
        crystal: whose text it is.
    """
    elements = frozenset(SYMBOLS[z] for z in crystal.composition)
    read = plain(text)
    passes: list[tuple[str, Callable[[str], Spans]]] = [
        ("type", lambda left: _spans(phrases()["type"], left)),
        ("type", lambda left: find_words(type_words, left)),
        ("group", find_space_groups),
        ("type", find_structure_symbols),
        ("formula", lambda left: find_formulas(left, elements)),
        ("formula", lambda left: _own_formula(left, crystal)),
        ("formula", _compound_names),
        ("class", lambda left: _spans(phrases()["class"], left)),
        ("class", lambda left: find_words(class_words, left)),
        ("system", lambda left: _spans(system_words(), left)),
        ("element", lambda left: find_words(element_words, left)),
        ("type", lambda left: find_words(mineral_like_words, left)),
        ("element", lambda left: find_symbols(left, elements)),
        ("element", lambda left: find_symbols(left, elements)),  # neighbours of what was found are found now
        ("element", lambda left: _lead(left, own="Pb" in elements)),
        ("class", _numeral),
    ]
    left, found = read.text, []
    for mark, find in passes:
        for start, end in find(left):
            if MARK not in left[start:end]:
                found.append((start, end, mark))
                left = left[:start] + MARK * (end - start) + left[end:]
    return _merge(_replace(text, read, sorted(found))) if found else text


def _spans(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in pattern.finditer(text))


def _own_formula(text: str, crystal: Crystal) -> Iterator[tuple[int, int]]:
    """The formula of the crystal in small letters, or in a text of capitals alone, as old titles are printed."""
    blocks = re.findall(r"[A-Z][a-z]?\d*", crystal.formula)
    if len(blocks) == 1:  # `Cu is a form of copper`
        symbol = SYMBOLS[next(iter(crystal.composition))]
        yield from _spans(re.compile(rf"^{symbol}\d*(?= is )"), text)
    if not 2 <= len(blocks) <= 5 or not (re.search(r"\d", crystal.formula) or text.isupper()):
        return
    orders = {"".join(order).casefold() for order in itertools.permutations(blocks)}
    for match in re.finditer(r"(?<![A-Za-z\d])[A-Za-z][A-Za-z\d]+(?![A-Za-z\d])", text):
        if match[0].casefold() in orders:
            yield match.span()


def _compound_names(text: str) -> Iterator[tuple[int, int]]:
    """`YBCO`, `PZT`."""
    for match in re.finditer(r"(?<![A-Za-z])[A-Z][A-Z-]{2,8}(?![A-Za-z])", text):
        if match[0] in COMPOUND_NAMES:
            yield match.span()


def _lead(text: str, *, own: bool) -> Iterator[tuple[int, int]]:
    """Mask `lead` as a metal: next to chemical words, or, if the crystal contains lead, wherever it is not a verb."""
    tied = rf"\blead(?=[- ](?:free|based|halide|glass|salt|ions?|atoms?|films?|metal\w*)\b|[ -]?{MARK})"
    metal = rf"{tied}|(?<={MARK}[ -])lead\b(?! to)"
    if own:
        verb = r"(?! (?:to|the|a|an|us|into|towards?)\b)"
        metal += rf"|(?<!\bto )(?<!can )(?<!may )(?<!could )(?<!will )(?<!would )(?<!that )(?<!which )\blead\b{verb}"
    return _spans(re.compile(metal, re.IGNORECASE), text)


def _numeral(text: str) -> Iterator[tuple[int, int]]:
    """How many elements there are: `ternary` and so on beside a class, and `a form` of an element."""
    words = "unary|binary|pseudobinary|ternary|pseudoternary|quaternary|quinary|multicomponent"
    nouns = "(?:compound|alloy|phase|system|semiconductor|material|metal|oxide)s?"
    counted = rf"\b(?:{words})(?:[ -]{nouns}\b|(?=[ -]{MARK}))"
    return _spans(re.compile(rf"{counted}|\bform(?= of {MARK})", re.IGNORECASE), text)


def _replace(text: str, read: Plain, found: list[tuple[int, int, str]]) -> str:
    """The original with marks for the stretches found, and for the markup that hangs on them."""
    out, at = [], 0
    for start, end, mark in found:
        begin = read.ends[start - 1] if start else 0
        close = read.starts[end] if end < len(read.starts) else len(text)
        out += [text[at:begin], f"[{mark}]"]
        at = close
    return "".join([*out, text[at:]])


def _merge(text: str) -> str:
    """One mark for a run of them: `[element], [element] and [element]` → `[element]`.

    The clause of a caption that names the structure type goes, for it tells which crystals have one.
    """

    def single(match: re.Match[str]) -> str:
        kinds = set(re.findall(r"\[(\w+)\]", match[0]))
        return f"[{kinds.pop()}]" if len(kinds) == 1 else "[formula]"

    return _RUN.sub(single, re.sub(r"(\[\w+\])(?:[ -]?\1)+", r"\1", text)).replace(_CLAUSE, "")
