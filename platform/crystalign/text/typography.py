"""Convert TeX, HTML and Unicode typography to plain characters, and keep track of their positions in the original.

`Li$_{1-x}$FePO$_4$`, `Li<sub>1-x</sub>FePO<sub>4</sub>` and `Li₁₋ₓFePO₄` all become `Li1-xFePO4`. For every plain
character, the corresponding part of the original is known, so that a match can be cut out of the original.
"""

from __future__ import annotations

import functools
import html
import re
import unicodedata
from typing import NamedTuple

_GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eta": "η", "theta": "θ", "kappa": "κ"}
_GREEK |= {"lambda": "λ", "tau": "τ", "omega": "ω", "varepsilon": "ε", "sigma": "σ", "zeta": "ζ", "mu": "μ"}
_CHARACTERS = {
    **dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₓₙₘ", "0123456789+-xnm", strict=True)),
    **dict.fromkeys("·•∙⋅・‧●", "·"),
    **dict.fromkeys("‐‑‒–—−", "-"),
    **dict.fromkeys("\u00a0\u2009\u200a\u202f\u3000\t\n\r~", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad${}", ""),
    "ﬁ": "fi",
    "ﬂ": "fl",
    "ﬀ": "ff",
    "½": "1/2",
    "⅓": "1/3",
    "⅔": "2/3",
    "’": "'",
    "′": "'",
}
_FIXED = {"prime": "'", "dot": "·", "plusminus": "±", "tag": "", "font": "", "low": ""}
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_FONTS = (
    "mathrm|mathsf|mathbf|mathit|mathcal|textit|textbf|textrm|textsf|textsubscript|operatorname|rm|it|bf|sf|sl|text"
    "|ce|emph|ensuremath|mbox|hbox|boldsymbol|bm|pmb|cal|rmfamily|left|right"
)
_AMOUNT_FOLLOWS = (
    rf"(?=[\s{{$]*(?:\\(?:{_FONTS})\b[\s{{]*)*"
    r"(?:[\d.(+-]|\\(?:delta|epsilon|varepsilon)\b|(?-i:[xyznmdδε])(?![A-Za-z])))"
)


_CIF = re.compile(r"(?<=[A-Za-z)\]])(~)(?:<i>)?[\d.xyz+/-]{1,10}(?:</i>)?(~)")
"""A subscript in a CIF, as in `Y~2~O~3~`; elsewhere `~` is a space, as in TeX."""
_CIF_GREEK = dict(zip("abgdehklmstwz", "αβγδεηκλμστωζ", strict=True))


class Plain(NamedTuple):
    """A text in plain characters, with the position of each character in the original."""

    text: str
    """The plain characters."""
    starts: list[int]
    """For each character, where the corresponding part of the original begins."""
    ends: list[int]
    """For each character, where the corresponding part of the original ends."""


@functools.cache
def _pattern() -> re.Pattern[str]:
    return re.compile(
        rf"""
        (?P<bar>\\(?:overline|bar)\s*\{{?\s*(?P<under>\d)\s*\}}?|(?P<barred>\d)[\u0304\u0305])
      | (?P<up></?(?:sup|mml:msup)\b[^>]*>|\\(?:textsuperscript|sp)\b\s*)
      | (?P<tag></?(?:sub|i|b|em|strong|inf|mml:\w+|math|mrow|mi|mn|msub)\b[^>]*>)
      | \\(?P<greek>{"|".join(sorted(_GREEK, key=len, reverse=True))})(?![A-Za-z])\s?
      | \\(?P<letter>(?-i:[abgdehklmstwz]))(?=[- ])
      | (?P<dot>\\cdot(?![A-Za-z])\s?)
      | (?P<prime>\^?\s?\{{?\s?\\prime(?![A-Za-z])\}}?)
      | (?P<plusminus>\\pm(?![A-Za-z])\s?)
      | (?P<font>\\(?:{_FONTS})(?![A-Za-z])\s?|\\[,;!/:])
      | (?P<entity>&\#?\w{{1,8}};)
      | (?P<low>(?:\\?_|\\sb\b)(?:{_AMOUNT_FOLLOWS}|(?<=\d_)(?-i:(?=[A-Z]))))
      | (?P<raised>[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+)
      | (?P<run>[A-Za-z ,.;:()]+)
      | (?P<other>.)
        """,
        re.VERBOSE | re.DOTALL | re.IGNORECASE,
    )


def plain(text: str) -> Plain:
    """The text in plain characters; superscripts are preceded by `^`, subscripts by nothing.

    A subscript that is not an amount keeps its `_`, as in `T_c`, because it belongs to a quantity and not to a
    formula.
    """
    out: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    lowered = {position for match in _CIF.finditer(text) for position in (match.start(1), match.start(2))}
    for match in _pattern().finditer(text):
        start, end = match.span()
        if match.lastgroup == "run":
            out.extend(match[0])
            starts.extend(range(start, end))
            ends.extend(range(start + 1, end + 1))
        elif start not in lowered:
            for character in _resolve(match):
                out.append(character)
                starts.append(start)
                ends.append(end)
    return Plain("".join(out), starts, ends)


def _resolve(match: re.Match[str]) -> str:
    """The plain characters of one match."""
    kind, piece = match.lastgroup or "", match[0]
    if kind in _FIXED:
        return _FIXED[kind]
    if kind in {"bar", "under", "barred"}:
        return "-" + (match["under"] or match["barred"])
    if kind in {"greek", "letter"}:
        return _GREEK[match["greek"].lower()] if kind == "greek" else _CIF_GREEK[match["letter"]]
    if kind == "up":
        return "" if piece.startswith("</") else "^"
    if kind == "raised":
        return "^" + piece.translate(_RAISED)
    written = html.unescape(piece) if kind == "entity" else piece
    return "".join(_CHARACTERS.get(c, c) for c in unicodedata.normalize("NFC", written).translate(_WIDE))
