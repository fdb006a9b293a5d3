"""`understand`: from the typed words to chips, tiers of filters, and the words that remain for other kinds of search.

    layered lithium cobalt oxides without lead, band gap > 1 eV, pretty
    └──┬──┘ └────────┬──────────┘ └────┬─────┘  └─────┬──────┘  └─┬──┘
  dimensionality   class            without        property      rest

Words are read from left to right; the longest known phrase wins. The same text and fields always give the same result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from crystalign.index.filter_fields import Fields
from crystalign.text.property_words import Range
from crystalign.text_query.assembly import Assembler, Part
from crystalign.text_query.chips import (
    Chip,
    Meaning,
    Understanding,
    merged,
    range_label,
    resolve,
    within_limits,
)
from crystalign.text_query.reading import read_items
from crystalign.text_query.spelling import corrected, remarks
from crystalign.text_query.words import Words, split_words

MAX_NOTES = 6
"""Largest number of notes of a query."""


def understand(text: str, fields: Fields, *, ignore: Collection[str] = ()) -> Understanding:
    """Understand a query.

    Args:
        text: what a person typed; any text, of which the first 4,000 characters and 500 words are parsed.
        fields: the fields of the index, from `crystalign.index.filters.make_fields`. They decide which chips can be
            made. Words that stand for something that the index does not have are searched as text, with a note.
        ignore: typed words of chips that the person removed; they are searched as text.

    Returns:
        The chips, the remaining words and notes. Every filter compiles for these fields, and so does every tier.
    """
    words = corrected(split_words(text))
    assembler = Assembler(words, read_items(words))
    parts = assembler.parts()
    removed = {" ".join(words_.casefold().split()) for words_ in ignore}
    chips: list[tuple[Chip, Part]] = []
    notes: list[str] = []
    for part in _consistent(parts):
        typed = words.as_typed(part.first, part.last)
        if " ".join(typed.casefold().split()) in removed:
            continue
        chip = resolve(part.meaning, typed, fields)
        if isinstance(chip, str):
            notes.append(chip)
            continue
        if remark := remarks(words, part.first, part.last):
            chip = replace(chip, note="; ".join(note for note in (remark, chip.note) if note))
        if (part.alternative or _excludes(chips, part, words)) and chips and _alternatives(chips[-1], part, chip):
            chips.append((chip, part))
            _merge(chips, words)
        else:
            chips.append((chip, part))
    chips = [pair for pair in chips if " ".join(pair[0].words.casefold().split()) not in removed]
    kept = within_limits([chip for chip, _ in chips])
    if kept < len(chips):
        notes.append(f"only the first {kept} conditions are used; the other words are searched as text")
    claimed = {at for _, part in chips[:kept] for at in range(part.first, part.last)}
    dropped = {at for part in parts for at in range(part.first, part.last)} - claimed
    rest = _rest(words, claimed | assembler.padding, dropped)
    return Understanding(text, tuple(chip for chip, _ in chips[:kept]), rest, tuple(dict.fromkeys(notes))[:MAX_NOTES])


def _excludes(chips: Sequence[tuple[Chip, Part]], part: Part, words: Words) -> bool:
    """Whether a structure type stands behind another one: a crystal has only one, so either is meant."""
    if not chips or {chips[-1][0].kind, part.meaning.kind} != {"structure type"}:
        return False
    between = words.words[chips[-1][1].last : part.first]
    return all(word.folded in {"and", "type", "structure", "phase", "the"} for word in between)


def _merge(chips: list[tuple[Chip, Part]], words: Words) -> None:
    """Join the last chip with the one before, and with those that only commas separate: `oxide, nitride or …`."""
    count = 2
    while len(chips) > count:
        (before, part), (after, following) = chips[-count - 1], chips[-count]
        listed = part.last == following.first and words.words[following.first].apart
        if not (listed and before.strict and before.kind == after.kind):
            break
        count += 1
    joined = chips[-count:]
    first, last = joined[0][1].first, joined[-1][1].last
    chip = merged([chip for chip, _ in joined], words.as_typed(first, last))
    chips[-count:] = [(chip, joined[0][1]._replace(last=last))]


def _alternatives(before: tuple[Chip, Part], part: Part, chip: Chip) -> bool:
    """Whether a chip behind `or` is an alternative to the one before: both are strict and of comparable kinds."""
    kinds = [{"elements", "family", "class", "chemical system"}, {"crystal system", "space group"}]
    last = before[0]
    if last.kind == chip.kind in {"mineral", "formula"}:
        return not last.strict and not chip.strict and before[1].last >= part.first - 1
    same = last.kind == chip.kind or any({last.kind, chip.kind} <= group for group in kinds)
    return same and last.strict and chip.strict and before[1].last >= part.first - 1


def _rest(words: Words, claimed: Collection[int], dropped: Collection[int]) -> str:
    """The words that no chip stands for, without glue; what belongs together as typed stays together."""
    from crystalign.text_query.lexicon import GLUE

    runs: list[list[int]] = []
    for at, word in enumerate(words.words):
        glue = word.folded in GLUE and at not in dropped
        if at in claimed or glue:
            continue
        if runs and runs[-1][1] == at and not word.spaced and not word.apart:
            runs[-1][1] = at + 1
        else:
            runs.append([at, at + 1])
    return " ".join(
        [words.as_typed(first, last) for first, last in runs] + ([words.tail.strip()] if words.tail.strip() else [])
    )


_WHICH = {"elements", "family", "class", "structure type", "application", "number of elements", "without", "mineral"}
_WHICH |= {"chemical system", "formula"}
"""Kinds of chips that say which compounds are wanted."""


def _consistent(parts: Sequence[Part]) -> list[Part]:
    """Meanings in view of each other.

    `Lithium` alone is the element first, beside `garnet` any crystal with lithium; `rutile` alone is the mineral first,
    beside other words the structure type. With another condition on the band gap, `semiconductor` only says that there
    is a gap: GaN is one.
    """
    parts = [p._replace(meaning=p.beside) if p.beside is not None and _is_beside(p, parts) else p for p in parts]
    parts = _stated(parts)
    gaps = [p for p in parts if any(r.quantity == "band_gap" for r in p.meaning.ranges)]
    others = [p for p in gaps if not p.meaning.label.startswith("semiconductor")]
    if not others or len(others) == len(gaps):
        return list(parts)
    wanted = Range("band_gap", ((">=", 0.1),))
    meaning = Meaning("property", f"semiconductor: {range_label(wanted)}", ranges=(wanted,))
    return [p._replace(meaning=meaning) if p in gaps and p not in others else p for p in parts]


def _stated(parts: Sequence[Part]) -> list[Part]:
    """A number decides what a vague word means: `insulating nitrides, gap at least 3 eV` asks for 3 eV."""
    exact = [p.meaning.ranges[0] for p in parts if len(p.meaning.ranges) == 1 and ":" not in p.meaning.label]
    numbers = {wanted.quantity: wanted for wanted in exact}
    return [_with_number(part, numbers) for part in parts]


def _with_number(part: Part, numbers: Mapping[str, Range]) -> Part:
    name, is_vague, _ = part.meaning.label.partition(":")
    stated = next((numbers[r.quantity] for r in part.meaning.ranges[:1] if r.quantity in numbers), None)
    if not is_vague or stated is None or name.startswith(("not ", "semiconductor")):
        return part
    bounded = {sign[0] for sign, _ in stated.tests}
    kept = tuple(test for test in part.meaning.ranges[0].tests if test[0][0] not in bounded)
    wanted = Range(stated.quantity, (*kept, *stated.tests))
    return part._replace(meaning=Meaning("property", f"{name}: {range_label(wanted)}", ranges=(wanted,)))


def _is_beside(part: Part, parts: Sequence[Part]) -> bool:
    """Whether other parts say which compounds are wanted; beside a mineral, whether they are no minerals."""
    kinds = {p.meaning.kind for p in parts if p is not part}
    return bool(kinds - {"mineral"}) if part.meaning.kind == "mineral" else bool(kinds & _WHICH)
