"""Thousands separators, as in 1,050 or 1 050, that are also the column separator."""

from __future__ import annotations

import re
from collections.abc import Sequence

from crystalign.errors import FileFormatError

Row = tuple[int, list[str]]
"""The number of a line and its cells."""

MAX_GROUPS = 2
"""Groups of three digits behind the first of a number."""
_FIRST = re.compile(r"[-+]?[1-9]\d{0,2}")
_GROUP = re.compile(r"\d{3}")
_DOTTED = re.compile(r"[1-9]\d{0,2}\.\d{3}")
_LAST = re.compile(r"\d{3}(?:\.\d*)?")
_PADDED = re.compile(r"0\d{2}(?:\.\d*)?")


def join_thousands(rows: list[Row]) -> tuple[list[Row], tuple[str, ...]]:
    """Join numbers that a thousands separator split into several cells; returns the rows and a notice.

    The narrowest rows give the number of columns. If all cells of wider rows beyond that number are groups of three
    digits, they belong to the last column. If all rows have the same width, a column of three-digit groups is joined
    with the one before it if one of the groups begins with zero.
    """
    widths = {len(cells) for _, cells in rows}
    narrow = min((width for width in widths if width >= 2), default=0)
    if not narrow:
        return rows, ()
    wide = [cells for _, cells in rows if len(cells) > narrow]
    few = sum(len(cells) == narrow for _, cells in rows[1:-1])
    padded = any(_PADDED.fullmatch(cell) for cells in wide for cell in cells[narrow:])
    if wide and (few >= 2 or padded) and all(_is_grouped(cells, narrow) for cells in wide):
        joined = [(number, [*cells[: narrow - 1], "".join(cells[narrow - 1 :])]) for number, cells in rows]
        return joined, (_notice(wide[0][narrow - 1 :]),)
    if len(widths) == 1 and narrow >= 3 and (at := _padded_column([cells for _, cells in rows])) is not None:
        joined = [(number, [*cells[:at], cells[at] + cells[at + 1], *cells[at + 2 :]]) for number, cells in rows]
        return joined, (_notice(rows[0][1][at : at + 2]),)
    return rows, ()


def refuse_possible_thousands(rows: Sequence[Row]) -> None:
    """Refuse 30.0,1,550 in all rows without names of columns: are these two numbers or three?

    Raises:
        FileFormatError: such rows.
    """
    if all(len(cells) == 3 and _FIRST.fullmatch(cells[1]) and _GROUP.fullmatch(cells[2]) for _, cells in rows):
        message = (
            f"{','.join(rows[0][1])!r} may be two numbers, one with a separator of thousands, or three; name the "
            "columns in a header line, or write numbers without thousands separators"
        )
        raise FileFormatError(message, reason="columns-ambiguous")


def refuse_dotted_thousands(rows: Sequence[Row]) -> None:
    """Refuse a column of 50, 950 and 1.050, where the point separates thousands but marks decimals elsewhere.

    Raises:
        FileFormatError: such a column.
    """
    for column in range(1, min(len(cells) for _, cells in rows)):
        hundreds, dotted = False, ""
        for _, cells in rows:
            cell = cells[column]
            if _DOTTED.fullmatch(cell):
                dotted = cell
            elif _FIRST.fullmatch(cell) or cell == "0":
                hundreds |= len(cell) == 3
            else:
                break
        else:
            if hundreds and dotted:
                message = (
                    f"column {column + 1} holds whole numbers and {dotted!r}: if its point separates thousands, "
                    "export without it; if it marks decimals, write all numbers with decimals"
                )
                raise FileFormatError(message, reason="columns-ambiguous")


def _is_grouped(cells: list[str], narrow: int) -> bool:
    extra = cells[narrow:]
    return (
        len(extra) <= MAX_GROUPS
        and _FIRST.fullmatch(cells[narrow - 1]) is not None
        and all(_GROUP.fullmatch(cell) for cell in extra[:-1])
        and _LAST.fullmatch(extra[-1]) is not None
    )


def _padded_column(rows: list[list[str]]) -> int | None:
    """Return the column before a column of three-digit groups of which some begin with zero; None if there is none."""
    for at in range(1, len(rows[0]) - 1):
        groups = [cells[at + 1] for cells in rows]
        if (
            any(_PADDED.fullmatch(cell) for cell in groups)
            and all(_LAST.fullmatch(cell) for cell in groups)
            and all(_FIRST.fullmatch(cells[at]) for cells in rows)
        ):
            return at
    return None


def _notice(parts: list[str]) -> str:
    return f"{' '.join(parts)!r} and the like were read as one number with separators of thousands"
