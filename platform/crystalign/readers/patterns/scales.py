"""Detect positions that look like 2θ, Q or d but are not, by column name or by value."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import SpectrumError
from crystalign.readers.text.columns import TextTable

Array = NDArray[np.float64]

_SIGN = r"(?:\^?\s*[({]?\s*[-\u2212\u2013]\s*|\u207b)"
_RECIPROCAL = re.compile(
    r"(?:[xX]\s?[:=]\s*)?[\"'\[(|$\\]{0,3}\s{0,4}(?:"
    r"\d*\s*/\s*d(?![a-z])|d\s?\*|d[\s_-]?star\b|d\s?\^\s*[({]?\s*[-\u2212\u2013]|d\s?\u207b|d\s?-\s?[12]\b|inverse\s+d|"
    r"reciprocal\s+(?:d|space|spac\w*|lattice)\b|(?:[\d.\u03c0\s*]|pi\b){0,6}\s*(?:sin|cos|tan)(?:\^?2|\u00b2)?\s*[\s(]*(?:th|\u03b8|2\s*th)|sin\b|"
    r"sthl?\b|stol\b|sinth\w*|s\s*[=:]\s*(?:\d|sin|q|1\s*/)|"
    r"q\s?(?:\^\s*2|\*\*\s*2|\u00b2|2\b|sq\w*)|q\s*/|q\s*[\[(]\s*(?:10|\d*\s*(?:pi|\u03c0))|"
    r"(?:log|ln|lg|sqrt|exp)(?:_?10)?[\s(_]+(?:q|d|2|th|s)\b|\u221a)",
    re.IGNORECASE,
)
"""Names at the beginning of a line or a column."""
_POWER = re.compile(r"(?:1\s*0|1e)\s*\^?\s*\d*\s*/?\s*(?:nm|\u00c5|a|m|cm)(?![a-z])", re.IGNORECASE)
_UNIT = r"(?:[nmc\u00b5u\u03bcp]?m|\u00c5|\u212b|aa?|ang(?:str\w*)?|[km]?ev|[mnu\u00b5]?s|sec\w*|min|h|k|m?v|[kmgt]?hz)"
_NO_ANGLE = re.compile(
    rf"[\[(_/]\s*(?:(?:1\s*/\s*{_UNIT}|{_UNIT}\s*(?:\^?\s*[({{]?\s*[-\u2212\u2013]\s*[12]|\u207b[\u00b9\u00b2])[)}}]?|{_UNIT})\s*(?:[\])]|$))",
    re.IGNORECASE,
)
"""A unit beside a name that is no unit of an angle."""
MAX_NAME = 200


def refuse_other_scales(table: TextTable, *, recognised: bool) -> None:
    """Refuse positions that the header calls reciprocal d, sin θ / λ, Q² and the like.

    Args:
        table: rows and header.
        recognised: whether the positions were recognised as 2θ, Q or d by a name.

    Raises:
        SpectrumError: such a name, or a unit that no angle has.
    """
    texts = list(table.names[:1]) or [line.lstrip("#!%;/*'\" \t") for line in table.header]
    for text in texts:
        name = text[:MAX_NAME].strip()
        power = re.match(r"(?i)q", name) and _POWER.search(name[:40])
        if _RECIPROCAL.match(name) or power:
            raise _unclear(name)
    if not recognised and table.names and (match := _NO_ANGLE.search(table.names[0][:MAX_NAME])):
        raise _unclear(f"{table.names[0][:40]}, with the unit {match[0].strip()}")


def _unclear(name: str) -> SpectrumError:
    message = f"the positions are called {name[:60]!r}; give 2θ in degrees, Q (1/A or 1/nm) or d (A or nm)"
    return SpectrumError(message, reason="axis-unclear")


def second_scale(table: TextTable, position: int, intensity: int) -> tuple[int, int, str] | None:
    """Columns of 2θ and of the intensity, and a notice, where two columns are both positions.

    2 d sin θ is one wavelength in all rows if one of them is 2θ and the other d.

    Raises:
        SpectrumError: the column taken for the intensity rises or falls throughout, and is not d.
    """
    values = table.values[np.isfinite(table.values[:, [position, intensity]]).all(axis=1)]
    if len(values) < 20:
        return None
    first, second = values[:, position], values[:, intensity]
    steps = np.diff(second)
    if not ((steps >= 0).all() or (steps <= 0).all()) or (steps == 0).mean() > 0.5:
        return None  # no positions; values of d may repeat where they are rounded, but not in most rows
    order = [(position, intensity)] if _bragg(first, second) else []
    order += [(intensity, position)] if _bragg(second, first) else []
    rest = list(range(max(position, intensity) + 1, table.values.shape[1]))
    if order and rest:
        angle, spacing = order[0]
        notice = (
            f"column {spacing + 1} is d of the angles in column {angle + 1}; column {rest[0] + 1} was read as intensity"
        )
        return angle, rest[0], notice
    if order:
        raise SpectrumError("the two columns are 2θ and d; there is no intensity", reason="no-intensity")
    if rest:
        message = (
            f"column {intensity + 1} rises or falls throughout, as positions do, and the header does not call it the "
            "intensity; name the columns, such as 2theta and counts"
        )
        raise SpectrumError(message, reason="columns-ambiguous")
    return None


def _bragg(angle: Array, spacing: Array) -> bool:
    """Whether nearly all rows obey Bragg's law with one wavelength."""
    if angle.min() <= 0 or angle.max() >= 180 or spacing.min() <= 0:
        return False
    wavelength = 2.0 * spacing * np.sin(np.radians(0.5 * angle))
    middle = float(np.median(wavelength))
    near = np.abs(wavelength - middle) < 0.02 * middle
    return 0.05 < middle < 5.0 and bool(near.mean() > 0.98)
