"""Write the segments of an index from any source of rows, one task per segment, restartable.

A task reads only the rows of its segment, writes the segment with the files of its vector store, its word counts and
its sorted ids, and then a receipt. A job that was killed repeats only the tasks without a receipt whose files are
whole. Nothing here knows how tasks run: `Run` is a loop in this process, or tasks on a cluster.

    index/building/<key>/           deleted when the manifest is written
    ├── segment-00000.json          receipt
    └── segment-00000.<sha256>.ids  its ids, sorted
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import StorageError, VerificationError
from crystalign.index.embeddings import FACT_COLUMNS, embedding_matrix
from crystalign.index.id_runs import PlacedId, require_distinct, save_run
from crystalign.index.lexical import WORDS, LexiconBuilder, WordCounts
from crystalign.index.manifest import SegmentEntry
from crystalign.index.vector_store import VECTOR_STORES
from crystalign.material import HYPOTHETICAL

BUILDING = "building"
"""Folder inside the index that holds receipts and sorted ids."""
DIGITS = 12
"""Digits of the SHA-256 in a segment's name, which keep writes from replacing a segment of other content."""
_FORMAT = 2
"""Number of the format of what a task writes; another release does not take up the files of an older one."""

Work = Callable[[dict[str, Any]], dict[str, str]]
"""One task: takes its settings, returns `{"result": JSON}`."""
Run = Callable[[Sequence[dict[str, Any]], Work], Iterator[Any]]
"""Runs a task for each of some settings, and yields their results in any order, decoded."""


def run_here(rows: Sequence[dict[str, Any]], work: Work) -> Iterator[Any]:
    """Run the tasks in this process, in order."""
    for row in rows:
        yield json.loads(work(row)["result"])


class Rows(NamedTuple):
    """The rows of one segment."""

    table: pa.Table
    """Vectors and columns, as they are stored."""
    words: WordCounts
    """The words of their texts."""
    places: Sequence[str]
    """For each row, the file it came from, for messages."""


class RowSource(Protocol):
    """Rows in a fixed order, of which each task reads a part. It is sent to the tasks."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    @property
    def key(self) -> str:
        """Identity of the rows."""

    def read(self, start: int, stop: int, folder: Path) -> Rows:
        """The rows from `start` to `stop`; `folder` is for temporary files."""


class Receipt(Config):
    """What a task made."""

    number: int
    """Number of the task."""
    entry: SegmentEntry
    """The segment."""
    ids: storage.FileEntry | None
    """Its sorted ids; None if nothing was written."""
    has_facts: bool
    """Whether the segment has the columns that follow from captions with facts."""
    has_hypothetical: bool
    """Whether a row is hypothetical."""


@dataclass(frozen=True, slots=True)
class SegmentWriter:
    """The task that writes a segment. It is sent to the workers."""

    source: RowSource
    """Where the rows come from."""
    uri: str
    """URI of the index."""
    kind: str
    """Name of the vector store."""
    rows_per_segment: int
    """Rows of each segment; the last may have fewer."""
    trained: tuple[storage.FileEntry, ...] = ()
    """Files that the vector stores of all segments share."""
    first: int = 0
    """Number of the first segment, for its name."""
    apart: bool = False
    """Put the other files of a segment into a folder of this job. A change of an index needs it, because an earlier
    version may have a segment of the same content with other words or another vector store."""
    existing: Mapping[str, str] | None = None
    """For an existing index: SHA-256 → path of its segments, and nothing is written. None writes all files."""

    @property
    def tasks(self) -> list[dict[str, int]]:
        """The settings of all tasks."""
        return [{"number": number} for number in range(-(-self.source.rows // self.rows_per_segment))]

    @property
    def folder(self) -> str:
        """URI of the folder of receipts."""
        return storage.join(self.uri, BUILDING, self.key)

    @property
    def key(self) -> str:
        """Name of that folder: a hash of everything that determines the files."""
        made_of = (_FORMAT, self.source.key, self.kind, self.rows_per_segment, self.first)
        parts = [*map(str, made_of), *(file.sha256 for file in self.trained)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:DIGITS]

    def __call__(self, task: Mapping[str, Any]) -> dict[str, str]:
        """Write a segment, unless an earlier run has."""
        number = int(task["number"])
        receipt = self.finished(number) if self.existing is None else None
        return {"result": (receipt or self._write(number)).model_dump_json()}

    def finished(self, number: int) -> Receipt | None:
        """The receipt of an earlier run, if every file that it names is whole; None otherwise."""
        try:
            data = storage.read_bytes(storage.join(self.folder, _receipt(number)))
            receipt = Receipt.model_validate_json(data)
            for entry in _files(receipt):
                storage.verify(storage.join(self.uri, *entry.path.split("/")), entry)
        except (StorageError, ValueError):
            return None
        return receipt

    def _write(self, number: int) -> Receipt:
        start = number * self.rows_per_segment
        with tempfile.TemporaryDirectory(prefix="crystalign-segment-") as folder:
            rows = self.source.read(start, min(self.source.rows, start + self.rows_per_segment), Path(folder))
            table = rows.table
            has_facts = table["keywords"].null_count < len(table)
            if not has_facts:
                table = table.drop_columns(list(FACT_COLUMNS))
            has_hypothetical = bool(pc.any(table[HYPOTHETICAL]).as_py())
            if not has_hypothetical:
                table = table.drop_columns([HYPOTHETICAL])
            local = Path(folder) / "segment.parquet"
            pq.write_table(table, local, compression="zstd")
            entry = self._segment(local, self.first + number, len(table))
        entry = self._with_files(entry, table, rows.words)
        placed = map(PlacedId, table["id"].to_pylist(), rows.places)
        ids = self._ids(number, save_run(placed)) if self.existing is None else None
        receipt = Receipt(number=number, entry=entry, ids=ids, has_facts=has_facts, has_hypothetical=has_hypothetical)
        if self.existing is None:
            storage.write_bytes(storage.join(self.folder, _receipt(number)), receipt.model_dump_json().encode())
        return receipt

    def _segment(self, local: Path, number: int, rows: int) -> SegmentEntry:
        """Upload a segment. If it already exists, only compute its entry, under its name."""
        size, digest = storage.fingerprint(str(local))
        name = f"segments/segment-{number:05d}.{digest[:DIGITS]}.parquet"
        if self.existing is None:
            storage.upload(local, storage.join(self.uri, name))
        else:
            name = self.existing.get(digest, name)
        return SegmentEntry(path=name, bytes=size, sha256=digest, rows=rows)

    def _with_files(self, entry: SegmentEntry, table: pa.Table, words: WordCounts) -> SegmentEntry:
        """The entry with the files of the vector store and of the words."""
        folder = entry.path.removesuffix(".parquet") + (f"/{self.key}" if self.apart else "")
        trained = {file.path.rpartition("/")[2]: storage.read_verified(self.uri, file) for file in self.trained}
        encoded = VECTOR_STORES[self.kind].encode(embedding_matrix(table), trained)
        store = tuple(self._file(f"{folder}/{name}", data) for name, data in sorted(encoded.items()))
        counted = self._file(f"{folder}/{WORDS}", words.save()) if words.texts else None
        return entry.model_copy(update={"store": store, "words": counted})

    def _ids(self, number: int, data: bytes) -> storage.FileEntry:
        name = f"segment-{number:05d}.{storage.entry_of('ids', data).sha256[:DIGITS]}.ids"
        return self._file(f"{BUILDING}/{self.key}/{name}", data)

    def _file(self, path: str, data: bytes) -> storage.FileEntry:
        if self.existing is None:
            storage.write_bytes(storage.join(self.uri, *path.split("/")), data)
        return storage.entry_of(path, data)


class Written(NamedTuple):
    """The segments that a job wrote."""

    entries: tuple[SegmentEntry, ...]
    """The segments, in order."""
    has_facts: bool
    """Whether any of them has the columns that follow from captions with facts."""
    has_hypothetical: bool
    """Whether any of them has hypothetical rows."""
    ids: tuple[storage.FileEntry, ...]
    """Files of their sorted ids; the paths are relative to the index."""


def write_segments(writer: SegmentWriter, run: Run, on_rows: Callable[[int], None] | None = None) -> Written:
    """Write all segments, in tasks, and check that no id occurs twice.

    Args:
        writer: the task.
        run: runs the tasks.
        on_rows: called with the number of rows of each segment after it is stored.

    Raises:
        DatasetError: an id occurs twice; the message names it and its files.
    """
    receipts = []
    for result in run(writer.tasks, writer):
        receipts.append(Receipt.model_validate(result))
        if on_rows is not None:
            on_rows(receipts[-1].entry.rows)
    receipts.sort(key=lambda receipt: receipt.number)
    ids = tuple(receipt.ids for receipt in receipts if receipt.ids is not None)
    with tempfile.TemporaryDirectory(prefix="crystalign-ids-") as folder:
        require_distinct(fetch_runs(writer.uri, ids, Path(folder)), Path(folder))
    return Written(
        tuple(receipt.entry for receipt in receipts),
        any(receipt.has_facts for receipt in receipts),
        any(receipt.has_hypothetical for receipt in receipts),
        ids,
    )


def fetch_runs(uri: str, ids: Sequence[storage.FileEntry], folder: Path) -> list[Path]:
    """Copy sorted runs of ids to a local folder, and verify them.

    Raises:
        VerificationError: a run differs from its entry.
    """
    paths = []
    for number, entry in enumerate(ids):
        paths.append(folder / f"run-{number:06d}.arrow")
        storage.download(storage.join(uri, *entry.path.split("/")), paths[-1], expect=entry)
    return paths


def count_words(uri: str, entries: Sequence[SegmentEntry]) -> LexiconBuilder:
    """The word counts of all segments together; one segment at a time is in memory.

    Raises:
        VerificationError: a file is missing or differs from its entry.
    """
    builder = LexiconBuilder()
    for entry in entries:
        if entry.words is not None:
            builder.add(WordCounts.load(storage.read_verified(uri, entry.words)))
    return builder


def _receipt(number: int) -> str:
    return f"segment-{number:05d}.json"


def _files(receipt: Receipt) -> Iterator[storage.FileEntry]:
    entry = receipt.entry
    if receipt.ids is None:
        raise VerificationError(f"the receipt of {entry.path} names no ids")
    yield from (entry, *entry.store, receipt.ids)
    if entry.words is not None:
        yield entry.words
