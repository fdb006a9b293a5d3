"""Which columns of a text file are the positions and the intensities, and what the positions are: 2θ, Q or d."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import SpectrumError
from crystalign.readers.patterns.scales import refuse_other_scales, second_scale
from crystalign.readers.text.columns import TextTable

Array = NDArray[np.float64]
Kind = Literal["two_theta", "theta", "q", "d", "energy", "time", "channel", "other"]

_START = (
    r"^(?:(?:x\s?[:=]|-->|(?:unit|x?-?axis|x-?unit|x-?label|columns?|abscissa|data)\b\s?[:=]?)\s{0,4}){0,3}"
    r"[\"'\[(|$\\]{0,3}\s{0,4}"
)
MAX_NAME = 200
"""Characters of a header line that may name an axis."""
_KINDS: tuple[tuple[Kind, str], ...] = (
    (
        "two_theta",
        (
            r"(?:2|two)[\s*_\\-]*(?:theta|th(?![A-Za-z])|\u03b8|\u03f4|\u0398|teta|thetha)|tth\b|2t\b|"
            r"angle|\u00b0\s*2|deg_?2|winkel|diffraction[\s_]angle|pos\."
        ),
    ),
    ("q", r"q(?:_|\b)|scattering[\s_-]*vector|momentum[\s_-]*transfer|q-?range"),
    ("d", r"d(?:[\s_-]*spac\w*|[\s_-]*value|-?wert)?(?=$|[\s_,;\[(\"'|/])|interplanar"),
    ("energy", r"(?:photon[\s_]*)?(?:energy|energie)|e\s*[\[(]\s*k?ev|kev\b"),
    ("time", r"tof\b|time[\s_-]*of[\s_-]*flight|t\s*[\[(]\s*(?:us|\u00b5s|s)"),
    ("channel", r"channel|kanal|r_mm|radius|pixel"),
    (
        "other",
        (
            r"r(?=$|[\s_,;\[(\"'|])|raman|wave\s?number|wave\s?length\s?[\[(]|time(?=$|[\s_,;\[(\"'|])|temp|binding|"
            r"voltage|potential|frequency|wellenzahl|magnetic"
        ),
    ),
    ("theta", r"(?:theta|\u03b8|omega|th)(?=$|[\s_,;\[(\"'|])"),
)
_AXIS = [(kind, re.compile(_START + "(?P<name>" + pattern + ")", re.IGNORECASE)) for kind, pattern in _KINDS]
_VALUE = re.compile(r"^\s*[-+]?\d|^[^A-Za-z]*[:=]\s*\S|^[^:=]{0,16}[:=]\s*[\"']?[-+.\d]")
_NAMES_A_COLUMN = re.compile(
    r"^[^\s\[(,;|/\"']*(?![A-Za-z])\s*(?:$|[\[(,;|/^\"']|(?:i|int\w*|counts?|cps|y\w*|\u00c5\w*|aa?\b|nm|1/|angstrom\w*|k?ev|scat\w*|"
    r"vector|trans\w*|spac\w*|value|of\b|err\w*|sig\w*)\b)",
    re.IGNORECASE,
)
_INTENSITY = re.compile(
    r"^[\"'\[(]*\s*(?:intensit\w*|i(?:obs|_obs)?\b|counts?\b|cps\b|y(?:obs|_obs)?\b|int\.?\b|det\w*|signal|imp(?:ulse)?\b|"
    r"lin\b|anzahl|einf\w*|\u5f3a\u5ea6)",
    re.IGNORECASE,
)
_INDEX = re.compile(r"^(?:n|no\.?|nr\.?|index|idx|i|#|point|row|num(?:ber)?|id|unnamed.*|step)$", re.IGNORECASE)
_LOG = re.compile(r"log|sqrt|\bln\b|\u221a", re.IGNORECASE)
_NANOMETRE = re.compile(r"nm|nano", re.IGNORECASE)
_ANGSTROM = re.compile(r"\u00c5|\u212b|angstr|\bang\b|(?<![A-Za-z])aa?(?![A-Za-z])|\binv_?a", re.IGNORECASE)
_RADIAN = re.compile(r"rad(?:ian)?s?\b|_rad\b", re.IGNORECASE)


class Axis(NamedTuple):
    """Columns of positions and intensities, and the quantity and unit of the positions."""

    kind: Kind
    unit: str
    """`deg` or `rad`; `A` or `nm`, which mean Å⁻¹ or nm⁻¹ for Q."""
    position: int
    """Column of the positions."""
    intensity: int
    """Column of the intensities."""
    notices: tuple[str, ...] = ()


def axis_of(table: TextTable) -> Axis:
    """Find the columns from the header; without a header, they are 2θ in degrees and intensity.

    Raises:
        SpectrumError: the positions are not 2θ, Q or d, or their unit is not stated.
    """
    named = _named(table)
    angle = named is not None and named.kind == "two_theta"
    if not angle:
        refuse_other_scales(table, recognised=named is not None)
    axis = _check(_skip_index(table, named if named is not None else _from_lines(table)))
    counted = bool(table.names) and _INTENSITY.match(table.names[axis.intensity]) is not None
    if axis.kind == "two_theta" and not counted and max(axis.position, axis.intensity) < table.values.shape[1]:
        second = second_scale(table, axis.position, axis.intensity)
        if second is not None:
            position, intensity, notice = second
            axis = axis._replace(position=position, intensity=intensity, notices=(*axis.notices, notice))
    if _LOG.search(table.names[axis.intensity] if table.names else ""):
        message = f"the intensities are {table.names[axis.intensity]!r}; export plain counts"
        raise SpectrumError(message, reason="intensity-scaled")
    return axis


def _kind(text: str) -> tuple[Kind, str] | None:
    """The kind of axis that a name begins with, and the rest of the name; None for a value such as `energy = 20`."""
    text = text[:MAX_NAME]
    for kind, pattern in _AXIS:
        match = pattern.match(text)
        if match is not None:
            rest = text[match.end() :]
            return None if _VALUE.match(rest) else (kind, text[match.start("name") :])
    return None


def _named(table: TextTable) -> Axis | None:
    """Return the axis that the column names state; None if they name no position."""
    # two words above two columns may be something else than their names, such as "D. Smith"
    counted = any(_INTENSITY.match(name) or name.lower() == "g(r)" for name in table.names)
    kinds = [_kind(name.strip()) for name in table.names]
    kinds = [
        kind if kind and (counted or kind[0] == "two_theta" or re.search(r"[\[(_/]", name)) else None
        for kind, name in zip(kinds, table.names, strict=True)
    ]
    order = ("two_theta", "q", "d", "energy", "time", "channel", "other", "theta")
    ranked = [(order.index(kind[0]), column) for column, kind in enumerate(kinds) if kind is not None]
    if not ranked or (len(ranked) == len(kinds) and len({rank for rank, _ in ranked}) == 1):
        return None  # "2-Theta Angle" is one name of two words
    if sum(name.lower() in {"h", "k", "l"} for name in table.names) == 3:
        message = "the file lists reflections (h, k, l), not a measured curve; give the scan itself"
        raise SpectrumError(message, reason="peak-list")
    position = min(ranked)[1]
    kind = kinds[position]
    assert kind is not None
    heights = [c for c, name in enumerate(table.names) if c != position and kinds[c] is None and _INTENSITY.match(name)]
    others = [c for c, name in enumerate(table.names) if c != position and kinds[c] is None and not _INDEX.match(name)]
    after = [c for c in heights if c > position] or heights or [c for c in others if c > position] or others
    if not after:
        message = f"columns {', '.join(table.names)}: none of them is an intensity"
        raise SpectrumError(message, reason="no-intensity")
    notices: tuple[str, ...] = ()
    if len(heights) > 1 and after[0] != heights[-1]:
        notices = (f"of {len(heights)} columns of intensities the first, {table.names[after[0]]!r}, was read",)
    if len([1 for rank, _ in ranked if rank == min(ranked)[0]]) > 1:
        notices = (*notices, "the file holds several curves; the first was read")
    if position != 0:
        notices = (*notices, f"positions are in column {position + 1}, {table.names[position]!r}")
    return Axis(kind[0], _unit(kind[0], kind[1]), position, after[0], notices)


def _from_lines(table: TextTable) -> Axis:
    """Return the axis that a header line begins with; 2θ if no line begins with one."""
    for line in reversed(table.header):
        named = _kind(line.lstrip("#!%;/*'\" \t").strip())
        if named is not None and (named[0] == "two_theta" or _NAMES_A_COLUMN.match(named[1])):
            kind, rest = named
            # the unit follows the name; text after the name of another column belongs to that column
            return Axis(
                kind, _unit(kind, re.split(r"\bI\b|int|count|wave|lambda|;", rest, flags=re.IGNORECASE)[0]), 0, 1
            )
    if table.names and _INTENSITY.match(table.names[1]):
        first, second = table.names[0][:40], table.names[1][:40]
        notice = f"the columns are called {first!r} and {second!r}; they were read as 2θ in degrees and intensity"
    else:
        notice = "no header names the columns: they were read as 2θ in degrees and intensity"
    return Axis("two_theta", "deg", 0, 1, (notice,))


def _unit(kind: Kind, text: str) -> str:
    if kind == "two_theta":
        return "rad" if _RADIAN.search(text[:40]) else "deg"
    if kind in {"q", "d"}:
        return "nm" if _NANOMETRE.search(text) else "A" if _ANGSTROM.search(text.lstrip("dDqQ")) else ""
    return ""


def _skip_index(table: TextTable, axis: Axis) -> Axis:
    """Skip a first column that only numbers the rows, unless its name is that of an axis."""
    values = table.values
    if axis.position != 0 or values.shape[1] < 3 or (table.names and _kind(table.names[0]) is not None):
        return axis
    first, second = values[:, 0], values[:, 1]
    with np.errstate(invalid="ignore"):
        numbered = first[0] in (0.0, 1.0) and len(first) > 50 and bool((np.diff(first) == 1.0).all())
        steps = np.diff(second)
        angles = bool((steps > 0).all() or (steps < 0).all()) and bool(np.isfinite(second).all())
    if not (numbered and angles):
        return axis
    notice = "the first column only numbers the rows; columns 2 and 3 were read"
    return axis._replace(position=1, intensity=2, notices=(*axis.notices, notice))


def _check(axis: Axis) -> Axis:
    """Refuse positions that cannot be converted to 2θ."""
    if axis.kind == "theta":
        message = "the positions are called theta: are they θ or 2θ? Give 2θ in degrees, in a column named 2theta"
        raise SpectrumError(message, reason="axis-unclear")
    if axis.kind == "other":
        message = "the header names another quantity than 2θ, Q or d for the positions: this is not a powder pattern"
        raise SpectrumError(message, reason="axis-unsupported")
    if axis.kind in {"energy", "time", "channel"}:
        word = {"energy": "photon energies", "time": "times of flight", "channel": "channels or distances"}[axis.kind]
        message = f"the positions are {word}, which become angles only with a calibration; export 2θ, Q or d"
        raise SpectrumError(message, reason="axis-unsupported")
    if axis.kind == "d" and not axis.unit:
        return axis._replace(unit="A", notices=(*axis.notices, "d was read in Å, as no unit is stated"))
    if axis.kind == "q" and not axis.unit:
        message = "the positions are Q without a unit; write q (1/A) or q (1/nm) above the column"
        raise SpectrumError(message, reason="axis-unit-missing")
    return axis
