"""Mask the composition and symmetry in texts about a crystal."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.text.formulas import MARK, find_formulas, find_symbols
from crystalign.text.quantities import find_quantities
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

NUMBER = "[number]"
"""The mark of a measured number."""
Spans = Iterable[tuple[int, int]]
_COMPOSITION = r"\[(?:formula|element|class)\]"
_CLAUSE = " with the [type] structure"
_LATTICE = re.compile(r" The lattice parameters? (?:is|are) \[number\](?:(?:, | and )\[number\])* Å\.")
"""This sentence is removed, because how many numbers it has gives away the crystal system."""
_RUN = re.compile(rf"{_COMPOSITION}(?:(?:\s*[,/:;&+·–-]?\s*(?:and |or |of )?){_COMPOSITION})+")


def mask_text(text: str, crystal: Crystal, *, lengths: bool = True) -> str:
    """Mask formulas, elements, structure types, space groups, crystal systems and compound classes in a text.

    Coordination numbers, bond lengths, shapes and all other words remain. Retrieval with masked texts shows what a
    model learns beyond the formula. Names, formulas and symbols of all compounds are masked. If letters can also be a
    word, a unit or a quantity (`In`, `K`, `BCS`), the elements of the crystal and the neighbouring words decide.
    Consecutive marks become one, because their number would reveal the number of elements.

    Args:
        text: any description, in plain characters, Unicode, TeX or HTML.
        crystal: the crystal that the text describes.
        lengths: whether lengths, volumes and other measured numbers remain; otherwise they become `[number]`.

    Returns:
        The text with marks such as `[formula]`, `[element]` and `[type]`.
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
        ("element", lambda left: find_symbols(left, elements)),  # again: symbols next to those of the first pass
        ("element", lambda left: _lead(left, own="Pb" in elements)),
        ("class", _numeral),
    ]
    left, spans = read.text, []
    for mark, find in passes:
        for start, end in find(left):
            if MARK not in left[start:end]:
                spans.append((start, end, mark))
                left = left[:start] + MARK * (end - start) + left[end:]
    masked = _merge(_replace(text, read, sorted(spans))) if spans else text
    return masked if lengths else mask_quantities(masked)


def mask_quantities(text: str) -> str:
    """Replace every number that has decimals or a unit by `[number]`, because it can give away the cell."""
    pieces, at = [], 0
    for match in find_quantities(text):
        pieces += [text[at : match.start()], NUMBER]
        at = match.end()
    return _LATTICE.sub("", "".join([*pieces, text[at:]]))


def _spans(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in pattern.finditer(text))


def _own_formula(text: str, crystal: Crystal) -> Iterator[tuple[int, int]]:
    """The crystal's own formula in lower case, or in a text in upper case, as in old titles."""
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
    """Abbreviations of compounds, such as `YBCO` and `PZT`."""
    for match in re.finditer(r"(?<![A-Za-z])[A-Z][A-Z-]{2,8}(?![A-Za-z])", text):
        if match[0] in COMPOUND_NAMES:
            yield match.span()


def _lead(text: str, *, own: bool) -> Iterator[tuple[int, int]]:
    """The metal `lead`: next to chemical words or, if the crystal contains lead, anywhere but as a verb."""
    tied = rf"\blead(?=[- ](?:free|based|halide|glass|salt|ions?|atoms?|films?|metal\w*)\b|[ -]?{MARK})"
    metal = rf"{tied}|(?<={MARK}[ -])lead\b(?! to)"
    if own:
        verb = r"(?! (?:to|the|a|an|us|into|towards?)\b)"
        metal += rf"|(?<!\bto )(?<!can )(?<!may )(?<!could )(?<!will )(?<!would )(?<!that )(?<!which )\blead\b{verb}"
    return _spans(re.compile(metal, re.IGNORECASE), text)


def _numeral(text: str) -> Iterator[tuple[int, int]]:
    """Words for the number of elements: `ternary` and the like before a class, and `form` in `a form of [element]`."""
    words = "unary|binary|pseudobinary|ternary|pseudoternary|quaternary|quinary|multicomponent"
    nouns = "(?:compound|alloy|phase|system|semiconductor|material|metal|oxide)s?"
    counted = rf"\b(?:{words})(?:[ -]{nouns}\b|(?=[ -]{MARK}))"
    return _spans(re.compile(rf"{counted}|\bform(?= of {MARK})", re.IGNORECASE), text)


def _replace(text: str, read: Plain, spans: list[tuple[int, int, str]]) -> str:
    """The original text with a mark in place of each span and of the markup attached to it."""
    out, at = [], 0
    for start, end, mark in spans:
        begin = read.ends[start - 1] if start else 0
        close = read.starts[end] if end < len(read.starts) else len(text)
        out += [text[at:begin], f"[{mark}]"]
        at = close
    return "".join([*out, text[at:]])


def _merge(text: str) -> str:
    """Merge consecutive marks: `[element], [element] and [element]` → `[element]`.

    The clause of a caption that names the structure type is removed, because its presence alone is informative.
    """

    def single(match: re.Match[str]) -> str:
        kinds = set(re.findall(r"\[(\w+)\]", match[0]))
        return f"[{kinds.pop()}]" if len(kinds) == 1 else "[formula]"

    return _RUN.sub(single, re.sub(r"(\[\w+\])(?:[ -]?\1)+", r"\1", text)).replace(_CLAUSE, "")
