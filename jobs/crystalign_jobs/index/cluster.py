"""Where the tasks on the segments of an index run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from crystalign.index.segment_writer import Run, run_here

FEW = 8
"""So many tasks take less time in this process than starting a local cluster."""


@contextmanager
def tasks(count: int, address: str | None) -> Iterator[Run]:
    """Yield what runs tasks: a Ray cluster, or this process if there are only a few.

    Args:
        count: number of tasks.
        address: Ray cluster; None means RAY_ADDRESS, or this machine.

    Raises:
        ConfigError: no cluster answers at `address`.
    """
    if count <= FEW:
        yield run_here
        return
    from crystalign_ray.session import session
    from crystalign_ray.tasks import map_rows

    with session(address):
        yield map_rows
