"""Sorted runs of ids: which ids occur twice, and which of them an index holds, in bounded memory.

The tasks of a build each write the ids of their rows in order. A merge of these runs meets equal ids side by side
(Knuth, The Art of Computer Programming 3, section 5.4), and holds `BATCH` ids of at most `FAN_IN` runs at a time,
however many rows there are. Intermediate runs lie on the local disk.
"""

from __future__ import annotations

import heapq
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from crystalign.errors import DatasetError

BATCH = 1024
"""Ids of a run that are in memory at a time."""
FAN_IN = 64
"""Runs that are merged at a time."""
_SCHEMA = pa.schema([("id", pa.string()), ("place", pa.string())])


class PlacedId(NamedTuple):
    """An id, and the file that holds it."""

    id: str
    place: str


def save_run(ids: Iterable[PlacedId]) -> bytes:
    """A sorted run as an Arrow file; the ids may come in any order."""
    sink = io.BytesIO()
    _write(sink, sorted(ids))
    return sink.getvalue()


def read_run(path: Path) -> Iterator[PlacedId]:
    """The ids of a run in ascending order, by code points."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            yield from map(PlacedId, batch["id"].to_pylist(), batch["place"].to_pylist())


def merge_runs(paths: Sequence[Path], folder: Path) -> Iterator[PlacedId]:
    """The ids of all runs in ascending order.

    Args:
        paths: the runs.
        folder: where intermediate runs may be written.
    """
    level = 0
    while len(paths) > FAN_IN:
        level, merged = level + 1, []
        for start in range(0, len(paths), FAN_IN):
            merged.append(folder / f"merged-{level}-{start}.arrow")
            with merged[-1].open("wb") as sink:
                _write(sink, heapq.merge(*(read_run(path) for path in paths[start : start + FAN_IN])))
        paths = merged
    yield from heapq.merge(*(read_run(path) for path in paths))


def require_distinct(paths: Sequence[Path], folder: Path) -> int:
    """Check that no id occurs twice in some runs, and return the number of ids.

    Raises:
        DatasetError: an id occurs twice; the message names it and its files.
    """
    before, count = None, 0
    for entry in merge_runs(paths, folder):
        if before is not None and before.id == entry.id:
            places = f"{before.place} and {entry.place}" if before.place != entry.place else f"{entry.place}, twice"
            raise DatasetError(f"{entry.id!r} is in the embeddings twice; an id names one material. It is in {places}")
        before, count = entry, count + 1
    return count


def common(ids: Iterable[str], runs: Iterable[Path]) -> set[str]:
    """Those of some ids that are in the runs. Only `ids` are held in memory."""
    wanted = frozenset(ids)
    return {entry.id for path in runs for entry in read_run(path) if entry.id in wanted}


def _write(sink: io.BufferedIOBase, ids: Iterable[PlacedId]) -> None:
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        remaining = iter(ids)
        while batch := list(itertools.islice(remaining, BATCH)):
            columns = [pa.array([entry[column] for entry in batch], pa.string()) for column in (0, 1)]
            writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
