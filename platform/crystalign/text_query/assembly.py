"""Join the items of a query to meanings: names of compounds, negations, structure types of formulas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from crystalign.text.property_words import Range
from crystalign.text_query.anion_words import Anion, class_meaning
from crystalign.text_query.chips import Meaning, all_of, either_of, has, none_of, range_label
from crystalign.text_query.compounds import compound_meaning, only_elements
from crystalign.text_query.element_words import Element
from crystalign.text_query.formulas import system_meaning
from crystalign.text_query.lexicon import CONTAINING, LONGEST_PHRASE, ONLY, TYPE_WORDS, lexicon
from crystalign.text_query.prototype_words import prototype_meaning
from crystalign.text_query.reading import Item
from crystalign.text_query.words import Words, squeezed


class Part(NamedTuple):
    """A meaning and the words that it stands for."""

    meaning: Meaning
    first: int
    last: int
    alternative: bool
    """Whether `or` stands before it."""
    beside: Meaning | None = None
    """What is meant instead if other parts say which compounds are wanted."""


class Assembler:
    """Joins items to meanings: names of compounds, negations, structure types of formulas."""

    def __init__(self, words: Words, items: Sequence[Item]) -> None:
        self.words, self.items = words, items
        self.found: list[Part] = []
        self.negated = False
        """Whether what is read now is excluded: then each part is excluded on its own."""
        self.padding: set[int] = set()
        """Words that add nothing where they stand, such as `metal` in `fcc metal`."""

    def parts(self) -> list[Part]:
        """The meanings of the query, in order."""
        at, either = 0, False
        while at < len(self.items):
            item = self.items[at]
            if item.kind == "alike":
                at = self._alike(at)
            elif item.kind == "negation":
                at = self._negated(at)
            elif self._folded(at) == "than" and self._kind(at + 1) in {"element", "meaning", "formula"}:
                at += 2  # heavier than lead
            elif item.kind in {"and", "or", "of", "glue", "word", "free"}:
                either = item.kind == "or" or (either and item.kind == "glue")
                at += 1
                continue
            else:
                at = self._unit(at, either=either)
            either = False
        return self.found

    def _kind(self, at: int) -> str:
        return self.items[at].kind if at < len(self.items) else ""

    def _folded(self, at: int) -> str:
        """The single word of an item; empty if there is none or it has several."""
        if at >= len(self.items) or self.items[at].last != self.items[at].first + 1:
            return ""
        return self.words.words[self.items[at].first].folded

    def _add(self, meaning: Meaning, first: int, last: int, *, either: bool = False) -> None:
        """Add a meaning for the items from `first` to before `last`."""
        beside = None
        if meaning.kind == "mineral":
            beside = lexicon().types.get(self.items[first].key)
        elif meaning.kind == "elements" and len(meaning.filters) > 1:
            beside = replace(meaning, label=meaning.label.split(";")[0], filters=meaning.filters[-1:])
        self.found.append(Part(meaning, self.items[first].first, self.items[last - 1].last, either, beside))

    # --- units ------------------------------------------------------------------------------------------------------

    def _unit(self, at: int, *, either: bool) -> int:
        """Add the meaning that begins with an item; returns the item behind it."""
        meaning, end = self._meaning(at)
        free = self._absent(end)
        if self._kind(free) == "free" and meaning is not None and meaning.kind in _EXCLUDABLE:
            if opposite := self._opposite(meaning, at, end):
                self._add(opposite, at, free + 1)
            return free + 1
        if meaning is not None:
            self._add(meaning, at, end, either=either)
        return self._alloy(at, end)

    def _absent(self, end: int) -> int:
        """The item of `absent` or `excluded` if one follows, as in `lead is absent`; else `end`."""
        behind = end
        while self._folded(behind) in {"is", "are", "be", "must", "should", "shall"} and behind < end + 3:
            behind += 1
        return behind if self._folded(behind) in {"absent", "excluded"} else end

    def _alloy(self, at: int, end: int) -> int:
        """`alloys of Nb, Mo and W`: only these elements, all of them first. Returns the item behind it."""
        if self._folded(at) not in {"alloy", "alloys"} or self._kind(end) != "of":
            return end
        cations, behind, joined = self._cations(end + 1)
        symbols = list(dict.fromkeys(item.value.symbol for item in cations if item.kind == "element"))
        if len(symbols) < 2 or len(symbols) < len(cations) or joined == "or":
            return end
        filters = (only_elements(symbols)[0], all_of("nelements>=2", has(symbols, "ONLY")))
        self._add(Meaning("chemical system", f"only {', '.join(symbols)}, at least two", filters), end, behind)
        return behind

    def _meaning(self, at: int) -> tuple[Meaning | None, int]:
        item = self.items[at]
        if item.kind in {"element", "anion"} or self._is_group(at):
            return self._composition(at)
        if item.kind == "system":
            return self._system(at)
        if item.kind == "formula":
            return self._formula(at)
        return self._phrase(at)

    def _phrase(self, at: int) -> tuple[Meaning | None, int]:
        item = self.items[at]
        if item.key == "metal" and self._is_padding(at):
            self.padding.update(range(item.first, item.last))
            return None, at + 1
        types = lexicon().types
        if item.value.kind == "mineral" and item.key in types:
            if self._folded(at + 1) in TYPE_WORDS:
                return types[item.key], at + 2
            if item.plural:
                return types[item.key], at + 1
        return item.value, at + 1

    def _is_padding(self, at: int) -> bool:
        """Whether `metal` only fills, as in `metal oxide`, `lithium metal` and `fcc metal`."""
        before = self.items[at - 1] if at else None
        beside = before is not None and (
            before.kind == "element" or (before.kind == "meaning" and before.value.kind == "structure type")
        )
        return beside or self._kind(at + 1) == "anion"

    def _formula(self, at: int) -> tuple[Meaning | None, int]:
        """A formula, or the structure type whose prototype it is if `type` or `structure` follows."""
        found = self.items[at].value
        follows = self._folded(at + 1)
        structure = follows in TYPE_WORDS - {"phase", "family"}
        if found.reduced and structure and not _is_numbered_element(found.meaning.label):
            return prototype_meaning(found.meaning.label.removeprefix("formula "), found.reduced), at + 2
        return found.meaning, at + 1

    def _system(self, at: int) -> tuple[Meaning | None, int]:
        """`Li-Co-O`; before an anion, as in `Li-Co oxide`, its elements are cations."""
        end = at + 1
        if self._kind(end) == "anion":
            anion = self.items[end]
            cations = [Element(symbol) for symbol in self.items[at].value.elements]
            return compound_meaning(cations, (), [anion.value], either=False, plural=anion.plural), end + 1
        meaning: Meaning = self.items[at].value.meaning
        return meaning, end

    # --- composition ------------------------------------------------------------------------------------------------

    def _is_group(self, at: int) -> bool:
        """Whether an item is a group of elements such as the alkali metals."""
        item = self.items[at] if at < len(self.items) else None
        return item is not None and item.kind == "meaning" and item.value.label.startswith("contains a")

    def _composition(self, at: int) -> tuple[Meaning | None, int]:
        """Elements, a class, or the name of a compound, in either order: `vanadium oxides`, `oxides of vanadium`."""
        item_first = self.items[at].first
        cations, end, joined = self._cations(at)
        behind = end
        while behind < len(self.items) and (
            self._folded(behind) in CONTAINING or self._folded(behind) in {"metal", "metals"}
        ):
            behind += 1
        anions, last = self._anions(behind if cations else end)
        if anions and (several := self._several(cations, anions, last)):
            return several
        if cations and anions:
            key = squeezed(" ".join(word.text for word in self.words.words[item_first : self.items[last - 1].last]))
            if self._folded(last) in TYPE_WORDS and key in lexicon().types:
                return lexicon().types[key], last + 1
            return self._compound(cations, anions, joined), last
        if anions:
            of = last
            if self._kind(of) == "of":
                of += 1
                while self._folded(of) in {"the", "a", "an"}:
                    of += 1
                cations, behind, joined = self._cations(of)
                if cations:
                    return self._compound(cations, anions, joined), behind
            return self._class(anions), last
        return self._elements(cations, at, end, joined), end

    def _cations(self, at: int) -> tuple[list[Item], int, str]:
        """Elements and groups of elements from an item on, where they end, and whether `or` joins them."""
        cations: list[Item] = []
        joined, end = "", at
        while end < len(self.items):
            item = self.items[end]
            if item.kind == "element" or self._is_group(end):
                cations.append(item)
                end += 1
                continue
            following = self.items[end + 1] if end + 1 < len(self.items) else None
            goes_on = following is not None and (following.kind == "element" or self._is_group(end + 1))
            if cations and goes_on and item.kind in {"and", "or"}:
                joined = "or" if item.kind == "or" else joined
                end += 1
                continue
            break
        return cations, end, joined

    def _anions(self, at: int) -> tuple[list[Item], int]:
        end = at
        anions: list[Item] = []
        while end < len(self.items) and self.items[end].kind == "anion":
            if anions and self.words.words[self.items[end].first].apart:
                break
            anions.append(self.items[end])
            end += 1
        return anions, end

    def _several(self, cations: Sequence[Item], anions: Sequence[Item], last: int) -> tuple[Meaning, int] | None:
        """Alternatives that share their cations: `nitride or carbide of tantalum`, `chlorides and bromides`."""
        kinds: list[Sequence[Item]] = [anions]
        end, joint, joined = last, "", ""
        while self._kind(end) in {"or", "and"} and self._kind(end + 1) == "anion":
            joint = "or" if self._kind(end) == "or" else joint or "and"
            following, end = self._anions(end + 1)
            kinds.append(following)
        plural = all(listed[-1].plural for listed in kinds)
        if len(kinds) == 1 or self.negated or (joint == "and" and not plural):
            return None
        if self._kind(end) == "of" and not cations:
            cations, end, joined = self._cations(end + 1)
        if not cations and joint == "or":
            return None  # chips of one kind are joined later
        parts = [self._compound(cations, one, joined) if cations else self._class(one) for one in kinds]
        return either_of(parts), end

    def _compound(self, cations: Sequence[Item], anions: Sequence[Item], joined: str) -> Meaning:
        elements = [item.value for item in cations if item.kind == "element"]
        groups = [item.value for item in cations if item.kind != "element"]
        return compound_meaning(
            elements, groups, [a.value for a in anions], either=joined == "or", plural=any(a.plural for a in anions)
        )

    def _class(self, anions: Sequence[Item]) -> Meaning:
        """Anions without a cation; a mineral such as cobaltite is meant if its name stands alone in the singular."""
        alone = anions[0]
        if len(anions) == 1 and not alone.plural and alone.key in lexicon().meanings:
            known: Meaning = lexicon().meanings[alone.key]
            return known
        if len(anions) == 1:
            return class_meaning(alone.value)
        return compound_meaning([], [], [anion.value for anion in anions], either=False, plural=True)

    def _elements(self, cations: Sequence[Item], first: int, end: int, joined: str) -> Meaning:
        """Elements alone: crystals of only these come first, unless the query says `containing` or `based`."""
        symbols = list(dict.fromkeys(item.value.symbol for item in cations if item.kind == "element"))
        groups = [item.value for item in cations if item.kind != "element"]
        if groups and not symbols and len(groups) == 1:
            group: Meaning = groups[0]
            return group
        hyphens = all(self.words.words[item.first].hyphenated for item in cations[1:])
        if len(symbols) > 1 and not groups and hyphens:
            return system_meaning(symbols)
        mode = "ANY" if joined == "or" else "ALL"
        word = " or " if joined == "or" else ", "
        label = f"contains {word.join(symbols)}" if symbols else groups[0].label
        filters = [has(symbols, mode)] if symbols else []
        filters += [meaning.filters[0] for meaning in groups]
        label = f" {joined or 'and'} ".join(
            [label, *(m.label.removeprefix("contains ") for m in groups[not symbols :])]
        )
        text = f" {'OR' if joined == 'or' else 'AND'} ".join(filters)
        around = {self._folded(first - 1) if first else "", self._folded(end)}
        if around & ONLY and not groups and not joined.startswith("or"):
            return Meaning("chemical system", f"only {', '.join(symbols)}", only_elements(symbols)[:1])
        if groups or joined == "or" or around & (CONTAINING | {"with", "has", "have", "having"}):
            return Meaning("elements", label, (text,))
        whole = "only these" if len(symbols) > 1 else "the element itself"
        return Meaning("elements", f"{label}; {whole} first", only_elements(symbols))

    def _alike(self, at: int) -> int:
        """`isostructural with NaCl`: the structure type of what follows."""
        item = self.items[at + 1]
        if item.kind == "formula" and item.value.reduced:
            written = item.value.meaning.label.removeprefix("formula ")
            self._add(prototype_meaning(written, item.value.reduced), at, at + 2)
            return at + 2
        first = item.first
        for last in range(min(first + LONGEST_PHRASE, len(self.words.words)), first, -1):
            key = squeezed(" ".join(word.folded for word in self.words.words[first:last]))
            if key in lexicon().types:
                end = next((i for i, one in enumerate(self.items) if one.first >= last), len(self.items))
                self._add(lexicon().types[key], at, end)
                return end
        return at + 1

    # --- negation ---------------------------------------------------------------------------------------------------

    def _negated(self, at: int) -> int:
        """Exclude what follows a negation: `without lead, cadmium or mercury`."""
        start = at
        target = at + 1
        while self._kind(target) in {"glue", "of"}:
            target += 1
        kinds: set[str] = set()
        self.negated = True
        while target < len(self.items) and self._kind(target) not in _FILLING:
            meaning, end = self._meaning(target)
            group = _EXCLUDABLE.get(meaning.kind if meaning else "", "")
            if meaning is None or not group or (kinds and group not in kinds):
                break
            kinds.add(group)
            if opposite := self._opposite(meaning, target, end):
                self._add(opposite, start, end)
            start = target = end
            skipped = target
            while self._kind(skipped) in {"or", "and"}:
                skipped += 1
            separate = skipped < len(self.items) and self.words.words[self.items[skipped].first].apart
            if skipped == target and not separate:
                break
            start = target = skipped
        self.negated = False
        return max(target, at + 1)

    def _opposite(self, meaning: Meaning, first: int, last: int) -> Meaning | None:
        """A condition that excludes what the words mean. Of several elements, none may be present."""
        items = self.items[first:last]
        symbols = [item.value.symbol for item in items if item.kind == "element"]
        if symbols and all(item.kind in {"element", "and", "or"} for item in items):
            return Meaning("without", f"contains no {' and no '.join(symbols)}", (none_of(has(symbols, "ANY")),))
        if len(items) == 1 and isinstance(items[0].value, Anion) and items[0].value.word in {"oxide", "halide"}:
            absent = items[0].value.group or items[0].value.elements
            return Meaning("without", f"contains no {', '.join(absent)}", (none_of(has(absent, "ANY")),))
        if meaning.ranges:
            return _opposite_range(meaning)
        named = meaning.label.removeprefix("contains ").removeprefix("a ").removeprefix("an ").split(";")[0]
        loosest = meaning.filters[-1] if meaning.strict else meaning.filters[0]
        fallback = meaning.fallback and meaning.fallback[-1 if meaning.strict else 0]
        return replace(
            meaning,
            kind="without",
            label=f"not {named}" if meaning.kind not in {"family", "elements"} else f"contains no {named}",
            filters=(none_of(loosest),),
            fallback=(none_of(fallback),) if fallback else (),
            strict=True,
        )


def _is_numbered_element(label: str) -> bool:
    """Whether a formula is one element with a number, such as C40: no prototype, maybe a symbol that is not known."""
    return re.fullmatch(r"formula [A-Z][a-z]?\d+", label) is not None


def _opposite_range(meaning: Meaning) -> Meaning | None:
    """The opposite of a range with one bound; None for a range with two, which has none."""
    turned = {">=": "<", ">": "<=", "<=": ">", "<": ">="}
    ranges = tuple(
        Range(r.quantity, ((turned[r.tests[0][0]], r.tests[0][1]),)) for r in meaning.ranges if len(r.tests) == 1
    )
    if not ranges:
        return None
    return Meaning(meaning.kind, f"not {meaning.label.split(':')[0]}: {range_label(ranges[0])}", ranges=ranges)


_FILLING = {"and", "or", "of", "glue", "word", "free", "negation", "alike", ""}
_EXCLUDABLE = {
    "elements": "composition", "family": "composition", "class": "composition", "chemical system": "composition",
    "structure type": "structure", "mineral": "structure", "formula": "composition", "crystal system": "symmetry",
    "space group": "symmetry", "dimensionality": "structure", "number of elements": "number", "property": "property",
    "size": "size", "application": "application", "without": "",
}  # fmt: skip
"""Kind of a chip → group of kinds that one negation can exclude together."""
