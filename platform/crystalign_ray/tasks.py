"""`map_rows`: run work items as Ray tasks; results return as JSON in the order in which the tasks finish."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data
from ray.exceptions import RayTaskError

from crystalign_ray.errors import unwrap_error
from crystalign_ray.session import node_count


def map_rows(rows: Sequence[dict[str, Any]], work: Callable[[dict[str, Any]], dict[str, str]]) -> Iterator[Any]:
    """Apply `work` to every row, in one task per row.

    On one machine there are as many processes as cores, because a local cluster has more logical CPUs than cores.

    Args:
        rows: the input of each task.
        work: returns `{"result": JSON}`; a callable instance is pickled and sent to the tasks.

    Yields:
        The decoded results, in the order in which the tasks finish.

    Raises:
        Error: a task failed with this error of Crystalign.
    """
    if not rows:
        return
    one_node = node_count() == 1
    strategy = ray.data.TaskPoolStrategy(size=min(len(rows), os.cpu_count() or 1) if one_node else None)
    try:
        # one row per block is one row per task
        dataset = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(work, compute=strategy)
        for row in dataset.iter_rows():
            yield json.loads(row["result"])
    except RayTaskError as error:
        original = unwrap_error(error)
        if original is None:
            raise
        raise original from None
