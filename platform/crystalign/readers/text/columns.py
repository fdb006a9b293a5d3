"""Read columns of numbers in a text file: detect the separator, the decimal sign and the data rows."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import FileFormatError
from crystalign.readers.text.numerals import Notation, notation_of
from crystalign.readers.text.thousands import Row, join_thousands, refuse_dotted_thousands, refuse_possible_thousands

Array = NDArray[np.float64]

MAX_BYTES = 32_000_000
MAX_LINES, MAX_LINE = 600_000, 50_000
"""Lines of a file, and characters of a row, that are read."""
MAX_WIDTH = 128
"""Columns of a table that is read."""
MAX_HEADER = 200_000
"""Characters of the header that are kept."""
MAX_NAMES = 4_000
"""Characters of a header line that are kept."""
MAX_LOST = 0.1
"""Share of the rows that may hold no number where one is needed."""
_COMMENT = re.compile(r"\s*(#|!|;|%|//|'|\*|[A-Za-z_@/\[<&°θλα])")
_MISSING = re.compile(r"(?i)[-+]?nan(?:q|s|\([a-z0-9]*\))?|[-+]?inf(?:inity)?|n/a|#n/a|null|none|-{1,3}|")
_WORD = re.compile(r"(?!\d+(?:[.,]\d*)?$)[^=:]*[A-Za-z\u03b8\u03bb\u00b0#][^=:]*$")
_STARS = re.compile(r"\*{2,}|#{3,}")
_NUMERIC = re.compile(r"[\s\"']*(?:[-+]?[.,]?\d|[-+]?(?:nan|inf)\b)", re.IGNORECASE)
_CHARACTERS = re.compile(r"(?:[\d+\-.,;\s\"'|*#\u2212]++|[eEdD](?=[-+\d])|(?i:nan|inf(?:inity)?|n/a|null|none))++")
_SIGNS = str.maketrans("\u2212\u201c\u201d\u201e", '-"""')
_BOMS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)


@dataclass(frozen=True, slots=True, eq=False)
class TextTable:
    """Rows of numbers and the header of a text file."""

    values: Array
    """(M, columns); NaN where a cell holds none."""
    header: tuple[str, ...]
    """The lines that are no rows, without blanks at their ends."""
    names: tuple[str, ...]
    """Column names from the line above the rows; empty if it has another number of words."""
    notices: tuple[str, ...] = ()
    """Assumptions that were made, for the user to check."""

    def without_gaps(self, columns: tuple[int, ...]) -> TextTable:
        """The rows that have a number in each of these columns.

        Raises:
            FileFormatError: too many rows lack one.
        """
        whole: NDArray[np.bool_] = np.asarray(np.isfinite(self.values[:, columns]).all(axis=1))
        lost = int((~whole).sum())
        if lost == 0:
            return self
        if lost > MAX_LOST * len(whole):
            message = f"{lost} of {len(whole)} rows hold nan or nothing where a number is needed; remove or repair them"
            raise FileFormatError(message, reason="nan")
        notice = f"{lost} of {len(whole)} rows left out: they hold nan or nothing where a number is needed"
        return TextTable(self.values[whole], self.header, self.names, (*self.notices, notice))


def decode_text(data: bytes) -> str:
    """The text of a file in UTF-8, UTF-16, UTF-32 or Latin-1.

    Raises:
        FileFormatError: too large, or binary.
    """
    if len(data) > MAX_BYTES:
        message = f"the file has {len(data) / 1e6:.0f} MB; a spectrum has less than {MAX_BYTES / 1e6:.0f} MB"
        raise FileFormatError(message, reason="too-large")
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "")
    if not encoding and b"\x00" in data[:4096]:
        head = data[:4096]
        even, odd = head[::2].count(0), head[1::2].count(0)
        encoding = "utf-16-le" if odd > 0.4 * len(head) and not even else encoding
        encoding = "utf-16-be" if even > 0.4 * len(head) and not odd else encoding
        if not encoding:
            raise FileFormatError("the file is binary; export it as two columns of text", reason="not-text")
    try:
        return data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding:
            message = f"the file is not readable as {encoding.upper()} ({error.reason}); save it as UTF-8"
            raise FileFormatError(message, reason="not-text") from error
        return data.decode("cp1252", errors="replace")


def read_columns(data: bytes, *, at_least: int = 2) -> tuple[Array, str]:
    """The numbers of a text file and its other lines; rows that lack a number are left out.

    Args:
        data: the file.
        at_least: columns that it must have.

    Returns:
        (M, columns), and the header.

    Raises:
        FileFormatError: empty, too large, not text, or rows that are not numbers.
    """
    table = read_table(decode_text(data), at_least=at_least)
    table = table.without_gaps(tuple(range(table.values.shape[1])))
    return table.values, "\n".join(table.header)


def read_table(text: str, *, at_least: int = 2) -> TextTable:
    """The rows of numbers of a text.

    Columns are separated by semicolons, tabs, blanks or commas; a comma may also be the decimal point or
    separate thousands. The whole file decides which. Comments, and what stands before the first row
    that has as many numbers as most, are the header.

    Raises:
        FileFormatError: no rows, rows that are not numbers, or signs that can be read in two ways.
    """
    lines = text.translate(_SIGNS).splitlines()
    if len(lines) > MAX_LINES:
        raise FileFormatError(f"the file has {len(lines)} lines; at most {MAX_LINES} are read", reason="too-large")
    header, candidates = _split_lines(lines)
    if not candidates:
        raise FileFormatError("the file holds no row of numbers", reason="empty-file")
    notation = notation_of([line for _, line in candidates])
    rows, grouped = join_thousands([(number, notation.cells(line)) for number, line in candidates])
    first = _first_row(rows, at_least)
    _refuse_wider(rows, first, lines)
    above = [(number, lines[number - 1].strip()) for number, _ in rows[:first]]
    header = sorted([*header, *above])
    values = _numbers(rows[first:], at_least, notation, lines)
    header_lines: list[str] = []
    size = 0
    for _, line in header:
        size += min(len(line), MAX_NAMES)
        if size > MAX_HEADER:
            break
        header_lines.append(line[:MAX_NAMES])
    before = [line for number, line in header if number < rows[first][0]]
    names = _names(before, notation, values.shape[1])
    filled = np.flatnonzero(np.isfinite(values).any(axis=0))  # spreadsheets export empty columns
    names = tuple(names[column] for column in filled) if names else ()
    refuse_dotted_thousands(rows[first:])
    if not grouped and not names and "," in candidates[-1][1]:
        refuse_possible_thousands(rows[first:])
    return TextTable(values[:, filled], tuple(header_lines), names, (*notation.notices, *grouped))


def _split_lines(lines: list[str]) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Return the numbered header lines, and the numbered lines that look like rows of numbers."""
    header: list[tuple[int, str]] = []
    rows: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if _is_row(line):
            rows.append((number, line))
        elif not line.strip(" \t\x1a\x0b\x0c"):
            continue
        elif not rows or _COMMENT.match(line):
            header.append((number, line.strip()))
        else:
            # numbers in the header, such as a date, are not the first rows
            ahead = lines[number : number + 3]
            if len(rows) <= 3 and ahead and any(_NUMERIC.match(a) for a in ahead) and len(lines) - number > len(rows):
                header += [(n, text.strip()) for n, text in rows]
                header.append((number, line.strip()))
                rows = []
                continue
            message = f"line {number} is not a row of numbers: {line.strip()[:60]!r}"
            raise FileFormatError(message, reason="bad-row")
    return header, rows


def _is_row(line: str) -> bool:
    """Whether a line begins with a number and contains only numbers, separators and words for missing values.

    Raises:
        FileFormatError: the line is too long.
    """
    if len(line) > MAX_LINE:
        if _NUMERIC.match(line[:100]):
            message = f"a line has {len(line)} characters; a row of columns has at most {MAX_LINE}"
            raise FileFormatError(message, reason="too-large")
        return False
    try:  # most rows are numbers between blanks
        if [float(word) for word in line.split()] and "_" not in line:
            return True
    except ValueError:
        pass
    return _NUMERIC.match(line) is not None and _CHARACTERS.fullmatch(line.rstrip("\x1a")) is not None


def _first_row(rows: list[Row], at_least: int) -> int:
    """Return the index of the first data row: the first one of the most common width; rows before it are a header."""
    widths = Counter(len(cells) for _, cells in rows)
    usual = max(widths, key=lambda width: (widths[width], width))
    if usual < at_least:
        number, cells = rows[0]
        plural = "s" if len(cells) > 1 else ""
        message = f"the file has {usual} column{plural} of numbers; at least {at_least} are needed (line {number})"
        raise FileFormatError(message, reason="too-few-columns")
    if usual > MAX_WIDTH:
        message = f"the rows have {usual} columns; at most {MAX_WIDTH} are read. Give the columns that are needed"
        raise FileFormatError(message, reason="too-many-columns")
    return next(at for at, (_, cells) in enumerate(rows) if len(cells) == usual)


def _refuse_wider(rows: list[Row], first: int, lines: list[str]) -> None:
    """Refuse data rows with more numbers than the others.

    Raises:
        FileFormatError: there is such a row.
    """
    width = len(rows[first][1])
    begin = first - 1 if _continues(rows, first) else first
    for number, cells in rows[begin:]:
        if len(cells) > width and any(cell for cell in cells[width:]):
            message = (
                f"line {number} has {len(cells)} numbers where most lines have {width}: "
                f"{lines[number - 1].strip()[:60]!r}. Write numbers without signs between thousands"
            )
            raise FileFormatError(message, reason="columns-ambiguous")


def _continues(rows: list[Row], first: int) -> bool:
    """Whether the row before the first data row lies one step before it, so that it is data and not a header."""
    if first == 0 or first + 1 >= len(rows):
        return False
    try:
        before, here, after = (float(cells[0]) for _, cells in rows[first - 1 : first + 2])
    except (ValueError, IndexError):
        return False
    return abs((here - before) - (after - here)) < 0.5 * abs(after - here)


def _numbers(rows: list[Row], at_least: int, notation: Notation, lines: list[str]) -> Array:
    """Return the numbers (M, columns); NaN where a cell has a word for a missing value."""
    width = len(rows[0][1])
    for number, cells in rows[:-1]:  # the last line may be cut
        if len(cells) < at_least:
            message = f"line {number} has less than {at_least} numbers: {lines[number - 1].strip()[:60]!r}"
            raise FileFormatError(message, reason="bad-row")
    values = np.full((len(rows), width), np.nan)
    if all(len(cells) == width for _, cells in rows):
        try:
            return np.array([cells for _, cells in rows], np.float64)
        except ValueError:
            pass  # some cell is not a plain number: parse cell by cell
    for at, (number, cells) in enumerate(rows):
        for column, cell in enumerate(cells[:width]):
            try:
                values[at, column] = float(cell)
            except ValueError:
                values[at, column] = _unusual(cell, number, notation, lines)
    return values


def _unusual(cell: str, number: int, notation: Notation, lines: list[str]) -> float:
    """Return the number in a cell that `float` cannot parse."""
    if _MISSING.fullmatch(cell):
        return float("nan")
    if _STARS.fullmatch(cell):
        message = f"line {number}: {cell!r} is a number that was too long for its column; export with more digits"
        raise FileFormatError(message, reason="overflow")
    value = notation.number(cell)
    if value is None:
        message = f"line {number} is not a row of numbers: {lines[number - 1].strip()[:60]!r}"
        raise FileFormatError(message, reason="bad-row")
    return value


def _names(header: list[str], notation: Notation, width: int) -> tuple[str, ...]:
    """Return the column names, from one of the last three header lines that has one word per column and no values."""
    for line in reversed(header[-3:]):
        bare = line.lstrip("#!%;/*' ").strip()
        if len(bare) > MAX_NAMES:
            continue
        for words in (notation.cells(bare), re.split(r"\s{2,}|\t", bare), re.split(r"\s+(?![\[(])", bare)):
            named = [word.strip("\"' ") for word in words]
            while named and not named[-1]:
                named.pop()
            units = any(word.startswith(("(", "[")) for word in words[1:])  # "q (nm^-1)" is one name
            if len(named) == width and not units and all(_WORD.match(word) or not word for word in named):
                return tuple(named)
    return ()
