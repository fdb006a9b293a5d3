"""The feed of a training run through Ray Data: exactly once, in order, resumable, for any world size.

A few tasks read windows and cut them into portions; many tasks turn portions into batches; order
is preserved from end to end and every batch is a block of its own, so that the split hands row
`step × W + rank` to `rank`. Every rank asserts that this is so. With micro-batches the ranks
take turns part by part, and each puts the parts of its step together: what a task makes, and what
travels, is never larger than one. Resuming is not asked of Ray, which cannot do it: a stream is built
for a start step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback

from crystalign.resources import parallel_tasks
from crystalign.training.feed import Fed, FeedPlan, Portion, StepRange, featurise, join, ranges, read_window

if TYPE_CHECKING:
    from ray.data import DataIterator, Dataset

READ_TASKS = 2
"""Windows read at the same time: the one in use and the next. More would hold more memory and feed no faster."""
READ_CPUS = 0.5
"""Logical CPUs of a task that reads: it waits for storage most of the time."""
ROWS_PER_TASK = 1024
"""Samples that one task featurises: small batches travel in groups, for a task costs some ten milliseconds."""
PREFETCH = 4
"""Batches, or micro-batches, that wait at each rank."""
SCHEDULER_PAUSE = 0.05
"""Seconds between two turns of Ray's scheduler; a batch needs about three of them to reach its rank."""
_PLACE = {"step": pa.int64(), "rank": pa.int32(), "part": pa.int32()}
_PORTIONS = pa.list_(pa.struct(_PLACE | {"rows": pa.large_binary()}))
_FED = pa.schema(_PLACE | {"parts": pa.int32(), "ids": pa.list_(pa.string()), "batch": pa.large_binary()})


def stream(plan: FeedPlan, *, start_step: int = 0, tasks: int | None = None) -> Dataset:
    """One row per (step, part, rank) in order: its place, `parts`, `ids` and `batch` (`Batch.to_bytes()`).

    Memory is bounded by two windows of undecoded rows and Ray's buffers between the stages, each of
    which holds a few batches.

    Args:
        plan: what the batches are.
        start_step: the first step, counted over all epochs.
        tasks: how many tasks featurise at the same time; by default what the cluster has beside the ranks.
    """
    tasks = tasks or parallel_tasks(ray.cluster_resources(), reserved=plan.world_size)
    windows = [{"window": window.model_dump_json()} for window in ranges(plan, start_step)]
    dataset = ray.data.from_items(windows, override_num_blocks=len(windows))
    dataset.context.target_max_block_size = 1  # byte: a row is a block, and leaves its task as soon as it is made
    dataset.context.execution_options.preserve_order = True
    dataset.context.custom_execution_callback_classes = [Unhurried]
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


class Unhurried(ExecutionCallback):
    """Lets Ray's scheduler look after the stream some twenty times a second.

    Where batches wait for a rank to take them, the scheduler's own wait returns at once, and it would
    turn as fast as it can: 0.2 to 0.4 of a core that training could have, and 0.1 to 0.2 of it like this.
    """

    def on_execution_step(self, executor: Any) -> None:  # noqa: ARG002
        """Wait; whatever has become ready meanwhile is passed on together."""
        time.sleep(SCHEDULER_PAUSE)


def split(dataset: Dataset, world_size: int) -> list[DataIterator]:
    """One iterator per rank."""
    iterators: list[DataIterator] = dataset.streaming_split(world_size, equal=True)
    return iterators


class RankFeed:
    """What one rank takes from its iterator, step after step, and how long it waited for it."""

    def __init__(self, iterator: DataIterator, *, rank: int, start_step: int) -> None:
        self._iterator = iterator
        self._rank = rank
        self._next_step = start_step
        self._first: Fed | None = None
        self._rows: Iterator[pa.Table] | None = None
        self.waited = 0.0
        """Seconds spent waiting for batches since the first."""

    def start(self) -> None:
        """Wait for the first batch, so that the start of the stream is nobody's training time."""
        assert self._rows is None, "a feed is used once"
        self._rows = iter(self._iterator.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=PREFETCH))
        self._first = self._take()
        self.waited = 0.0

    def __iter__(self) -> Iterator[Fed]:
        if self._rows is None:
            self.start()
        return iter(self._next, None)

    def _next(self) -> Fed | None:
        """The batch that `start` took, and is let go, then those that follow."""
        first, self._first = self._first, None
        return self._take() if first is None else first

    def _take(self) -> Fed | None:
        """All micro-batches of the next step, if there is one."""
        from crystalign.training.batch import Batch

        parts: list[Fed] = []
        expected = 1
        while len(parts) < expected:
            row = self._row(len(parts))
            if row is None:
                assert not parts, f"the stream of rank {self._rank} ends within step {self._next_step}"
                return None
            expected = row["parts"]
            parts.append(Fed(row["step"], row["rank"], row["ids"], Batch.from_bytes(row["batch"])))
        self._next_step += 1
        return join(parts)

    def _row(self, part: int) -> dict[str, Any] | None:
        """The next row, if there is one; it must be this part of the next step."""
        assert self._rows is not None
        began = time.perf_counter()
        table = next(self._rows, None)
        self.waited += time.perf_counter() - began
        if table is None:
            return None
        row: dict[str, Any]
        (row,) = table.to_pylist()
        found, expected = (row["step"], row["rank"], row["part"]), (self._next_step, self._rank, part)
        assert found == expected, f"expected (step, rank, part) {expected} but was given {found}"
        return row


def _read(table: pa.Table, plan: FeedPlan) -> Iterator[pa.Table]:
    """Windows in, groups of portions out, one group per row."""
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
    """Groups of portions in, one batch per row out."""
    for group in table.column("portions").to_pylist():
        for portion in group:
            fed = featurise(plan, Portion(**portion))
            (batch,) = fed.batch.parts
            place = {"step": fed.step, "rank": fed.rank, "part": portion["part"], "parts": len(plan.part_edges)}
            row = place | {"ids": fed.ids, "batch": batch.to_bytes()}
            yield pa.Table.from_pylist([row], _FED)
