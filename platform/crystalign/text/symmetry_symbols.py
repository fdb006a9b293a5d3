"""Recognise symmetry symbols in running text: Hermann–Mauguin, Schoenflies, Pearson and Strukturbericht."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

_CANDIDATE = re.compile(r"(?<![A-Za-z0-9])[PIFABCRH](?:[ _]?(?:-?[1-6]|[mabcnde/]|\([1-5]\)|:[12HRh]))+")
_CONTEXT_BEFORE = re.compile(
    r"(?:space[- ]?group|symmetr\w+|\bgroup|S\.?G\.?:?|polymorph|phase|structure|setting)\W{0,4}\w{0,3}\W{0,3}$"
)
_CONTEXT_AFTER = re.compile(r"[)\s-]*(?:space[- ]?group|symmetr\w+|phase|structure|polymorph|\((?:[Nn]o\.?|#|space))")
_NUMBER = r"(?:[Nn]o\.?|[Nn]umber|[Nn]r\.?|#|№)"
_PHRASE = re.compile(
    rf"\b(?:space[- ]?groups?|[Ss]\.?[Gg]\.?(?=[\s:=#]))[\s:=,]*(?:symbol|type|of|is|{_NUMBER})?[\s:=]*{_NUMBER}?\s*"
    rf"(?P<first>\d{{1,3}}\b|[PIFABCRHpifabcr][-_/ ]?[\dmabcnde][-_/()\dmabcnde]*)"
    rf"(?P<more>(?:\s?(?:,|and|or|to|-)\s?(?:{_NUMBER}\s?)?(?:\d{{1,3}}\b|[PIFABCR][-_/()\dmabcnde]+\b))*)",
    re.IGNORECASE,
)
_BEHIND = re.compile(rf"\s?[(\[,]?\s?(?:space[- ]?group\s?)?{_NUMBER}\s?\d{{1,3}}[)\]]?|\s?\(\d{{1,3}}\)")
_SCHOENFLIES = re.compile(
    r"(?<![A-Za-z0-9])(?:[CD]_?\d[hvd](?:\^\d+)?|[OT]_?[hd]\^\d+"
    r"|(?:C_?[six]|D_?\d|[CS]_?\d|T_?[dh]|O_?h)(?=[- ](?:symmetr|rotation|point)))(?![A-Za-z0-9])"
)
_POINT = re.compile(
    r"(?<![\w/-])(?:-?[346]/?m{1,3}|-[346]2?m2?|m-?3m|6/mmm|4/mmm|-43m|432|mm2|mmm|2/m|m-3|222|422|622|32)(?=\s+(?:point|symmetr))"
    r"|(?<=point group )(?:[-\dm/]+|[CDSOT]_?\d?[hvdis]?)(?![A-Za-z0-9])"
)
_PEARSON = re.compile(r"(?<![A-Za-z0-9])(?:[cthom][PIFCRS]|a[P])\d{1,3}(?![A-Za-z0-9])")
_STRUKTURBERICHT = re.compile(
    r"(?<![A-Za-z0-9])(?:L1_?[012]|L2_?1|D0?_?(?:22|19)|DO_?(?:3|19|22)|D0_?3|A15|B20|C14|C15b?|C36|C1_?b|C11_?b|D8_?8|"
    r"[AB][1-4](?=[- ]?(?:phase|structure|type|order|-B|to B)))(?![A-Za-z0-9])"
)


_WORDS = frozenset(["An", "Am", "Im", "Ia", "Pa", "Aa", "Ca", "Fd", "Fm", "Ic", "Cn"])
"""Symbols of unusual settings that are also words or elements."""


def _squeezed(symbol: str) -> str:
    """`P 2(1)/c` → `P21/c`: without spaces, underscores and brackets."""
    return re.sub(r"[ _()]", "", symbol)


@functools.cache
def _known() -> frozenset[str]:
    """All Hermann–Mauguin symbols in gemmi's table of settings, short and full; cubic ones also written as `Fm3m`."""
    import gemmi

    symbols = set()
    for group in gemmi.spacegroup_table():
        for symbol in (group.hm, group.short_name(), group.xhm()):
            symbols.add(_squeezed(symbol))
    symbols |= {"".join(s) for s in ("Cmce", "Aem2", "Aea2", "Ccce", "Cmme")}
    return frozenset(symbols | {symbol.replace("-3", "3") for symbol in symbols if re.search("[a-z]-3", symbol)})


def find_space_groups(text: str) -> Iterator[tuple[int, int]]:
    """Find space groups in plain text: symbols, and numbers after words such as `space group`.

    Yields:
        (start, end) of each symbol or number.
    """
    for match in _CANDIDATE.finditer(text):
        end = _longest(text, match)
        if end and (_certain(match.group()[: end - match.start()]) or _in_context(text, match.start(), end)):
            yield match.start(), _with_number(text, end)
    for match in _PHRASE.finditer(text):
        yield match.start("first"), _with_number(text, match.end("first"))
        for more in re.finditer(r"\d{1,3}\b|[PIFABCR][-_/()\dmabcnde]+", match["more"]):
            yield match.start("more") + more.start(), match.start("more") + more.end()
    for pattern in (_SCHOENFLIES, _POINT):
        for match in pattern.finditer(text):
            yield match.span()


def _longest(text: str, match: re.Match[str]) -> int:
    """The end of the longest symbol of the table that begins here; 0 if there is none."""
    for end in range(match.end(), match.start() + 1, -1):
        whole = not text[end : end + 1].isalnum() and text[end - 1] != " "
        symbol = _squeezed(text[match.start() : end])
        if whole and symbol in _known() and symbol not in _WORDS:
            return end
    return 0


def _certain(symbol: str) -> bool:
    """Whether a symbol is unambiguous, such as `Pnma` and `P21/c`; `P1`, `Cc` and `C2` need a context."""
    squeezed = _squeezed(symbol)
    return len(squeezed) > 3 or ("/" in squeezed) or squeezed in {"P-1", "R-3", "R3c", "R3m", "P31", "P63", "P61"}


def _in_context(text: str, start: int, end: int) -> bool:
    return bool(_CONTEXT_BEFORE.search(text[max(0, start - 40) : start]) or _CONTEXT_AFTER.match(text, end))


def _with_number(text: str, end: int) -> int:
    behind = _BEHIND.match(text, end)
    return behind.end() if behind else end


def find_structure_symbols(text: str) -> Iterator[tuple[int, int]]:
    """Find Strukturbericht and Pearson symbols in plain text.

    Yields:
        (start, end) of each symbol.
    """
    for pattern in (_PEARSON, _STRUKTURBERICHT):
        for match in pattern.finditer(text):
            yield match.span()
