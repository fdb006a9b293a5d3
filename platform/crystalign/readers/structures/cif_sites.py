"""Read the table of sites of a CIF: positions, labels and occupancies."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from crystalign.errors import CrystalError
from crystalign.readers.structures.expansion import Site

OCCUPANCY_SLACK = 0.05
"""Excess over 1 of the occupancies at one position that counts as rounding."""
_SITE = "_atom_site_"
_COLUMNS = (
    "label",
    "type_symbol",
    "fract_x",
    "fract_y",
    "fract_z",
    "occupancy",
    "Cartn_x",
    "calc_flag",
    "symmetry_multiplicity",
    "attached_hydrogens",
    "disorder_group",
)


class Row(NamedTuple):
    """One row of the table of sites."""

    word: str
    """The type symbol, or the label where there is none."""
    is_type: bool
    """Whether `word` is the type symbol."""
    site: Site | None
    """Position and occupancy; None if the file gives no coordinates."""
    label: str
    """Name of the site in messages."""
    multiplicity: int | None = None
    """Site multiplicity that the file states."""
    attached: int = 0
    """Number of attached hydrogen atoms, which have no sites of their own."""
    alternative: str = ""
    """Disorder group; empty if the site is in none."""


def site_rows(block: Any, max_sites: int) -> list[Row]:
    """The table of sites.

    Raises:
        CrystalError: too long, Cartesian, or a coordinate or an occupancy that is no number.
    """
    columns = _columns(block)
    length = max(map(len, columns.values()))
    if length > max_sites:
        message = f"{length} sites are listed; the limit is {max_sites}. Use a smaller cell, or raise the limit"
        raise CrystalError(message, reason="too-many-sites")
    if not columns["fract_x"] or len({len(columns[f"fract_{axis}"]) for axis in "xyz"}) > 1:
        kind = "Cartesian, not fractional" if columns["Cartn_x"] else "missing for some axis"
        message = f"the coordinates of the sites are {kind}; give _atom_site_fract_x, _y and _z"
        raise CrystalError(message, reason="no-fractional-coordinates")
    filled = {name: values or ["?"] * length for name, values in columns.items()}
    if any(len(values) != length for values in filled.values()):
        raise CrystalError("the columns of the table of sites have different lengths", reason="bad-sites")
    rounding = max(_rounding(text) for axis in "xyz" for text in filled[f"fract_{axis}"])
    rows = [_row({name: values[n] for name, values in filled.items()}, n, rounding) for n in range(length)]
    return [row for row in rows if row is not None]


def _columns(block: Any) -> dict[str, list[str]]:
    """The columns of the one table that holds the coordinates.

    Raises:
        CrystalError: there are two such tables, or occupancies and elements stand in another one.
    """
    tags = {(_SITE + name).lower(): name for name in _COLUMNS}
    tables = []
    for item in block:
        if item.loop is not None:
            positions = {tags[t.lower()]: n for n, t in enumerate(item.loop.tags) if t.lower() in tags}
            width, values = len(item.loop.tags), list(item.loop.values)
            tables.append({name: values[position::width] for name, position in positions.items()})
        elif item.pair is not None and item.pair[0].lower() in tags:
            tables.append({tags[item.pair[0].lower()]: [item.pair[1]]})
    placed = [table for table in tables if "fract_x" in table or "Cartn_x" in table]
    single = [table for table in tables if all(len(values) == 1 for values in table.values())]
    if len(placed) == 1 and len(next(iter(placed[0].values()))) == 1:
        placed = [
            {name: values for table in single for name, values in table.items()}
        ]  # one site, written without a loop
    others = {name for table in tables if placed and table is not placed[0] for name in table}
    beside = others & {"occupancy", "type_symbol", "disorder_group"} - set(placed[0] if placed else ())
    if len(placed) > 1 or beside:
        message = "the sites are spread over several tables; put label, element, coordinates and occupancy into one"
        raise CrystalError(message, reason="bad-sites")
    found_columns = placed[0] if placed else next((table for table in tables if table), {})
    return {name: [str(value) for value in found_columns.get(name, [])] for name in _COLUMNS}


def _row(cells: dict[str, str], number: int, rounding: float) -> Row | None:
    """Read one row; None if the file marks it as a site without an atom."""
    from gemmi import cif

    text = {name: "" if cell in {"?", "."} else cif.as_string(cell).strip() for name, cell in cells.items()}
    if text["calc_flag"].lower() == "dum":
        return None
    word, is_type = (text["type_symbol"], True) if text["type_symbol"] else (text["label"], False)
    label = text["label"] or word or f"row {number + 1}"
    if not word:
        raise CrystalError(f"row {number + 1} of the atom sites has neither label nor type symbol", reason="bad-sites")
    coords = [text[f"fract_{axis}"] for axis in "xyz"]
    if not all(coords):
        return Row(word, is_type, None, label)
    values = [cif_number(cells[f"fract_{axis}"]) for axis in "xyz"]
    if not np.isfinite(values).all():
        bad = next(c for c, v in zip(coords, values, strict=True) if not np.isfinite(v))
        raise CrystalError(
            f"a coordinate of {label} is {bad!r}, which is no CIF number such as 0.5", reason="bad-sites"
        )
    occupancy = cif_number(cells["occupancy"]) if text["occupancy"] else 1.0
    if not np.isfinite(occupancy) or occupancy < 0:
        message = f"the occupancy of {label} is {cells['occupancy']!r}; it lies between 0 and 1"
        raise CrystalError(message, reason="bad-sites")
    if occupancy > 1.0 + OCCUPANCY_SLACK:
        message = f"the occupancy of {label} is {occupancy:g}; it lies between 0 and 1"
        raise CrystalError(message, reason="bad-sites")
    site = Site(np.array(values), occupancy, rounding)
    multiplicity, attached = text["symmetry_multiplicity"], text["attached_hydrogens"]
    return Row(
        word,
        is_type,
        site,
        label,
        int(multiplicity) if re.fullmatch("[0-9]{1,3}", multiplicity) else None,
        int(attached) if re.fullmatch("[0-9]", attached) else 0,
        "" if text["disorder_group"] in {"0", "-1"} else text["disorder_group"],
    )


def _rounding(text: str) -> float:
    """Rounding error of a coordinate, half a unit of its last digit; 0 if it is exact, a multiple of 1/24."""
    digits = re.sub(r"\(.*", "", text).partition(".")[2]
    if not digits.isdigit() or len(digits) > 8:
        return 0.0
    exact = abs(float(f"0.{digits}") * 24 - round(float(f"0.{digits}") * 24)) < 1e-9
    return 0.0 if exact else 0.5 * 10.0 ** -len(digits)


def cif_number(text: str | None) -> float:
    """A CIF number without its uncertainty; NaN if the value is missing or not a number."""
    from gemmi import cif

    return float(cif.as_number(text)) if text else float("nan")
