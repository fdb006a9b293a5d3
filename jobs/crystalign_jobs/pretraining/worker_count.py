"""The number of workers of a pre-training run: up to `num_workers`, as far as the cluster has room.

Ray's own elasticity gives all CPUs to the training workers, leaves none for the tasks that feed them, and loses the
steps since the last checkpoint when the number grows. Here CPUs are reserved for the feed, and a run writes a
checkpoint before it grows.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from crystalign.errors import ConfigError
from crystalign_jobs.pretraining.config import Pretrain

FREE_CPUS = 1.5
"""Logical CPUs reserved beside the workers, for one task that reads and one that featurises."""
LOOK_SECONDS = 10.0
"""Seconds between two checks of the cluster."""
LOSS_SECONDS = 20.0
"""Seconds within which the cluster notices the loss of a node."""


def fitting_workers(config: Pretrain, most: int | None = None) -> int:
    """The largest number of workers, at most `num_workers`, that fits on the nodes of the cluster.

    Args:
        config: has `num_workers` and `min_workers`.
        most: upper limit below `num_workers`, if more workers are known not to fit.

    Raises:
        ConfigError: there is not even room for `min_workers`; the message lists every item of the sum.
    """
    import ray

    from crystalign_ray.resources import ResourceRequest, check_fits

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    slots = sum(int(min(node.get("CPU", 0.0), node.get("GPU", 0.0) if config.use_gpu else cpus)) for node in nodes)
    count = min(most or config.num_workers, config.num_workers, slots, int(cpus - FREE_CPUS))
    least = least_workers(config)
    if count >= least:
        return count
    demand = ResourceRequest(name="training workers", count=least, gpus=1.0 if config.use_gpu else 0.0)
    check_fits([demand], ray.cluster_resources(), free_cpus=FREE_CPUS)
    raise ConfigError(
        f"the nodes have no room for {least} workers, which need a CPU and a GPU on the same node; lower num_workers"
    )


def least_workers(config: Pretrain) -> int:
    """The fewest workers with which the run continues."""
    return config.num_workers if config.min_workers is None else config.min_workers


def is_elastic(config: Pretrain) -> bool:
    """Whether the number of workers may change during the run."""
    return least_workers(config) < config.num_workers


@contextmanager
def nodes_for(config: Pretrain) -> Iterator[None]:
    """Request the nodes of a run from a cluster that starts nodes on demand, and wait; release them at the end.

    Raises:
        ConfigError: there were not enough within `wait_for_nodes` minutes.
    """
    from ray.autoscaler.sdk import request_resources

    if not config.wait_for_nodes:
        fitting_workers(config)
        yield
        return
    worker = {"CPU": 1} | ({"GPU": 1} if config.use_gpu else {})
    bundles = [worker] * config.num_workers + [{"CPU": 1}] * math.ceil(FREE_CPUS)

    def ask() -> None:  # repeatedly, because the latest request of any driver replaces the others
        request_resources(bundles=bundles)

    try:
        wait_for_workers(config, config.num_workers, (), minutes=config.wait_for_nodes, ask=ask)
        yield
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone; this must not hide the error that ended the run
            request_resources(bundles=[])


def wait_for_workers(
    config: Pretrain,
    most: int,
    asked: Sequence[int],
    *,
    minutes: float | None = None,
    ask: Callable[[], None] | None = None,
) -> int:
    """Wait until there is room for enough workers, and return `fitting_workers`; 0 if a signal arrived meanwhile.

    Args:
        config: settings of the run.
        most: as for `fitting_workers`.
        asked: the signals that arrived, as `asked_to_stop` collects them.
        minutes: how long to wait; default: `timeout_minutes`.
        ask: called repeatedly while waiting.

    Raises:
        ConfigError: there were not enough in that time.
    """
    minutes = config.timeout_minutes if minutes is None else minutes
    deadline, announced = time.monotonic() + 60.0 * minutes, False
    while not asked:
        try:
            return fitting_workers(config, most)
        except ConfigError as error:
            if time.monotonic() > deadline:
                raise
            if not announced:
                print(f"waiting up to {minutes:g} minutes for nodes: {error}", flush=True)
            announced = True
            if ask is not None:
                ask()
            time.sleep(0.5)
    return 0


def alive_nodes() -> frozenset[str]:
    """Ids of the live nodes of the cluster."""
    import ray

    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def lost_a_node(before: frozenset[str]) -> bool:
    """Whether one of these nodes is gone; waits, because a cluster notices a loss with a delay."""
    deadline = time.monotonic() + LOSS_SECONDS
    while before <= alive_nodes():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


class ScaleUpMonitor:
    """Checks from time to time whether the cluster has room for more workers."""

    def __init__(self, config: Pretrain, workers: int, most: int) -> None:
        self._config, self._workers, self._most = config, workers, most
        self._looked = time.monotonic()

    def due(self) -> bool:
        """Whether there is room for more workers; prints a line if so. Cheap enough to call often."""
        if self._workers >= self._most or time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        more = self._possible()
        if more > self._workers:
            print(f"continuing with {more} workers instead of {self._workers}, after a checkpoint", flush=True)
        return more > self._workers

    def _possible(self) -> int:
        """How many workers fit beside the other jobs; the CPUs of the run's own feed count as free."""
        import ray

        free = ray.available_resources()
        more = int(free.get("CPU", 0.0) + FREE_CPUS)
        if self._config.use_gpu:
            more = min(more, int(free.get("GPU", 0.0)))
        try:
            return min(fitting_workers(self._config, self._most), self._workers + more)
        except ConfigError:
            return 0
