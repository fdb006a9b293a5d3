"""From a dataset on disk to the batch of each (step, rank), as plain functions.

The work has two stages, which a scheduler can run in parallel and in order:

1. `read_window` reads the row groups of one window of steps once and cuts them into *portions*:
   the undecoded rows of one (step, rank), or of one of its micro-batches. This is cheap and
   needs memory for one window.
2. `featurise` turns one portion into a `Batch`: decoding, augmentation, neighbour search,
   collation. This is expensive and needs memory for one portion.

Both are pure functions of the plan. A run that was killed, or that resumes with a different number of
ranks, therefore sees the same batches as an uninterrupted one. `join` combines micro-batches again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crystalign.config import Config
from crystalign.errors import DatasetError
from crystalign.modalities import Modality, make_modality
from crystalign.shards.dataset import Dataset
from crystalign.shards.order import EpochOrder
from crystalign.shards.schema import table_to_materials
from crystalign.shards.selection import Selection

if TYPE_CHECKING:
    from crystalign.batch import Batch, MicroBatches


class FeedPlan(Config):
    """Exactly the settings on which the content of a batch depends."""

    data: str
    """URI of the dataset."""
    data_sha256: str
    """SHA-256 of its manifest; a changed dataset would change the order of samples."""
    selection: str
    """URI of the saved selection."""
    modalities: dict[str, dict[str, Any]]
    """Modality → the settings of its features."""
    seed: int
    """Random seed of the order and of the augmentation."""
    augment: bool = True
    """Whether the features are augmented."""
    batch_size: int
    """Global batch size, summed over all ranks."""
    micro_batch_size: int | None = None
    """Largest number of rows in a micro-batch; None makes a single one per rank."""
    window_rows: int
    """Number of rows that are shuffled together and held in memory together."""
    world_size: int
    """Number of ranks over which a step is divided."""
    epochs: int
    """Number of epochs."""

    @property
    def rows_per_rank(self) -> int:
        """⌈B / W⌉, the same on every rank; rows beyond the batch are masked."""
        return -(-self.batch_size // self.world_size)

    @property
    def part_edges(self) -> list[tuple[int, int]]:
        """(first row, one past the last row) of each micro-batch of a rank, the same on every rank."""
        rows = self.rows_per_rank
        size = self.micro_batch_size or rows
        return [(start, min(start + size, rows)) for start in range(0, rows, size)]


class StepRange(Config):
    """Consecutive steps of one epoch that share row groups."""

    epoch: int
    """Epoch, counted from 0."""
    first: int
    """First step, counted within the epoch."""
    last: int
    """One past the last step."""


class MicroBatchRows(NamedTuple):
    """The undecoded rows of one micro-batch of one rank at one step."""

    step: int
    """Step, counted over all epochs."""
    rank: int
    """The rank that trains on these rows."""
    part: int
    """Index of the micro-batch in `FeedPlan.part_edges`."""
    rows: bytes
    """The rows as an Arrow IPC stream, in sample order."""


class RankBatch(NamedTuple):
    """The batch of one rank at one step, or one micro-batch of it."""

    step: int
    """Step, counted over all epochs."""
    rank: int
    """The rank that trains on the batch."""
    ids: list[str]
    """Ids of the materials, in order, without the masked rows."""
    batch: Batch | MicroBatches
    """`FeedPlan.rows_per_rank` rows, or those of one micro-batch."""


def steps_per_epoch(plan: FeedPlan) -> int:
    """⌈N / B⌉; the last step of an epoch is short."""
    return _order(plan, 0).steps


def ranges(plan: FeedPlan, start_step: int = 0) -> list[StepRange]:
    """The windows of all epochs in order, starting at step `start_step` (counted over all epochs)."""
    per_epoch = steps_per_epoch(plan)
    windows: list[StepRange] = []
    for epoch in range(start_step // per_epoch, plan.epochs):
        begin = max(0, start_step - epoch * per_epoch)
        windows += [
            StepRange(epoch=epoch, first=max(begin, window.first_step), last=window.last_step)
            for window in _order(plan, epoch).windows()
            if window.last_step > begin
        ]
    return windows


def read_window(plan: FeedPlan, window: StepRange) -> Iterator[MicroBatchRows]:
    """Read the row groups of a window once and yield its portions, by step, part and rank.

    Within a micro-batch, portions are ordered by rank, so that all ranks are served at the same pace.

    Raises:
        DatasetError: the dataset is not the one the plan was made for.
    """
    order = _order(plan, window.epoch)
    steps = [order.rows(step) for step in range(window.first, window.last)]
    table = _read_rows(plan, np.concatenate(steps))
    first, begin = window.epoch * order.steps + window.first, 0
    for number, rows in enumerate(steps):
        shares = _cuts(len(rows), plan.world_size)
        for part, (start, stop) in enumerate(plan.part_edges):
            for rank, (low, high) in enumerate(shares):
                begins, ends = min(low + start, high), min(low + stop, high)
                piece = table.slice(begin + begins, ends - begins)  # empty where all rows are surplus
                yield MicroBatchRows(first + number, rank, part, _to_ipc(piece))
        begin += len(rows)


def featurise(plan: FeedPlan, portion: MicroBatchRows) -> RankBatch:
    """The batch of one portion.

    The random numbers of a row depend only on (seed, step, rank, position in the rank). Micro-batches can
    therefore be computed separately, and features do not depend on the size of the micro-batches.
    """
    from crystalign.batch import make_batch  # imports torch, which the reading tasks do not need

    table = pa.ipc.open_stream(portion.rows).read_all()
    properties = _dataset(plan.data, plan.data_sha256).manifest.properties
    materials = table_to_materials(table, properties, modalities=tuple(plan.modalities))
    rows = range(*plan.part_edges[portion.part])
    surplus = [None] * (len(rows) - len(materials))
    rngs = [np.random.default_rng([plan.seed, portion.step, portion.rank, row]) for row in rows]
    batch = make_batch([*materials, *surplus], _modalities(plan), rngs if plan.augment else None)
    return RankBatch(portion.step, portion.rank, [str(name) for name in table.column("id").to_pylist()], batch)


def join(parts: Sequence[RankBatch]) -> RankBatch:
    """Combine the micro-batches of one step and rank, given in order."""
    from crystalign.batch import MicroBatches

    if len(parts) == 1:
        return parts[0]
    batch = MicroBatches(tuple(itertools.chain.from_iterable(part.batch.parts for part in parts)))
    return RankBatch(parts[0].step, parts[0].rank, [name for part in parts for name in part.ids], batch)


def feed(plan: FeedPlan, *, rank: int = 0, start_step: int = 0) -> Iterator[RankBatch]:
    """The batches of one rank, computed in this process: for a notebook, a test, or a rank under `torchrun`."""
    parts: list[RankBatch] = []
    for window in ranges(plan, start_step):
        for portion in read_window(plan, window):
            if portion.rank == rank:
                parts.append(featurise(plan, portion))
            if len(parts) == len(plan.part_edges):
                whole, parts = join(parts), []
                yield whole
                del whole  # free its memory before the next one is computed


def _cuts(n: int, parts: int) -> list[tuple[int, int]]:
    """Contiguous shares of n rows; their lengths differ by at most one, the longer ones come first."""
    edges = np.cumsum([0] + [n // parts + (part < n % parts) for part in range(parts)])
    return [(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def _read_rows(plan: FeedPlan, rows: NDArray[np.int64]) -> pa.Table:
    """The given rows (n, 3: shard, row group, row) in order; each row group is read once."""
    dataset = _dataset(plan.data, plan.data_sha256)
    groups, member = np.unique(rows[:, :2], axis=0, return_inverse=True)
    position = np.empty(len(rows), np.int64)
    pieces, filled = [], 0
    for number, (shard, group) in enumerate(groups.tolist()):
        members = np.flatnonzero(member == number)
        table = dataset.read(shard, row_group=group, modalities=tuple(plan.modalities))
        pieces.append(table.take(pa.array(rows[members, 2], pa.int64())))
        position[members] = np.arange(filled, filled + len(members))
        filled += len(members)
    return pa.concat_tables(pieces).combine_chunks().take(pa.array(position, pa.int64()))


def _to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return bytes(sink.getvalue())


@functools.lru_cache(maxsize=4)
def _dataset(uri: str, sha256: str) -> Dataset:
    dataset = Dataset.open(uri)
    if dataset.manifest.sha256 != sha256:
        raise DatasetError(
            f"the dataset {uri} changed since this run was planned (manifest {dataset.manifest.sha256[:12]}, planned "
            f"with {sha256[:12]}); train on the dataset as it was, or start a new run"
        )
    return dataset


@functools.lru_cache(maxsize=4)
def _selection(uri: str) -> Selection:
    return Selection.load(uri)


@functools.lru_cache(maxsize=8)
def _order_of(selection: str, seed: int, epoch: int, batch_size: int, window_rows: int) -> EpochOrder:
    return EpochOrder(_selection(selection), seed=seed, epoch=epoch, batch_size=batch_size, window_rows=window_rows)


def _order(plan: FeedPlan, epoch: int) -> EpochOrder:
    return _order_of(plan.selection, plan.seed, epoch, plan.batch_size, plan.window_rows)


def _modalities(plan: FeedPlan) -> dict[str, Modality[Any]]:
    return {name: make_modality(name, settings) for name, settings in plan.modalities.items()}
