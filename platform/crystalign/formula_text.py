"""The typography of formulas: subscripts and superscripts, charges, and dots as separators or decimal points.

Every function raises `ValueError` with a short reason if a text is ambiguous or not readable.
"""

from __future__ import annotations

import re

_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_PLAIN = {
    **dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)),
    **dict.fromkeys("·•∙⋅・‧●*", "·"),
    **dict.fromkeys("‐‑‒–—−", "-"),
    **dict.fromkeys("\u00a0\u2009\u200a\u202f\u3000\t\n\r", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff$", ""),
    "½": "1/2",
    "⅓": "1/3",
    "⅔": "2/3",
    "¼": "1/4",
    "¾": "3/4",
    "⁄": "/",
    "＋": "+",
}
_STARTS_WITH_WATER = re.compile(r"\(?(?:H2O|D2O|T2O|OH2|HDO)\)?(?=$|[·. )\]}])")
_SOLVATES = re.compile(
    r"(?:NH3|ND3|HCl|HBr|HF|HI|CO2|SO2|SO3|H2O2|HNO3|H2SO4|CH3OH|C2H5OH|CH3CN|C2H6O|N2H4)(?=$|[·. )\]}])"
)
_ANIONS = ("NO3", "NO2", "BF4", "BH4", "PF6", "AsF6", "SbF6", "ClO4", "ClO3", "BrO3", "IO3", "MnO4", "AlH4", "AlCl4")
_IONS = frozenset(["NH4+", "ND4+", "H3O+", "HCO3-", "HSO4-", "H2PO4-", *(f"{anion}-" for anion in _ANIONS)])
_WHOLE_COMPLEX = re.compile(r"\[[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*\](\d*[+-]+)")
_CHARGES = (
    re.compile(r"\s*\^\(?(\d*[+-]+|[+-]\d+)\)?$"),  # raised, or behind ^
    re.compile(r"\((\d*[+-])\)$"),
    re.compile(r"(?<=\S)\s+(\d*[+-]+|[+-]\d+)$"),
    re.compile(r"(?<![\d+-])([+-]+)$"),  # Na+, OH-, (NH4)+
    re.compile(r"(?<=\d)([+-]{2,})$"),  # SO4--
)
_CHAIN = re.compile(r"\d*(?:\.\d+)+")


def plain_text(text: str) -> str:
    """The text in ASCII plus `·`: subscripts become digits, superscripts follow a `^`, TeX markup is removed."""
    bad = next((c for c in text if 0xD800 <= ord(c) <= 0xDFFF), None)
    if bad is not None:
        raise ValueError(f"it holds U+{ord(bad):04X}, half of a surrogate pair")
    if re.search(r"\d[½⅓⅔¼¾]", text):
        raise ValueError("a whole number stands before a fraction; write decimals")
    raised = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+", lambda m: "^" + m[0].translate(_RAISED), text.strip())
    plain = "".join(_PLAIN.get(c, c) for c in raised).strip()
    plain = re.sub(r"_\{?(\d+(?:\.\d+)?)\}?", r"\1", plain)
    plain = re.sub(r"\^\{([\d+-]+)\}", r"^\1", plain)
    if re.search(r"\d,\d", plain):
        raise ValueError("it holds a comma; write decimals with a point")
    return re.sub(r"(^|[(\[·])\^\d+(?=[A-Z])", r"\1", plain)  # the mass number of an isotope


def strip_charge(text: str) -> tuple[str, tuple[str, ...]]:
    """Remove the charge of a formula; returns the formula and a note on the charge, if there was one."""
    charge = next((match for pattern in _CHARGES if (match := pattern.search(text))), None)
    if charge is not None:
        return text[: charge.start()], (f"the charge {charge[1]} is left out",)
    if whole := _WHOLE_COMPLEX.fullmatch(text):  # [Fe(CN)6]4-
        return text[: whole.start(1)], (f"the charge {whole[1]} is left out",)
    if tight := re.search(r"(\d+)([+-])$", text):
        neutral, digits, sign = text[: tight.start()], tight[1], tight[2]
        if text in _IONS:
            return text[:-1], (f"the charge {sign} is left out",)
        if re.fullmatch(r"[A-Z][a-z]?", neutral):  # Fe3+ has the composition of iron in both readings
            return neutral, (f"the charge {digits}{sign} is left out",)
        other = f"{neutral}{digits[:-1]}^{digits[-1]}{sign}"
        raise ValueError(f"{digits}{sign} may be amount and charge; write {neutral}{digits}^{sign} or {other}")
    if stray := re.search(r"[+^-]", text):
        raise ValueError(f"{stray[0]!r} has no meaning there; write a charge at the end, as in Fe3+ or SO4^2-")
    return text, ()


def separate(text: str) -> tuple[str, tuple[str, ...]]:
    """Resolve spaces, and replace every point that separates two formulas by `·`; a note says if there was one."""
    joined = _resolve_spaces(text)
    out: list[str] = []
    at, depth, parted = 0, 0, False
    while at < len(joined):
        chain = _CHAIN.match(joined, at) if joined[at].isdigit() or joined[at] == "." else None
        if chain is not None:
            written = _read_chain(chain[0], "".join(out), joined[chain.end() :])
            parted |= "·" in written
            out.append(written)
            at = chain.end()
            continue
        number = re.compile(r"\d+").match(joined, at)
        if number is not None:
            out.append(number[0])
            at = number.end()
            continue
        character = joined[at]
        depth += (character in "([{") - (character in ")]}")
        if character == ".":
            if at == 0 or not re.match(r"[A-Z(\[]", joined[at + 1 : at + 2]):
                raise ValueError("there is a point that belongs to no number")
            parted, character = True, "·"
        out.append(character)
        at += 1
    read = "".join(out)
    return read, ((f"read as {read}",) if parted else ())


def _resolve_spaces(text: str) -> str:
    """Remove spaces: `Fe2 O3` and `Fe 2 O 3` → Fe2O3, `CuSO4 5H2O` and `CuSO4 5 H2O` → CuSO4·5H2O."""
    words = re.sub(r"\s*·\s*", "·", text).split()
    out = words[0] if words else ""
    for number, word in enumerate(words[1:], 1):
        following = words[number + 1] if number + 1 < len(words) else ""
        before = "" if out == "" else out[-1]
        coefficient = re.match(r"(\d+(?:\.\d+|/\d+)?)(.*)$", word)
        if coefficient is None or out[-1] == "·":
            out += word
        elif coefficient[2]:
            if not _STARTS_WITH_WATER.match(coefficient[2]):
                raise ValueError(f"the number in {out} {word} may belong to either side; leave the space out")
            out += "·" + word
        elif following and _STARTS_WITH_WATER.match(following):
            if not (before.isdigit() or before in ")]"):
                raise ValueError(f"the number in {out} {word} {following} may belong to either side; write ·")
            out += "·" + word
        elif before.isdigit():
            raise ValueError(f"two numbers follow each other in {out} {word}")
        else:
            out += word
    return out


def _read_chain(chain: str, before: str, after: str) -> str:
    """Interpret a number with one or more points; points that separate two formulas are replaced by `·`.

    Args:
        chain: the number with its points, such as `4.5`, `.5`, `4.0.5`.
        before: the text before it, already interpreted.
        after: the text after it.
    """
    whole, *decimals = chain.split(".")
    leads = not before or before[-1] in "([{·"  # a coefficient
    if len(decimals) == 1:
        return chain if leads else _read_point(whole, decimals[0], before, after)
    if len(decimals) == 2 and not leads:
        if whole.startswith("0"):
            return f"{whole}.{decimals[0]}·{decimals[1]}"
        if decimals[0] == "0":
            return f"{whole}·0.{decimals[1]}"
    raise ValueError(f"{chain} has more than one reading; write · between two formulas")


def _read_point(whole: str, fraction: str, before: str, after: str) -> str:
    """Interpret one point between `whole` (may be empty) and `fraction`: a decimal point, or a separator."""
    decimal, parted = f"{whole}.{fraction}", f"{whole}·{fraction}"
    if after.startswith("/"):
        return parted
    if whole.startswith("0") or len(fraction) > 2 or not after or after[0] in ")]}·. ":
        return decimal
    ambiguity = f"{decimal} may be one number, or end one formula and begin another; write {before}{parted}{after}"
    if _STARTS_WITH_WATER.match(after):
        if whole == "1":
            raise ValueError(f"{ambiguity} for the second")
        return parted
    left = set(re.findall(r"[A-Z][a-z]?", re.split(r"[·(\[{]", before)[-1]))
    right = set(re.findall(r"[A-Z][a-z]?", re.split(r"[·)\]}]", after)[0]))
    if whole != "1" and (_SOLVATES.match(after) or left & right):
        raise ValueError(f"{ambiguity} for the second")
    return decimal
