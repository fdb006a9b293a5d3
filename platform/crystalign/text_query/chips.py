"""Chips: what a part of a query means, as a filter; and the tiers of filters of a whole query."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from crystalign.index.filter_fields import KEYWORDS, PREFIX, Fields
from crystalign.properties import Quantity
from crystalign.text.property_words import Range

MAX_CHIPS = 24
"""Largest number of chips of a query."""
MAX_LENGTH = 1500
"""Largest number of characters of all chips' filters together. A filter may have 2,000; the rest is left to the filter
that the user gives."""
MAX_COST = 55.0
"""Largest cost of all filters of a query together, in the units of `crystalign.index.filters`, where 60 is allowed."""

_COSTS = (
    (r'"(?:class|whole|type|dimensionality):', 3.0),
    (r"chemical_formula_anonymous", 8.5),
    (r"CONTAINS", 3.0),
    (r'chemical_formula_reduced="[^"]*[./]', 8.5),
    (r"HAS|<|>|=", 0.5),
)


@dataclass(frozen=True)
class Chip:
    """One condition that was understood of a query: some typed words and the filter that they stand for."""

    words: str
    """The typed words it stands for."""
    kind: str
    """What it is about: formula, elements, chemical system, without, family, class, structure type, mineral, crystal
    system, space group, number of elements, dimensionality, property, size, or application."""
    label: str
    """What the page shows, for example `contains Li`."""
    filter: str
    """OPTIMADE filter of the rows that come first."""
    strict: bool = True
    """Whether other rows are left out; formulas and minerals only come first."""
    note: str = ""
    """Remark for the person, for example that a criterion is approximate."""
    then: tuple[str, ...] = ()
    """Filters of the rows that follow. Each includes the rows of the one before: rutile, then all of its type."""

    def level(self, number: int) -> str:
        """The filter for a tier; the last one holds for all later tiers."""
        return (self.filter, *self.then)[min(number, len(self.then))]


@dataclass(frozen=True)
class Understanding:
    """What was understood of a query."""

    text: str
    """The query as typed."""
    chips: tuple[Chip, ...]
    """What was understood, in the order of the text."""
    rest: str
    """The words that no chip stands for, in their order and without glue; for the text encoder and search by words."""
    notes: tuple[str, ...] = ()
    """Why words that are known could not become chips, for example because the index has no such property."""

    def tiers(self) -> tuple[str | None, ...]:
        """One filter for each tier, from the strictest to the loosest. Rows of a tier come before those of the next.

        1. All chips hold, each with its first filter.
        2. All chips hold, each with its next filter, and so on. A chip that has no further filter keeps its last one.
        3. If there are several chips that are not strict, such as two formulas: any one of them holds.
        4. Only the strict chips hold. If there are none, the filter is None: all rows.
        """
        strict = [chip for chip in self.chips if chip.strict]
        loose = [chip for chip in self.chips if not chip.strict]
        depth = max((len(chip.then) for chip in self.chips), default=0)
        tiers: list[str | None] = [_all(chip.level(n) for chip in self.chips) for n in range(depth + 1)]
        if len(loose) > 1:
            tiers += [_all([*(c.level(depth) for c in strict), _any(c.level(n) for c in loose)]) for n in (0, depth)]
        if loose or not self.chips:
            tiers.append(_all(chip.level(depth) for chip in strict))
        return tuple(dict.fromkeys(tiers))


@dataclass(frozen=True)
class Meaning:
    """What a word or phrase means, whatever the index: `resolve` makes a chip of it for the fields of one index."""

    kind: str
    """Kind of the chip."""
    label: str
    """What the chip says."""
    filters: tuple[str, ...] = ()
    """Filters from the strictest to the loosest, each including the one before."""
    strict: bool = True
    """Whether other rows are left out."""
    note: str = ""
    """Remark on the criterion."""
    fallback: tuple[str, ...] = ()
    """Filters for an index without keywords, if there is a sound approximation."""
    fallback_note: str = ""
    """Remark on that approximation."""
    ranges: tuple[Range, ...] = ()
    """Alternatives, the best first: the first whose quantity the index has is taken."""


def resolve(meaning: Meaning, words: str, fields: Fields) -> Chip | str:
    """The chip for the fields of one index, or the reason why there is none."""
    if meaning.ranges:
        return _property_chip(meaning, words, fields)
    filters, note = meaning.filters, meaning.note
    if KEYWORDS not in fields and any(KEYWORDS in text for text in filters):
        if not meaning.fallback:
            return f"this index has no {_plural(meaning.kind)}, so {words!r} is searched as text"
        filters, note = meaning.fallback, meaning.fallback_note or note
    filters = tuple(dict.fromkeys(filters))
    return Chip(words, meaning.kind, meaning.label, filters[0], meaning.strict, note, filters[1:])


def _plural(kind: str) -> str:
    return {"class": "compound classes", "dimensionality": "dimensionalities"}.get(kind, f"{kind}s")


def property_names(quantity: str, fields: Fields) -> dict[str, bool]:
    """The shortest name of each column of a quantity → whether its values are predicted."""
    names: dict[str, str] = {}
    pattern = re.compile(rf"{PREFIX}(?P<predicted>predicted_)?{re.escape(quantity)}(?:_|$)")
    for name, field in fields.items():
        if field.type == "float" and field.part == "value" and pattern.match(name):
            names[field.column] = min(names.get(field.column, name), name, key=lambda n: (len(n), n))
    return {name: "predicted_" in name for name in sorted(names.values())}


def _property_chip(meaning: Meaning, words: str, fields: Fields) -> Chip | str:
    for wanted in meaning.ranges:
        names = property_names(wanted.quantity, fields)
        if not names:
            continue
        unknown = [f"{name} IS UNKNOWN" for name, predicted in names.items() if not predicted]
        parts = [
            all_of(*(f"{name}{sign}{value:.6g}" for sign, value in wanted.tests), *(unknown if predicted else []))
            for name, predicted in names.items()
        ]
        predicted = set(names.values())
        where = {(True,): "predicted", (False,): "known values", (False, True): "known or predicted"}
        label = f"{meaning.label or _label(wanted)} ({where[tuple(sorted(predicted))]})"
        note = meaning.note
        if wanted is not meaning.ranges[0]:
            shown = meaning.label.split(":")[0]
            label = f"{shown}: {_label(wanted)} ({where[tuple(sorted(predicted))]})"
            note = meaning.fallback_note
        return Chip(words, meaning.kind, label, _any(parts), meaning.strict, note)
    quantity = meaning.ranges[0].quantity
    return f"this index has no values of {quantity_label(quantity)}, so {words!r} is searched as text"


def _label(wanted: Range) -> str:
    """`band gap ≥ 3 eV`."""
    unit = f" {quantity_unit(wanted.quantity)}".rstrip()
    shown = {">=": "≥", "<=": "≤", ">": ">", "<": "<", "=": "="}
    tests = " and ".join(f"{shown[sign]} {value:.4g}" for sign, value in wanted.tests)
    return f"{quantity_label(wanted.quantity)} {tests}{unit}"


def quantity_label(quantity: str) -> str:
    """The name of a quantity within a sentence: `band gap`."""
    return "density" if quantity == "density" else _quantity(quantity).label.lower().replace("(vrh)", "").strip()


def quantity_unit(quantity: str) -> str:
    """The unit of a quantity."""
    return "g/cm³" if quantity == "density" else _quantity(quantity).unit


def _quantity(key: str) -> Quantity:
    return next(quantity for quantity in Quantity if quantity.value == key)


def range_label(wanted: Range) -> str:
    """A range in words: `band gap ≥ 3 eV`."""
    return _label(wanted)


def _all(filters: Iterable[str]) -> str | None:
    """The conjunction of filters; None if there are none."""
    parts = list(dict.fromkeys(filters))
    return parts[0] if len(parts) == 1 else " AND ".join(_bracketed(part) for part in parts) or None


def _any(filters: Iterable[str]) -> str:
    """The disjunction of filters."""
    parts = list(dict.fromkeys(filters))
    return parts[0] if len(parts) == 1 else " OR ".join(_bracketed(part) for part in parts)


def all_of(*filters: str) -> str:
    """The conjunction of filters."""
    return _all(filters) or ""


def any_of(*filters: str) -> str:
    """The disjunction of filters."""
    return _any(filters)


def none_of(text: str) -> str:
    """The negation of a filter."""
    return f"NOT {text}" if _is_single(text) else f"NOT ({text})"


def _is_single(text: str) -> bool:
    """Whether a filter is one comparison that needs no brackets."""
    return not re.search(r" (?:AND|OR) |^NOT ", text)


def _bracketed(text: str) -> str:
    return text if _is_single(text) or (text.startswith("NOT ") and _is_single(text[4:])) else f"({text})"


def has(symbols: Sequence[str], mode: str = "ALL") -> str:
    """`elements HAS ALL "Li","O"`."""
    quoted = ",".join(f'"{symbol}"' for symbol in symbols)
    return f"elements HAS {quoted}" if len(symbols) == 1 and mode != "ONLY" else f"elements HAS {mode} {quoted}"


def keyword(kind: str, names: Sequence[str], mode: str = "ANY") -> str:
    """`_crystalign_keywords HAS ANY "class:oxide","class:nitride"`."""
    quoted = ",".join(f'"{kind}:{name}"' for name in names)
    return f"{KEYWORDS} HAS {quoted}" if len(names) == 1 else f"{KEYWORDS} HAS {mode} {quoted}"


def numbers_in(field: str, numbers: Iterable[int]) -> str:
    """A filter for a set of whole numbers, written as ranges."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    parts = [f"{field}={low}" if low == high else f"{field}>={low} AND {field}<={high}" for low, high in ranges]
    return _any(parts)


def within_limits(chips: Sequence[Chip]) -> int:
    """How many of the chips, from the first, together fit the limits of filters."""
    length, cost = 0, 0.0
    for number, chip in enumerate(chips[:MAX_CHIPS]):
        longest = max((chip.filter, *chip.then), key=len)
        length += len(longest) + 7
        cost += max(_cost(text) for text in (chip.filter, *chip.then))
        if length > MAX_LENGTH or cost > MAX_COST:
            return number
    return min(len(chips), MAX_CHIPS)


def _cost(text: str) -> float:
    return sum(price * len(re.findall(pattern, text)) for pattern, price in _COSTS)


def either_of(meanings: Sequence[Meaning]) -> Meaning:
    """Alternatives as one meaning: at each level, any of their filters holds."""

    def levels(listed: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        depth = max(map(len, listed)) if all(listed) else 0
        return tuple(dict.fromkeys(_any(one[min(n, len(one) - 1)] for one in listed) for n in range(depth)))

    return replace(
        meanings[0],
        label=" or ".join(meaning.label for meaning in meanings),
        filters=levels([meaning.filters for meaning in meanings]),
        fallback=levels([meaning.fallback for meaning in meanings]),
    )


def merged(chips: Sequence[Chip], words: str) -> Chip:
    """Join alternatives such as `oxide or nitride` into one chip: at each level, any of their filters holds."""
    depth = max(len(chip.then) for chip in chips)
    levels = list(dict.fromkeys(_any(chip.level(n) for chip in chips) for n in range(depth + 1)))
    label = " or ".join(chip.label for chip in chips)
    note = "; ".join(dict.fromkeys(chip.note for chip in chips if chip.note))
    return Chip(words, chips[0].kind, label, levels[0], all(c.strict for c in chips), note, tuple(levels[1:]))
