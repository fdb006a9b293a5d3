"""Text tables of databases: some columns of a CSV, or of what `mysqldump --tab` writes, as strings in Arrow arrays."""

from __future__ import annotations

import csv
import functools
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from crystalign import storage
from crystalign.errors import FileFormatError
from crystalign.limits import Limits

MAX_FIELD = 1 << 20
"""Largest number of characters of one field."""
_BATCH = 20_000
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_MYSQL = {"0": "\0", "n": "\n", "r": "\r", "t": "\t", "b": "\b", "Z": "\x1a"}
"""Escapes of MySQL: the character behind a backslash → its meaning; other characters mean themselves."""


class TextTable(NamedTuple):
    """Selected columns of a table."""

    rows: pa.Table
    """Columns of strings; null where the field is empty."""
    bad: tuple[tuple[int, str], ...]
    """(number of the line, what is wrong) for each line that is no row."""

    def row(self, number: int) -> dict[str, str]:
        """One row; fields without a value are empty strings."""
        return {name: self.rows.column(name)[number].as_py() or "" for name in self.rows.column_names}


@functools.lru_cache(maxsize=2)
def read_csv(
    location: str,
    columns: tuple[str, ...],
    optional: tuple[str, ...],
    limits: Limits,
    opened: str,  # noqa: ARG001 (identity, for the cache)
) -> TextTable:
    """Read columns of a CSV whose first line names them; cached, because a process reads many rows of one table.

    Bytes that are not UTF-8 are replaced by a mark. A line with another number of fields is bad and not a row.

    Args:
        location: path or URI.
        columns: names of columns that must be there.
        optional: names of columns that are read if they are there, and are null otherwise.
        limits: bounds on sizes.
        opened: id of the source that reads it; another source reads the file again.

    Raises:
        FileFormatError: a column is missing, or the file is too large.
        StorageError: there is no such file.
    """
    with _opened(location, limits, newline="") as lines:
        reader = csv.reader(lines)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise FileFormatError(f"{location} is no CSV: {error}", reason="unreadable-csv") from error
        missing = [name for name in columns if name not in header]
        if missing:
            held = ", ".join(name or "(no name)" for name in header[:40])
            message = f"{location} has no column {', '.join(missing)}; it has {held[:1000]}"
            raise FileFormatError(message, reason="unreadable-csv")
        return _collected(_rows(reader), header, (*columns, *optional), limits, location)


@functools.lru_cache(maxsize=2)
def read_dump(
    location: str,
    header: tuple[str, ...],
    columns: tuple[str, ...],
    limits: Limits,
    opened: str,  # noqa: ARG001 (identity, for the cache)
) -> TextTable:
    r"""Read columns of a table as `mysqldump --tab` writes it; cached.

    Fields are separated by tabs, a backslash escapes the character behind it, and `\N` is NULL.

    Args:
        location: path or URI.
        header: names of all columns, in order.
        columns: names of the columns to read; those that are not in `header` are null.
        limits: bounds on sizes.
        opened: id of the source that reads it; another source reads the file again.

    Raises:
        FileFormatError: the file is too large.
        StorageError: there is no such file.
    """
    with _opened(location, limits, newline="\n") as lines:
        return _collected(_dumped(lines), header, columns, limits, location)


def _opened(location: str, limits: Limits, *, newline: str) -> Any:
    stream = storage.open_input(location)
    if stream.size() > limits.max_json_bytes:
        message = f"{location} has {stream.size()} bytes; the limit for a table is {limits.max_json_bytes}"
        raise FileFormatError(message, reason="too-large")
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline=newline)


def _rows(reader: Any) -> Iterator[tuple[int, list[str | None] | str]]:
    """Yield (number of the line, its fields or what is wrong) for each record of a CSV."""
    csv.field_size_limit(MAX_FIELD)
    while True:
        try:
            record: Any = next(reader, None)
        except csv.Error as error:
            record = str(error)
        if record is None:
            return
        if record:
            yield reader.line_num, record


def _dumped(lines: Any) -> Iterator[tuple[int, list[str | None] | str]]:
    r"""Yield (number of the line, its fields); a line whose end is escaped goes on in the next one."""
    held = ""
    for number, line in enumerate(lines, start=1):
        held += line.removesuffix("\n")
        if _ends_escaped(held) and line.endswith("\n") and len(held) < MAX_FIELD:
            held += "\n"
            continue
        yield number, _fields(held)
        held = ""
    if held:
        yield number, "the last line ends within a field"


def _fields(line: str) -> list[str | None]:
    if "\\" not in line:
        return list(line.split("\t"))
    fields: list[str | None] = []
    held = ""
    for piece in line.split("\t"):
        held += piece
        if _ends_escaped(held):
            held += "\t"
            continue
        fields.append(None if held == "\\N" else _ESCAPED.sub(_meaning, held) if "\\" in held else held)
        held = ""
    return fields


def _ends_escaped(text: str) -> bool:
    """Whether a backslash at the end escapes what follows: whether there is an odd number of them."""
    return text.endswith("\\") and (len(text) - len(text.rstrip("\\"))) % 2 == 1


def _meaning(match: re.Match[str]) -> str:
    return _MYSQL.get(match[1], match[1])


def _collected(
    records: Iterator[tuple[int, list[str | None] | str]],
    header: Sequence[str],
    columns: Sequence[str],
    limits: Limits,
    location: str,
) -> TextTable:
    """Collect the chosen fields of all records, some thousands at a time, so that the whole text is never in memory."""
    wanted = [name for name in columns if name in header]
    places = [header.index(name) for name in wanted]
    schema = pa.schema([(name, pa.string()) for name in wanted])
    batches: list[pa.RecordBatch] = []
    held: list[list[str | None]] = []
    bad: list[tuple[int, str]] = []
    count = 0
    for number, record in records:
        count += 1
        if count > 10 * limits.max_members:
            raise FileFormatError(f"{location} has more than {10 * limits.max_members} lines", reason="too-large")
        if isinstance(record, str) or len(record) != len(header):
            what = record if isinstance(record, str) else f"{len(record)} fields instead of {len(header)}"
            bad.append((number, what))
            continue
        held.append([record[place] or None for place in places])
        if len(held) == _BATCH:
            batches.append(_batch(held, schema))
            held = []
    if held:
        batches.append(_batch(held, schema))
    table = pa.Table.from_batches(batches, schema)
    for name in columns:
        if name not in wanted:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    return TextTable(table.combine_chunks(), tuple(bad))


def _batch(rows: list[list[str | None]], schema: pa.Schema) -> pa.RecordBatch:
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    return pa.record_batch(columns, schema=schema)
