"""How many workers a pre-training run has: as many as are wanted and fit, again whenever the cluster changes.

Ray's own elasticity gives training every CPU there is, the feed's included, and drops the steps since
the last checkpoint when it grows. Here a run that can grow stops with a checkpoint first, and what
remains for the tasks that feed it is part of the sum.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crystalign.errors import ConfigError

if TYPE_CHECKING:
    from crystalign_jobs.pretrain import Pretrain

FREE_CPUS = 1.5
"""Logical CPUs beside the workers: of one task that reads and one that featurises."""
LOOK_SECONDS = 10.0
"""Between two looks at the cluster."""
LOSS_SECONDS = 20.0
"""Within this time the cluster knows of a node that was lost."""


def fitting_workers(config: Pretrain, most: int | None = None) -> int:
    """The largest number of workers, at most `num_workers`, that the nodes of the cluster have room for.

    Args:
        config: says how many are wanted, and how few will do.
        most: a smaller number than `num_workers`, where it is known that more cannot be had.

    Raises:
        ConfigError: there is not even room for `min_workers`; the message holds the sum.
    """
    import ray

    from crystalign.resources import Demand, check_fits

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    places = sum(int(min(node.get("CPU", 0.0), node.get("GPU", 0.0) if config.use_gpu else cpus)) for node in nodes)
    count = min(most or config.num_workers, config.num_workers, places, int(cpus - FREE_CPUS))
    least = least_workers(config)
    if count >= least:
        return count
    demand = Demand(name="training workers", count=least, gpus=1.0 if config.use_gpu else 0.0)
    check_fits([demand], ray.cluster_resources(), free_cpus=FREE_CPUS)
    raise ConfigError(f"no node has the CPU and the GPU that a worker needs for {least} of them; lower num_workers")


def least_workers(config: Pretrain) -> int:
    """With how many the run goes on, if it must."""
    return config.num_workers if config.min_workers is None else config.min_workers


def is_elastic(config: Pretrain) -> bool:
    """Whether the number of workers may change."""
    return least_workers(config) < config.num_workers


@contextmanager
def nodes_for(config: Pretrain) -> Iterator[None]:
    """Ask a cluster that starts nodes on demand for those of a run, and wait for enough; they may go at the end.

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

    def ask() -> None:  # again and again: the last request of all drivers of a cluster counts
        request_resources(bundles=bundles)

    try:
        wait_for_workers(config, config.num_workers, (), minutes=config.wait_for_nodes, ask=ask)
        yield
    finally:
        with contextlib.suppress(Exception):  # a cluster that is gone; what ended the run is told, not this
            request_resources(bundles=[])


def wait_for_workers(
    config: Pretrain,
    most: int,
    asked: Sequence[int],
    *,
    minutes: float | None = None,
    ask: Callable[[], None] | None = None,
) -> int:
    """`fitting_workers`, once there are enough; 0 where the user asked for a stop meanwhile.

    Args:
        config: of the run.
        most: as of `fitting_workers`.
        asked: gets what asks for a stop.
        minutes: how long to wait; by default `timeout_minutes`.
        ask: called now and then while it waits.

    Raises:
        ConfigError: there were not enough in that time.
    """
    minutes = config.timeout_minutes if minutes is None else minutes
    until, told = time.monotonic() + 60.0 * minutes, False
    while not asked:
        try:
            return fitting_workers(config, most)
        except ConfigError as error:
            if time.monotonic() > until:
                raise
            if not told:
                print(f"waiting for nodes, {minutes:g} minutes at most: {error}", flush=True)
            told = True
            if ask is not None:
                ask()
            time.sleep(0.5)
    return 0


def alive_nodes() -> frozenset[str]:
    """The nodes of the cluster."""
    import ray

    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def lost_a_node(before: frozenset[str]) -> bool:
    """Whether one of these nodes is gone; a cluster needs a while to notice."""
    until = time.monotonic() + LOSS_SECONDS
    while before <= alive_nodes():
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


class Growth:
    """Looks now and then whether a run could have more workers than it has."""

    def __init__(self, config: Pretrain, workers: int, most: int) -> None:
        self._config, self._workers, self._most = config, workers, most
        self._looked = time.monotonic()

    def due(self) -> bool:
        """Whether it could, said on the terminal; cheap enough to be asked at any time."""
        if self._workers >= self._most or time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        more = self._possible()
        if more > self._workers:
            print(f"going on with {more} workers instead of {self._workers}, after a checkpoint", flush=True)
        return more > self._workers

    def _possible(self) -> int:
        """How many workers fit beside what others use; the feed of the run itself makes room when it stops."""
        import ray

        free = ray.available_resources()
        more = int(free.get("CPU", 0.0) + FREE_CPUS)
        if self._config.use_gpu:
            more = min(more, int(free.get("GPU", 0.0)))
        try:
            return min(fitting_workers(self._config, self._most), self._workers + more)
        except ConfigError:
            return 0
