"""The feed of a training run through Ray Data: exactly once, in order, resumable, for any world size.

A few tasks read windows and cut them into portions, and many tasks turn portions into batches. Order is preserved
throughout, and every batch is its own block, so the split gives row `step × W + rank` to `rank`. Every rank asserts
this. With micro-batches, the stream contains one micro-batch per row, and each rank joins those of its step. So neither
a task nor a transfer holds more than one micro-batch. Ray cannot resume a stream, so each is built for a start step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
import ray.data

from crystalign.training.feed import (
    FeedPlan,
    MicroBatchRows,
    RankBatch,
    StepRange,
    featurise,
    join,
    ranges,
    read_window,
)
from crystalign_ray.internals import data_execution_callback
from crystalign_ray.resources import parallel_tasks

if TYPE_CHECKING:
    from ray.data import DataIterator, Dataset

READ_TASKS = 2
"""Windows read at the same time: the current one and the next. More would use more memory without being faster."""
READ_CPUS = 0.5
"""Logical CPUs of a reading task, which waits for storage most of the time."""
ROWS_PER_TASK = 1024
"""Samples that one task featurises. Small batches are grouped, because each task costs about ten milliseconds."""
PREFETCH = 4
"""Batches, or micro-batches, that are prefetched by each rank."""
SCHEDULER_PAUSE = 0.05
"""Seconds between two iterations of Ray's scheduler; a batch needs about three of them to reach its rank."""
_POSITION = {"step": pa.int64(), "rank": pa.int32(), "part": pa.int32()}
_PORTIONS = pa.list_(pa.struct(_POSITION | {"rows": pa.large_binary()}))
_BATCH_SCHEMA = pa.schema(_POSITION | {"parts": pa.int32(), "ids": pa.list_(pa.string()), "batch": pa.large_binary()})


def stream(plan: FeedPlan, *, start_step: int = 0, tasks: int | None = None) -> Dataset:
    """One row per (step, part, rank) in order, with these three, `parts`, `ids` and `batch` (`Batch.to_bytes()`).

    Memory is bounded by two windows of undecoded rows and Ray's buffers between the stages, each of which holds a few
    batches.

    Args:
        plan: the plan of the batches.
        start_step: the first step, counted over all epochs.
        tasks: how many tasks featurise at the same time; default: as many as the cluster has room for beside the ranks.
    """
    tasks = tasks or parallel_tasks(ray.cluster_resources(), reserved=plan.world_size)
    windows = [{"window": window.model_dump_json()} for window in ranges(plan, start_step)]
    dataset = ray.data.from_items(windows, override_num_blocks=len(windows))
    dataset.context.target_max_block_size = 1  # byte: each row is a block, which leaves its task at once
    dataset.context.execution_options.preserve_order = True
    dataset.context.custom_execution_callback_classes = [ThrottledScheduler]
    return dataset.map_batches(
        _read,
        fn_kwargs={"plan": plan},
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=READ_CPUS,
        compute=ray.data.TaskPoolStrategy(size=READ_TASKS),
    ).map_batches(
        _featurise,
        fn_kwargs={"plan": plan},
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
        compute=ray.data.TaskPoolStrategy(size=tasks),
    )


class ThrottledScheduler(data_execution_callback()):  # type: ignore[misc]
    """Limits Ray's scheduler to about twenty iterations per second.

    While batches wait for a rank, the scheduler's own wait returns at once, so it would loop continuously. That uses
    0.2 to 0.4 of a core, and 0.1 to 0.2 with this limit.
    """

    def on_execution_step(self, executor: Any) -> None:  # noqa: ARG002
        """Pause; the next iteration passes on everything that has become ready."""
        time.sleep(SCHEDULER_PAUSE)


def split(dataset: Dataset, world_size: int) -> list[DataIterator]:
    """One iterator per rank."""
    iterators: list[DataIterator] = dataset.streaming_split(world_size, equal=True)
    return iterators


class RankFeed:
    """The batches of one rank, step by step, and the time spent waiting for them."""

    def __init__(self, iterator: DataIterator, *, rank: int, start_step: int) -> None:
        self._iterator = iterator
        self._rank = rank
        self._next_step = start_step
        self._first: RankBatch | None = None
        self._rows: Iterator[pa.Table] | None = None
        self.waited = 0.0
        """Seconds spent waiting for batches, without the first one."""

    def start(self) -> None:
        """Wait for the first batch, so that the start-up of the stream does not count as training time."""
        assert self._rows is None, "a feed is used once"
        self._rows = iter(self._iterator.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=PREFETCH))
        self._first = self._take()
        self.waited = 0.0

    def __iter__(self) -> Iterator[RankBatch]:
        if self._rows is None:
            self.start()
        return iter(self._next, None)

    def _next(self) -> RankBatch | None:
        """The batch that `start` took, without keeping a reference to it, then those that follow."""
        first, self._first = self._first, None
        return self._take() if first is None else first

    def _take(self) -> RankBatch | None:
        """All micro-batches of the next step; None at the end of the stream."""
        from crystalign.batch import Batch

        parts: list[RankBatch] = []
        expected = 1
        while len(parts) < expected:
            row = self._row(len(parts))
            if row is None:
                assert not parts, f"the stream of rank {self._rank} ends within step {self._next_step}"
                return None
            expected = row["parts"]
            parts.append(RankBatch(row["step"], row["rank"], row["ids"], Batch.from_bytes(row["batch"])))
        self._next_step += 1
        return join(parts)

    def _row(self, part: int) -> dict[str, Any] | None:
        """The next row, which must be this part of the next step; None at the end of the stream."""
        assert self._rows is not None
        began = time.perf_counter()
        table = next(self._rows, None)
        self.waited += time.perf_counter() - began
        if table is None:
            return None
        row: dict[str, Any]
        (row,) = table.to_pylist()
        received, expected = (row["step"], row["rank"], row["part"]), (self._next_step, self._rank, part)
        assert received == expected, f"expected (step, rank, part) {expected} but received {received}"
        return row


def _read(table: pa.Table, plan: FeedPlan) -> Iterator[pa.Table]:
    """Read windows, and yield groups of portions, one group per row."""
    largest = max(stop - start for start, stop in plan.part_edges)
    size = max(1, ROWS_PER_TASK // largest)
    for text in table.column("window").to_pylist():
        group: list[dict[str, Any]] = []
        for portion in read_window(plan, StepRange.model_validate_json(text)):
            group.append(portion._asdict())
            if len(group) == size:
                yield pa.table({"portions": pa.array([group], _PORTIONS)})
                group = []
        if group:
            yield pa.table({"portions": pa.array([group], _PORTIONS)})


def _featurise(table: pa.Table, plan: FeedPlan) -> Iterator[pa.Table]:
    """Turn groups of portions into batches, one batch per row."""
    for group in table.column("portions").to_pylist():
        for portion in group:
            rank_batch = featurise(plan, MicroBatchRows(**portion))
            (batch,) = rank_batch.batch.parts
            position = {
                "step": rank_batch.step,
                "rank": rank_batch.rank,
                "part": portion["part"],
                "parts": len(plan.part_edges),
            }
            row = position | {"ids": rank_batch.ids, "batch": batch.to_bytes()}
            yield pa.Table.from_pylist([row], _BATCH_SCHEMA)
