"""Mark rows of an index as removed, one task per segment.

A segment is never changed. The rows that are removed from it are a bitmap in a file of its own, whose name depends on
its content.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from crystalign import storage
from crystalign.config import Config
from crystalign.index.columns import bitmap
from crystalign.index.filters import searched_rows
from crystalign.index.id_runs import common
from crystalign.index.lexical import LexiconBuilder
from crystalign.index.local_cache import Prepared
from crystalign.index.manifest import IndexManifest, SegmentEntry
from crystalign.index.segment_files import read_segments, removed_bits, word_counts
from crystalign.index.segment_writer import DIGITS, Run, fetch_runs

SHOWN = 5
"""Number of ids in a message."""


class Choice(Protocol):
    """Which rows are removed. It is sent to the tasks."""

    @property
    def names_ids(self) -> bool:
        """Whether the user named the ids, and is told of those that were not found."""

    def mask(self, prepared: Prepared) -> NDArray[np.bool_]:
        """(n,) which rows of a segment."""


class ByIds(NamedTuple):
    """The rows of some ids."""

    uri: str
    """URI of the index."""
    runs: tuple[storage.FileEntry, ...]
    """Files of the sorted ids; the paths are relative to the index."""
    names_ids: bool = True
    """Whether the user named the ids."""

    def mask(self, prepared: Prepared) -> NDArray[np.bool_]:
        """(n,) which rows have one of the ids."""
        ids = prepared.table["id"].to_pylist()
        with tempfile.TemporaryDirectory(prefix="crystalign-ids-") as folder:
            found = common(ids, fetch_runs(self.uri, self.runs, Path(folder)))
        return np.array([name in found for name in ids], bool)


class ByFilter(NamedTuple):
    """The rows that satisfy a filter."""

    manifest: IndexManifest
    """Manifest of the index, which says what can be filtered by."""
    text: str
    """OPTIMADE filter."""
    names_ids: bool = False
    """The user did not name any ids."""

    def mask(self, prepared: Prepared) -> NDArray[np.bool_]:
        """(n,) which rows satisfy it."""
        bits, _ = bitmap(searched_rows(self.text, self.manifest.fields).evaluate(prepared.columns))
        return np.unpackbits(bits, bitorder="little", count=len(prepared.table)).view(bool)


class Marked(Config):
    """What a task found in a segment."""

    number: int
    """Number of the segment."""
    count: int
    """Number of chosen rows that were not removed before."""
    already: int
    """Number of chosen rows that were removed before."""
    shown: tuple[str, ...]
    """Some of their ids; all of them, also of rows that were removed before, if the user named the ids."""
    removed: storage.FileEntry | None
    """The new bitmap; None if nothing was written."""


@dataclass(frozen=True, slots=True)
class MarkRows:
    """The task that finds rows in a segment, and marks them as removed."""

    uri: str
    """URI of the index."""
    manifest: IndexManifest
    """Its manifest."""
    choice: Choice
    """Which rows."""
    write: bool
    """Whether to write a bitmap, or only to count."""

    def __call__(self, task: Mapping[str, Any]) -> dict[str, str]:
        """Find the rows of one segment."""
        number = int(task["number"])
        entry = self.manifest.segments[number]
        prepared = read_segments(self.uri, self.manifest, [entry])
        chosen = self.choice.mask(prepared)
        before = np.unpackbits(removed_bits(self.uri, entry), bitorder="little", count=entry.rows).view(bool)
        new = chosen & ~before
        told = np.flatnonzero(chosen) if self.choice.names_ids else np.flatnonzero(new)[:SHOWN]
        marked = Marked(
            number=number,
            count=int(new.sum()),
            already=int((chosen & before).sum()),
            shown=tuple(prepared.table["id"].take(told).to_pylist()),
            removed=write_bits(self.uri, entry, before | new) if self.write and new.any() else None,
        )
        return {"result": marked.model_dump_json()}


def write_bits(uri: str, entry: SegmentEntry, removed: NDArray[np.bool_]) -> storage.FileEntry:
    """Write the bitmap of the removed rows (n,) of a segment."""
    data = np.packbits(removed, bitorder="little").tobytes()
    folder = entry.path.removesuffix(".parquet")
    path = f"{folder}/removed.{hashlib.sha256(data).hexdigest()[:DIGITS]}.bits"
    storage.write_bytes(storage.join(uri, *path.split("/")), data)
    return storage.entry_of(path, data)


def mark_rows(task: MarkRows, run: Run, on_rows: Callable[[int], None] | None = None) -> list[Marked]:
    """Look through all segments. `on_rows` is called with the number of rows of each."""
    found = []
    for result in run([{"number": number} for number in range(len(task.manifest.segments))], task):
        found.append(Marked.model_validate(result))
        if on_rows is not None:
            on_rows(task.manifest.segments[found[-1].number].rows)
    return sorted(found, key=lambda marked: marked.number)


def without(manifest: IndexManifest, marks: Sequence[Marked]) -> IndexManifest:
    """The manifest without the marked rows."""
    segments = list(manifest.segments)
    for mark in marks:
        if mark.removed is not None:
            entry = segments[mark.number]
            update = {"removed": mark.removed, "removed_rows": entry.removed_rows + mark.count}
            segments[mark.number] = entry.model_copy(update=update)
    rows = sum(entry.live_rows for entry in segments)
    return manifest.model_copy(update={"segments": tuple(segments), "rows": rows})


def subtract_words(uri: str, builder: LexiconBuilder, before: IndexManifest, after: IndexManifest) -> None:
    """Take the texts of removed rows out of the statistics of words, so that they are those of the rows that remain."""
    for old, new in zip(before.segments, after.segments, strict=False):  # added segments come last
        if old.removed != new.removed and old.words is not None:
            counts = word_counts(uri, old)
            kept = [
                ~np.unpackbits(removed_bits(uri, entry), bitorder="little", count=entry.rows).view(bool)
                for entry in (old, new)
            ]
            builder.subtract(counts.kept(kept[0]), counts.kept(kept[1]))
