"""How a text file writes numbers: decimal points and commas, thousands, quotes, Fortran exponents."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from crystalign.errors import FileFormatError

Split = Callable[[str], list[str]]

_QUOTES = str.maketrans("", "", '"')
_QUOTED = re.compile(r'"[^"]*+"')
_BLANKS = re.compile(r"(?<=\d)[ \u00a0\u202f'\u2019](?=\d{3}(?!\d))")
_FORTRAN = re.compile(r"([-+]?(?:\d+(?:\.\d*)?|\.\d+))[dD]([-+]?\d+)")
_NO_EXPONENT = re.compile(r"([-+]?\d*\.\d+)([-+]\d{3})")
_PLAIN = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
_COMMA_AND_BLANK = re.compile(r"\S,\S")
_OTHER = re.compile('[,;|\t"\u201c\u201d]')
SAMPLE = 20_000
"""Lines that decide about commas."""
MAX_CELL = 64
"""Characters of a number."""


@dataclass(frozen=True, slots=True)
class Notation:
    """How the rows of one file are written."""

    split: Split
    """Splits a line into cells; quotes are removed before, unless `quoted`."""
    decimal: str = "."
    """Decimal separator."""
    thousands: str = ""
    """Thousands separator; empty if there is none."""
    notices: tuple[str, ...] = ()
    """What was decided, for the user to check."""
    quoted: bool = False
    """Whether cells are quoted, so that the quotes are kept until the line is split."""

    def cells(self, line: str) -> list[str]:
        """The cells of a line, written as Python reads them where they are numbers; empty ones at its end cut."""
        if self.split is str.split:
            return line.split()
        cells = self.split(line.strip() if self.quoted else bare(line))
        while cells and not cells[-1].strip():
            cells.pop()
        if self.decimal == "." and not self.thousands:
            return cells
        return [self._plain(cell.strip()) for cell in cells]

    def _plain(self, cell: str) -> str:
        if self.thousands and self.thousands in cell:
            mantissa = re.split(r"[eEdD]", cell)[0].lstrip("+-").split(self.decimal)[0]
            if not re.fullmatch(rf"\d{{1,3}}(?:{re.escape(self.thousands)}\d{{3}})+", mantissa):
                return cell
            cell = cell.replace(self.thousands, "")
        return cell.replace(self.decimal, ".")

    def number(self, cell: str) -> float | None:
        """The value of a cell that is no Python number: Fortran exponents, blanks between thousands."""
        if len(cell) > MAX_CELL:
            return None
        cell = _BLANKS.sub("", cell)
        if match := _FORTRAN.fullmatch(cell) or _NO_EXPONENT.fullmatch(cell):
            cell = f"{match[1]}e{match[2]}"
        return float(cell) if _PLAIN.fullmatch(cell) else None


def notation_of(lines: Sequence[str]) -> Notation:
    """How these rows are written.

    Raises:
        FileFormatError: commas that can be read in two ways.
    """
    if not _OTHER.search("\n".join(lines)):
        return Notation(str.split)
    if (sign := _between_quotes(lines)) is not None:
        return _with_quotes(sign, lines)
    rows = [bare(line) for line in lines]
    if not any("," in line for line in rows):
        return Notation(_splitter(rows))
    sample = rows[:: max(1, len(rows) // SAMPLE)]
    if _commas_separate(sample):
        _refuse_decimal_columns(sample)
        return Notation(lambda line: [cell.strip() for cell in line.split(",")])
    split = _splitter(rows)
    return _with_commas(split, [split(line) for line in rows])


def _between_quotes(lines: Sequence[str]) -> str | None:
    """Separator of quoted cells; None if no line holds a quoted cell beside others."""
    masked = [rest for line in lines if '"' in line and (rest := _QUOTED.sub("Q", line).strip()) != "Q"]
    if not masked:
        return None
    return next((sign for sign in ";\t|," if sum(sign in line for line in masked) > 0.5 * len(masked)), " ")


def _with_quotes(sign: str, lines: Sequence[str]) -> Notation:
    """Return the notation of rows with quoted cells; a comma within quotes belongs to the number."""

    def split(line: str) -> list[str]:
        cells = next(csv.reader([line], delimiter=sign, skipinitialspace=True), [])
        cells = [cell.strip() for cell in cells]
        return [cell for cell in cells if cell] if sign == " " else cells

    rows = [split(line.strip()) for line in lines]
    if not any("," in cell for row in rows for cell in row):
        return Notation(split, quoted=True)
    return replace(_with_commas(split, rows), quoted=True)


def bare(line: str) -> str:
    """A line without quotes around its cells, and without blanks at its ends."""
    return line.translate(_QUOTES).strip() if '"' in line else line.strip()


def _splitter(lines: Sequence[str]) -> Split:
    """Return a function that splits a line at semicolons, tabs or bars if most lines have one, else at blanks."""
    for sign in (";", "\t", "|"):
        if sum(sign in line for line in lines) > 0.5 * len(lines):
            return lambda line: [cell.strip() for cell in line.split(sign)]
    if any(sign in line for line in lines for sign in ";|"):
        return lambda line: re.split(r"[\s;|]+", line)
    return lambda line: line.split()


def _commas_separate(lines: Sequence[str]) -> bool:
    """Whether commas separate the columns, judged only by the other separators in the lines."""
    if any(sign in line for line in lines for sign in (";", "\t", "|")):
        return False
    blank = [re.search(r"\S\s+\S", line) is not None for line in lines]
    if not any(blank):
        return True
    return not any(_COMMA_AND_BLANK.search(line) for line in lines)  # in "10.0, 20" each comma is next to a blank


def _refuse_decimal_columns(lines: Sequence[str]) -> None:
    """Refuse rows such as 10,02,20,00, which may be four numbers or two."""
    rows = [line.split(",") for line in lines]
    usual = Counter(len(row) for row in rows).most_common(1)[0][0]
    if any("." in line for line in lines) or usual < 3:
        return
    padded = any(len(cell) > 1 and cell.startswith("0") for row in rows for cell in row)
    first = [row[0] for row in rows]
    repeated = len(set(first)) < 0.9 * len(first)
    if padded or repeated:
        message = (
            f"commas both separate the columns and mark decimals, as in {lines[0][:40]!r}; export again with "
            "semicolons or tabs between the columns, or with decimal points"
        )
        raise FileFormatError(message, reason="columns-ambiguous")


def _with_commas(split: Split, rows: list[list[str]]) -> Notation:
    """Return the notation of rows with commas inside cells, decided by all cells of the file together."""
    cells = [cell.lstrip("+-") for row in rows for cell in row]
    comma = any("," in cell for cell in cells)
    if not comma:  # such as "10.0 ,20": blanks and commas both separate
        return Notation(lambda line: [cell for cell in re.split(r"[\s,;|]+", line) if cell])
    decimal_comma = _marks_decimals(cells, ",", ".") or _groups(cells, ".", ",")
    decimal_point = _marks_decimals(cells, ".", ",") or _groups(cells, ",", ".")
    if decimal_comma and decimal_point:
        loose: Split = lambda line: [cell for cell in re.split(r"[\s,;|]+", line) if cell]  # noqa: E731
        widths = {len(loose(" ".join(row))) for row in rows}
        if len(widths) == 1 and not _marks_decimals(cells, ",", "."):
            return Notation(loose)
        message = "some commas are decimal signs and some are not; export again with decimal points and tabs"
        raise FileFormatError(message, reason="columns-ambiguous")
    if not (decimal_comma or decimal_point):
        decimal_comma = _undecided(rows)
    if decimal_comma:
        grouped = any("." in cell for cell in cells)
        return Notation(split, ",", "." if grouped else "", ("commas were read as decimal signs",))
    return Notation(split, ".", ",", ("commas were read as separators of thousands",))


def _marks_decimals(cells: Sequence[str], sign: str, other: str) -> bool:
    """Whether some cell shows that this sign marks decimals: it occurs once, and not before three digits."""
    for cell in cells:
        mantissa = re.split(r"[eEdD]", cell)[0]
        if mantissa.count(sign) != 1:
            continue
        units, _, tenths = mantissa.partition(sign)
        if other in tenths:
            continue
        if other in units or len(tenths) != 3 or not 1 <= len(units) <= 3 or units == "0":
            return True
    return False


def _groups(cells: Sequence[str], sign: str, other: str) -> bool:
    """Whether some cell shows that this sign separates thousands: it occurs twice, or before the other sign."""
    return any(cell.count(sign) > 1 or 0 <= cell.find(sign) < cell.find(other) for cell in cells)


def _undecided(rows: list[list[str]]) -> bool:
    """Whether 10,020 means 10.02, in a file where every comma precedes three digits.

    Angles and energies are small, so a comma in the first column marks decimals. In another column it
    separates thousands if smaller numbers are written without it.
    """
    if any("," in row[0] for row in rows):
        return True
    if any("." in row[0] for row in rows):
        return False
    for column in range(1, min(len(row) for row in rows)):
        with_comma = ["," in row[column] for row in rows]
        if any(with_comma) and not all(with_comma):
            return False
    return True
