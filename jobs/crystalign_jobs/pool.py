"""`map_rows`: work items through Ray tasks, JSON back, in the order in which they finish."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data
from ray.exceptions import RayTaskError

from crystalign_jobs.ray_errors import ours
from crystalign_jobs.session import alive_nodes


def map_rows(rows: Sequence[dict[str, Any]], work: Callable[[dict[str, Any]], dict[str, str]]) -> Iterator[Any]:
    """Apply `work` to every row, one task each.

    On one machine there are as many processes as cores: logical CPUs are slots for processes that wait, and
    these compute.

    Args:
        rows: what each task gets.
        work: returns `{"result": JSON}`; a callable instance is sent to the tasks as it is.

    Yields:
        The decoded results, in the order in which the tasks finish.

    Raises:
        Error: whatever error of ours a task raised.
    """
    if not rows:
        return
    alone = alive_nodes() == 1
    strategy = ray.data.TaskPoolStrategy(size=min(len(rows), os.cpu_count() or 1) if alone else None)
    try:
        # one row per block is one row per task
        dataset = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(work, compute=strategy)
        for row in dataset.iter_rows():
            yield json.loads(row["result"])
    except RayTaskError as error:
        mine = ours(error)
        if mine is None:
            raise
        raise mine from None
