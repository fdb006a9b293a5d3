"""Run work items on a cluster: as tasks (`map_rows`), or in processes that load a model once (`map_actors`)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data
from ray.exceptions import RayTaskError

from crystalign_ray.errors import unwrap_error
from crystalign_ray.resources import ResourceRequest, check_fits, parallel_tasks
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


def map_actors(
    rows: Sequence[dict[str, Any]], actor: type, arguments: dict[str, Any], *, name: str, count: int, use_gpu: bool
) -> Iterator[dict[str, Any]]:
    """Apply an actor to every row, one row at a time. Each actor is a process that is constructed once.

    Args:
        rows: the input of each call.
        actor: a class whose instances take and return a batch of columns as NumPy arrays.
        arguments: keyword arguments of its constructor.
        name: what the processes are, for messages.
        count: number of processes, at most one per row; 0 means as many as the cluster can run.
        use_gpu: one GPU per process.

    Yields:
        The results, in the order in which they are ready.

    Raises:
        ConfigError: the processes do not fit into the cluster.
    """
    has, gpus = ray.cluster_resources(), 1.0 if use_gpu else 0.0
    usual = int(has.get("GPU", 0)) if use_gpu else parallel_tasks(has, reserved=0)
    size = max(1, min(count or usual, len(rows)))
    check_fits([ResourceRequest(name=name, count=size, gpus=gpus)], has, free_cpus=0)
    results = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map_batches(
        actor,
        fn_constructor_kwargs=arguments,
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=size),
        num_cpus=1,
        num_gpus=gpus,
    )
    yield from results.iter_rows()
