"""The queries of a screening: a folder of files, the rows of a Parquet table, or the ids of a dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from crystalign import storage
from crystalign.config import Config, faults
from crystalign.errors import ConfigError, DatasetError, FileFormatError, InputError, QueryError, StorageError
from crystalign_serve.errors import MAX_BODY_BYTES
from crystalign_serve.files import Upload
from crystalign_serve.requests import SearchQuery, query_model

if TYPE_CHECKING:
    from crystalign.shards.dataset import Dataset

MAX_QUERIES = 1_000_000
"""Largest number of queries of one screening."""
MAX_GROUP_BYTES = 2**30
"""Largest size of a row group of a table after decompression (bytes)."""
NAME = "name"
"""Column of a table that names its queries; without it they are named by their row."""
MANIFEST = "manifest.json"


class Question(NamedTuple):
    """One query, not yet read."""

    name: str
    """File name, name in the table, or id."""
    upload: Upload | None = None
    """The file, if it is one."""
    query: SearchQuery | None = None
    """The query, if it is not a file."""
    refusal: InputError | None = None
    """Why it cannot be a query."""


class Block(Config):
    """Some consecutive queries, small enough for one task."""

    number: int
    """Number of the block, from 0."""
    start: int
    """Number of its first query."""
    stop: int
    """Number after its last query."""
    files: tuple[storage.FileEntry, ...] = ()
    """The files of the queries, for a folder."""
    ids: tuple[str, ...] = ()
    """The ids, for a dataset."""


class Queries(Config):
    """All queries of a screening."""

    uri: str
    """URI of the folder, table or dataset."""
    form: Literal["files", "table", "ids"]
    """What is there."""
    count: int
    """Number of queries."""
    sha256: str
    """Identifies names and content of all queries, in their order."""
    kind: str = "auto"
    """Kind of the files, as in `/api/search/file`."""
    wavelength: str | None = None
    """Wavelength of powder patterns whose files do not state it."""

    def questions(self, block: Block) -> Iterator[Question]:
        """The queries of a block, in order.

        Raises:
            StorageError: a file cannot be read, or has changed since the screening began.
        """
        if self.form == "ids":
            yield from (_question(name, {"id": name}) for name in block.ids)
        elif self.form == "files":
            yield from (self._file(entry) for entry in block.files)
        else:
            rows = _rows(self.uri, block.start, block.stop)
            for number, values in enumerate(rows, block.start):
                name = values.pop(NAME, None)
                yield _question(f"row {number}" if name is None else str(name), values)

    def ids(self, blocks: list[Block]) -> Iterator[str]:
        """The ids among the queries."""
        if self.form == "ids":
            yield from (name for block in blocks for name in block.ids)
        elif self.form == "table" and "id" in _columns(self.uri):
            for block in blocks:
                rows = _rows(self.uri, block.start, block.stop, ["id"])
                yield from (str(values["id"]) for values in rows if values["id"] is not None)

    def _file(self, entry: storage.FileEntry) -> Question:
        if entry.bytes > MAX_BODY_BYTES:
            large = f"{entry.path} has {entry.bytes} bytes; at most {MAX_BODY_BYTES} are read"
            return Question(entry.path, refusal=FileFormatError(large, reason="too-large"))
        data = storage.read_verified(self.uri, entry)
        return Question(entry.path, upload=Upload(entry.path, data, self.kind, self.wavelength))


def open_queries(uri: str, size: int, kind: str = "auto", wavelength: str | None = None) -> tuple[Queries, list[Block]]:
    """Find the queries at a URI and divide them into blocks.

    Args:
        uri: a folder of files, a `.parquet` file, or a dataset.
        size: queries of a block.
        kind: kind of the files.
        wavelength: wavelength of powder patterns whose files do not state it.

    Raises:
        ConfigError: there are no queries, or too many.
    """
    if uri.endswith(".parquet"):
        count, sha256 = _table_size(uri), storage.fingerprint(uri).sha256
        queries = Queries(uri=uri, form="table", count=count, sha256=sha256)
        items: list[Any] = [None] * count
    elif (dataset := _dataset(uri)) is not None:
        items = dataset.table(["id"]).column("id").to_pylist()
        queries = Queries(uri=uri, form="ids", count=len(items), sha256=dataset.manifest.sha256)
    else:
        items = _files(uri)
        listed = json.dumps([[entry.path, entry.sha256] for entry in items] + [kind, wavelength]).encode()
        digest = hashlib.sha256(listed).hexdigest()
        queries = Queries(uri=uri, form="files", count=len(items), sha256=digest, kind=kind, wavelength=wavelength)
    if not items:
        raise ConfigError(f"no queries at {uri}; give a folder of files, a .parquet table, or a dataset")
    if queries.form != "files" and (kind != "auto" or wavelength is not None):
        raise ConfigError(f"--kind and --wavelength are for folders of files; {uri} is none")
    return queries, list(_blocks(queries.form, items, size))


def _blocks(form: str, items: list[Any], size: int) -> Iterator[Block]:
    for number, start in enumerate(range(0, len(items), size)):
        own = tuple(items[start : start + size])
        files, ids = own if form == "files" else (), own if form == "ids" else ()
        yield Block(number=number, start=start, stop=start + len(own), files=files, ids=ids)


def _files(uri: str) -> list[storage.FileEntry]:
    names = [name for name in storage.list_names(uri) if not name.rpartition("/")[2].startswith(".")]
    _limit(len(names), uri)
    entries = []
    for name in names:
        content = storage.fingerprint(storage.join(uri, *name.split("/")))
        entries.append(storage.entry_of(name, content))
    return entries


def _dataset(uri: str) -> Dataset | None:
    from crystalign.shards.dataset import Dataset

    if not storage.exists(storage.join(uri, MANIFEST)):
        return None
    try:
        dataset = Dataset.open(uri)
    except DatasetError as error:
        raise ConfigError(f"{uri} holds a {MANIFEST}, but is no dataset: {error}") from error
    _limit(dataset.manifest.rows, uri)
    return dataset


def _limit(count: int, uri: str) -> None:
    if count > MAX_QUERIES:
        raise ConfigError(f"{count:,} queries at {uri}; a screening takes at most {MAX_QUERIES:,}: divide them")


# --- tables -----------------------------------------------------------------------------------------------------------


def _table_size(uri: str) -> int:
    """Number of rows of a table, whose columns are checked.

    Raises:
        ConfigError: it is no Parquet table, is too large, or has columns that no query has.
    """
    known = [*query_model().model_fields, NAME]
    columns = _columns(uri)
    unknown = [column for column in columns if column not in known]
    if unknown or not set(columns) - {NAME}:
        found = ", ".join(columns) or "(none)"
        raise ConfigError(f"{uri} has the columns {found}; each must be a part of a query: {', '.join(known)}")
    with storage.open_input(uri) as source:
        metadata = pq.ParquetFile(source).metadata
        largest = max((metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)), default=0)
    if largest > MAX_GROUP_BYTES:
        raise ConfigError(
            f"{uri} has a row group of {largest:,} bytes; at most {MAX_GROUP_BYTES:,} are read: write smaller groups"
        )
    _limit(metadata.num_rows, uri)
    return int(metadata.num_rows)


def _columns(uri: str) -> list[str]:
    try:
        with storage.open_input(uri) as source:
            return list(pq.ParquetFile(source).schema_arrow.names)
    except pa.ArrowException as error:
        raise ConfigError(f"{uri} is no Parquet table: {str(error)[:200]}") from error


def _rows(uri: str, start: int, stop: int, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """Rows of a table; only the row groups that hold them are read.

    Raises:
        StorageError: the table cannot be read.
    """
    try:
        with storage.open_input(uri) as source:
            file, rows, first = pq.ParquetFile(source, page_checksum_verification=True), [], 0
            for group in range(file.num_row_groups):
                last = first + file.metadata.row_group(group).num_rows
                if first < stop and last > start:
                    table = file.read_row_group(group, columns=columns)
                    own = slice(max(start - first, 0), min(stop, last) - first)
                    rows += table.slice(own.start, own.stop - own.start).to_pylist()
                first = last
    except pa.ArrowException as error:
        raise StorageError(f"{uri} cannot be read: {str(error)[:200]}") from error
    return rows


def _question(name: str, values: dict[str, Any]) -> Question:
    """A query from the values of its parts; those that are null are left out."""
    given = {key: value for key, value in values.items() if value is not None}
    if not given:
        return Question(name, refusal=QueryError("the query is empty", reason="empty-query"))
    try:
        return Question(name, query=query_model().model_validate(given))
    except ValidationError as error:
        return Question(name, refusal=QueryError(faults(error), reason="bad-query"))
