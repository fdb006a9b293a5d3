"""The queries of a screening: a folder of files, the rows of a Parquet table, or the ids of a dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import ValidationError

from crystalign import storage
from crystalign.config import Config, faults
from crystalign.errors import ConfigError, DatasetError, FileFormatError, InputError, QueryError
from crystalign_serve.errors import MAX_BODY_BYTES
from crystalign_serve.files import Upload
from crystalign_serve.requests import SearchQuery, query_model
from crystalign_serve.screening.table import Table, pinned

if TYPE_CHECKING:
    from crystalign.shards.dataset import Dataset

MAX_QUERIES = 1_000_000
"""Largest number of queries of one screening."""
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
            model = query_model()
            yield from (_question(name, {"id": name}, model) for name in block.ids)
        elif self.form == "files":
            yield from (self._file(entry) for entry in block.files)
        else:
            rows, model = pinned(self.uri, self.sha256).rows(block.start, block.stop), query_model()
            for number, (values, refusal) in enumerate(rows, block.start):
                given = values.pop(NAME, None)
                name = f"row {number}" if given is None else str(given)
                yield _question(name, values, model) if refusal is None else Question(name, refusal=refusal)

    def ids(self, blocks: list[Block]) -> Iterator[str]:
        """The ids among the queries."""
        if self.form == "ids":
            yield from (name for block in blocks for name in block.ids)
        elif self.form == "table" and "id" in pinned(self.uri, self.sha256).columns:
            for block in blocks:
                rows = pinned(self.uri, self.sha256).rows(block.start, block.stop, ["id"])
                yield from (str(row.values["id"]) for row in rows if row.values.get("id") is not None)

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
        table = Table(uri)
        _check(table)
        queries = Queries(uri=uri, form="table", count=len(table), sha256=table.sha256)
        items: list[Any] = [None] * len(table)
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
    names = [name for name in storage.list_names(uri) if not any(part.startswith(".") for part in name.split("/"))]
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


def _check(table: Table) -> None:
    """Check the columns and the number of rows of a table.

    Raises:
        ConfigError: it has too many rows, or columns that no query has.
    """
    known = [*query_model().model_fields, NAME]
    twice = len(set(table.columns)) < len(table.columns)
    if twice or not set(table.columns) - {NAME} or not set(table.columns) <= set(known):
        found = ", ".join(table.columns) or "(none)"
        raise ConfigError(
            f"{table.uri} has the columns {found}; each must be a part of a query, once: {', '.join(known)}"
        )
    _limit(len(table), table.uri)


def _question(name: str, values: dict[str, Any], model: type[SearchQuery]) -> Question:
    """The query with these values of its parts, checked by the query model; null values are left out."""
    given = {key: value for key, value in values.items() if value is not None}
    if not given:
        return Question(name, refusal=QueryError("the query is empty", reason="empty-query"))
    try:
        return Question(name, query=model.model_validate(given))
    except ValidationError as error:
        return Question(name, refusal=QueryError(faults(error), reason="bad-query"))
