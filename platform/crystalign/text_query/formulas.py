"""Formulas in a query: exact ones, those with wildcards or letters for any element, and chemical systems."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from crystalign.crystal import SYMBOLS
from crystalign.errors import InputError
from crystalign.formula import read_formula, suggest
from crystalign.formula_text import plain_text
from crystalign.text_query.chips import Meaning, all_of, has
from crystalign.text_query.compounds import only_elements
from crystalign.text_query.element_words import group_elements

_LONGEST = 120
_WORD = re.compile(r"[A-Z][a-z]?|[A-Z]?[a-z]{2,}|[^A-Za-z*]*|[a-z]")
"""Words and symbols that cannot be formulas; whether a symbol is an element is decided by its neighbours."""
_SYMBOL = "|".join(sorted(SYMBOLS[1:104], key=len, reverse=True))
_ION = re.compile(rf"({_SYMBOL})\^?\d?\+")
_VARYING = re.compile(
    rf"(?P<symbol>{_SYMBOL})|(?P<varying>[xyznδ](?![a-z])|(?<=[A-Za-z\d)]),(?=[A-Z]))|\d+(?:\.\d+)?|[()\[\]]|[-+±](?=[xyzδ\d])"
)
_LIST = re.compile(r"[A-Za-z0-9()\[\],.+±δ-]+")
_CHUNK = re.compile(r"[A-Za-z0-9(\[{*][A-Za-z0-9()\[\]{}.·•∙/+*^_-]*")
_SUFFIX = re.compile(r"-(?:[a-z]{3,}|Type|TYPE|Structure).*$")
_POLYTYPE = re.compile(r"(?:\d?[1-9][HRTC]'?|alpha|beta|gamma|delta|epsilon|[αβγδεκθ])-(?=[A-Z])")
_SYSTEM = re.compile(r"(?:[A-Z][a-z]?)(?:-(?:[A-Z][a-z]?|\*))+(?![A-Za-z0-9*])")
_NO_FORMULA = re.compile(r"\d[A-Z][a-z]?\d*|I?V|VI{0,3}|I{1,3}|[A-Z]*D[A-Z]*|D\d+(?:_\d+)?")
"""Stacks such as 2H, Roman numerals and acronyms such as ICSD; deuterium stands beside a number or a small letter."""
_LARGEST_AMOUNT = 30
"""Largest amount in a ratio with letters for any element: `AK47` is none."""
_UNITS = re.compile(r"[A-Z][a-z]?|\*")
_GENERIC = ("RE", "Ln", "AE", "TM", "Ae", "A", "M", "R", "X", "T", "Q", "Z", "L")
_GROUP_OF = {"RE": "rare earth", "Ln": "lanthanide", "R": "rare earth", "AE": "alkaline earth metal"}
_GROUP_OF |= {"Ae": "alkaline earth metal", "TM": "transition metal"}
"""Letters in formulas → groups of elements that they stand for."""
_GENERIC_UNIT = re.compile(r"(RE|AE|TM|[A-Z][a-z]?|\*)'*(\d{0,4})")
_LOWER_BINARIES = frozenset(
    """nacl kcl licl lif naf kbr csi cscl cscl gaas gan gap inp inas insb gasb alas alp alsb aln zno zns znse znte cds
    cdse cdte hgte hgse hgs pbs pbse pbte pbo sno sns snse snte ges gete gese mgo cao bao sro nio coo feo mno cuo
    tio vo sic tic tin ticn wc vn nbn nbc tan tac zrc zrn hfc hfn bn bp bas csbr rbcl agcl agbr agi cucl cubr cui
    fesi cosi mnsi nias nisb fes cos nis mns sige niti feal nial coal inn beo""".split()  # noqa: SIM905 (formulas)
) - frozenset(["gap", "tin", "tan", "cos", "tic", "coal", "vo", "inn", "bas"])
"""Formulas of two elements that are understood in lower case; words of English are left out."""


class Found(NamedTuple):
    """A formula in the text."""

    meaning: Meaning
    """What it means."""
    end: int
    """Where it ends in the plain text."""
    reduced: str = ""
    """The reduced formula, if it is an exact one."""
    elements: tuple[str, ...] = ()
    """The symbols of a chemical system or a single element; empty otherwise."""


def find_formula(text: str, start: int) -> Found | None:
    """A formula, a chemical system or a formula with letters for any element at a place of the plain text."""
    begin = start - 1 if start and text[start - 1] in "([{" else start
    system = _SYSTEM.match(text, start, start + _LONGEST)
    if system and (found := _chemical_system(system)):
        return found
    match = _CHUNK.match(text, begin, begin + _LONGEST)
    follows = text[match.end() : match.end() + 1] if match else ""
    if match is None or (follows.isalnum() and follows not in "δε"):
        return None
    chunk = _trimmed(match[0])
    prefix = _POLYTYPE.match(chunk)
    skipped = prefix.end() if prefix else 0
    body = chunk[skipped:]
    if _WORD.fullmatch(body) and body not in _LOWER_BINARIES:
        return None
    end = begin + skipped + len(body)
    return (
        (_with_amounts_that_vary(text, begin) if follows else None)
        or _exact(body, end)
        or _with_letters(body, end)
        or _with_amounts_that_vary(text, begin)
        or _before_a_hyphen(body, begin + skipped)
    )


def _before_a_hyphen(body: str, begin: int) -> Found | None:
    """The compound of `WC-Co` and `SiC-6H`; a hyphen within a chemical system or an amount is none of these."""
    compound, hyphen, behind = body.partition("-")
    several = len(re.findall(r"[A-Z]", compound)) > 1
    return _exact(compound, begin + len(compound)) if hyphen and several and behind else None


def _trimmed(chunk: str) -> str:
    """Without a suffix such as `-type`, a full stop at the end, or brackets that do not match."""
    chunk = _SUFFIX.sub("", chunk).rstrip(".-/*^_") if not chunk.endswith("*") else chunk
    for opening, closing in ("()", "[]", "{}"):
        while chunk.endswith(closing) and chunk.count(closing) > chunk.count(opening):
            chunk = chunk[:-1]
    return chunk


def _exact(body: str, end: int) -> Found | None:
    if ion := _ION.fullmatch(body):
        return Found(Meaning("elements", f"contains {ion[1]}", (has([ion[1]]),)), end, "", (ion[1],))
    if "*" in body or "^" in body or body.count("(") != body.count(")") or _NO_FORMULA.fullmatch(body):
        return None
    try:
        read = read_formula(body)
    except InputError:
        return _lower_case(body, end)
    if len(read.amounts) > 1 and "·" not in body and any(x.denominator > 1 for x in read.amounts.values()):
        own, system = _formula(body, read.notes), _mixture(body, [SYMBOLS[z] for z in read.amounts])
        label = f"{body} first, then {system.label.partition(': ')[2].removesuffix(' first')}"
        return Found(replace(system, label=label, filters=(*own.filters, *system.filters)), end)
    return Found(_formula(body, read.notes), end, read.reduced)


def _mixture(body: str, symbols: Sequence[str]) -> Meaning:
    """A compound whose sites are shared, such as La0.7Sr0.3MnO3: crystals of its elements."""
    return Meaning("chemical system", f"{body}: only {', '.join(symbols)} first", only_elements(symbols))


def _with_amounts_that_vary(text: str, begin: int) -> Found | None:
    """`LixCoO2`, `YBa2Cu3O7-x` and `Li(Ni,Mn,Co)O2`: crystals of these elements."""
    chunk = _LIST.match(text, begin, begin + _LONGEST)
    if chunk is None:
        return None
    body = chunk[0].rstrip(",.-+")
    pieces = list(_VARYING.finditer(body))
    symbols = list(dict.fromkeys(piece["symbol"] for piece in pieces if piece["symbol"]))
    whole = "".join(piece[0] for piece in pieces) == body
    varies = any(piece["varying"] for piece in pieces) and ("," not in body or "(" in body)
    if not whole or not varies or len(symbols) < 2 or len(symbols) > 12:
        return None
    return Found(_mixture(body, symbols), begin + len(body))


def _formula(body: str, notes: Sequence[str]) -> Meaning:
    plain = plain_text(body)
    text = f'chemical_formula_reduced="{plain}"'
    return Meaning("formula", f"formula {plain}", (text,), strict=False, note="; ".join(notes))


def _lower_case(body: str, end: int) -> Found | None:
    """A formula in lower case, `fe2o3` or `nacl`, if nothing else is likely."""
    if not re.fullmatch(r"[a-z0-9()]{2,24}", body) or not (body in _LOWER_BINARIES or re.search(r"[a-z]\d", body)):
        return None
    if re.fullmatch(r"[a-z]\d{1,2}[a-z]?|\d[a-z]{1,3}|[a-z]{4,}\d+|[a-z]{1,2}\d", body) and not _is_binary(body):
        return None
    candidates = suggest(body)
    if not candidates:
        return None
    read = read_formula(candidates[0])
    others = f"; it may also be {candidates[1]}" if len(candidates) > 1 and body not in _LOWER_BINARIES else ""
    note = f"read as {candidates[0]}{others}"
    return Found(_formula(candidates[0], (note, *read.notes)), end, read.reduced)


def _is_binary(body: str) -> bool:
    """Whether a lower-case text with one number reads as a compound: `tio2`, but not `type1` or `n2`."""
    candidates = suggest(body)
    return bool(candidates) and len(read_formula(candidates[0]).amounts) > 1


def _chemical_system(match: re.Match[str]) -> Found | None:
    """`Li-Co-O`: crystals of exactly these elements first, then all that contain them; `Li-*-O`: one more element."""
    units = _UNITS.findall(match[0])
    symbols = [unit for unit in units if unit != "*"]
    if any(symbol not in SYMBOLS[1:] for symbol in symbols) or len(set(symbols)) != len(symbols):
        return None
    if len(symbols) == len(units):
        return Found(system_meaning(symbols), match.end(), "", tuple(symbols))
    label = f"{', '.join(symbols)} and {len(units) - len(symbols)} other elements".replace(
        "1 other elements", "one other"
    )
    filters = (all_of(f"nelements={len(units)}", has(symbols)),)
    return Found(Meaning("chemical system", label, filters), match.end())


def system_meaning(symbols: Sequence[str]) -> Meaning:
    """A chemical system."""
    label = f"chemical system {'-'.join(sorted(set(symbols)))} first, then all that contain it"
    return Meaning("chemical system", label, only_elements(symbols))


def _with_letters(body: str, end: int) -> Found | None:
    """`ABO3`, `Li*O2`, `LnNiO3`: the ratio of the elements, and those elements that are named."""
    plain = re.sub(r"[_{}]", "", body)
    if re.search(r"[()\[\]]", plain):
        plain = re.sub(r"\(([A-Z][a-z]?)'?[,/]?([A-Z][a-z]?)\)", r"\1\2", plain)
    units = [(m[1], int(m[2] or 1)) for m in _GENERIC_UNIT.finditer(plain)]
    if len(units) < 2 or "".join(m[0] for m in _GENERIC_UNIT.finditer(plain)) != plain or len(units) > 8:
        return None
    if (
        not any(digit.isdigit() for digit in plain)
        and "*" not in plain
        and not re.fullmatch("[AMRX][BMTX][CXO]?", plain)
    ):
        return None
    letters = {unit for unit, _ in units}
    variable = letters & set(_GENERIC) | (letters & {"*"})
    if not variable:
        return None
    if letters & {"A", "X"} or re.match("A?B", plain):
        variable |= letters & {"B", "C", "B'"} - ({"C"} if "B" not in letters else set())
    if {"X", "Z"} <= letters:
        variable |= letters & {"Y"}
    real = [(unit, n) for unit, n in units if unit not in variable]
    if any(unit not in SYMBOLS[1:] for unit, _ in real) or any(not 0 < n <= _LARGEST_AMOUNT for _, n in units):
        return None
    return _ratio_meaning(body, end, units, real)


def _ratio_meaning(body: str, end: int, units: list[tuple[str, int]], real: list[tuple[str, int]]) -> Found | None:
    divisor = math.gcd(*(n for _, n in units))
    counts = sorted((n // divisor for _, n in units), reverse=True)
    if len(set(counts)) > 6 or len(counts) > 6:
        return None
    letters = "ABCDEFGH"
    anonymous = "".join(letters[i] + (str(n) if n > 1 else "") for i, n in enumerate(counts))
    parts = [f'chemical_formula_anonymous="{anonymous}"']
    if real:
        parts.insert(0, has([unit for unit, _ in real]))
        amounts = Counter(counts)
        for unit, n in real[:3]:
            if n // divisor > 1 and amounts[n // divisor] < len(units):
                parts.append(f'chemical_formula_reduced CONTAINS "{unit}{n // divisor}"')
    for unit, _ in units:
        if unit in _GROUP_OF:
            parts.insert(0, has(list(group_elements()[_GROUP_OF[unit]]), "ANY"))
    named = f" with {', '.join(unit for unit, _ in real)}" if real else ""
    return Found(Meaning("formula", f"ratio {body}{named}", (all_of(*parts),)), end)
