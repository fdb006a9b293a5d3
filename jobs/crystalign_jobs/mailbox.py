"""`Mailbox`: the actor between the workers of a run and the terminal that started it.

Rank 0 puts metrics in and the terminal takes them out; each rank says where it stands, which names
the one that others wait for; the terminal asks for a stop; and what must end the run, restarts
included, is left here.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple


class Position(NamedTuple):
    """Where a rank stands."""

    step: int
    """The step it is in."""
    phase: str
    """What it does there: `waits for data` or `computes`."""
    since: float
    """Seconds for which it has done so."""
    host: str
    """The machine it runs on."""
    pid: int
    """Its process."""


class Mailbox:
    """The actor's class; it holds the messages of one run and does nothing by itself."""

    def __init__(self, timeout_s: float) -> None:
        """Empty.

        Args:
            timeout_s: how long ranks wait for each other.
        """
        self._patience = 0.9 * timeout_s
        self._behind: list[str] = []
        self._records: list[dict[str, float]] = []
        self._positions: dict[int, tuple[float, Position]] = {}
        self._stop = self._began = False
        self._failure: Exception | None = None
        self._stopped_at: int | None = None

    def put(self, record: dict[str, float]) -> None:
        """From rank 0: metrics, or `{"start": step}`."""
        self._records.append(record)

    def take(self) -> list[dict[str, float]]:
        """What came since the last call."""
        taken, self._records = self._records, []
        return taken

    def beat(self, rank: int, position: Position) -> bool:
        """From each rank, every second: where it stands. The answer is whether the run is asked to stop."""
        now = time.monotonic()
        self._positions[rank] = (now, position)
        if position.since > self._patience:  # soon they will give up, and nobody will stand anywhere
            self._behind = laggards(self._positions, now)
        return self._stop

    def begin(self) -> Exception | None:
        """From rank 0 of new workers: what the ones before were doing is past. The answer is what ended the run."""
        self._positions.clear()
        self._behind, self._began = [], True
        return self._failure

    def behind(self) -> list[str]:
        """The ranks that the others waited for until they gave up, in words; empty where nobody waited so long."""
        return self._behind

    def ask_stop(self) -> None:
        """From the terminal: write a checkpoint after this step, and end."""
        self._stop = True

    def resume(self) -> bool:
        """From the terminal, before other workers start: a stop is past. The answer is whether the last ones began."""
        began, self._began = self._began, False
        self._stopped_at, self._stop = None, False
        return began

    def fail(self, error: Exception) -> None:
        """From a rank: what happened would happen again after a restart."""
        self._failure = self._failure or error

    def stop_at(self, step: int) -> None:
        """From rank 0: the run stopped as it was asked to; its checkpoint of this step is stored."""
        self._stopped_at = step

    def outcome(self) -> tuple[Exception | None, int | None]:
        """What ended the run before its end: an error, or the step at which it stopped as asked."""
        return self._failure, self._stopped_at


SILENT = 5.0
"""Seconds without a sign after which a rank is one that has gone silent."""


def laggards(heard: dict[int, tuple[float, Position]], now: float) -> list[str]:
    """Describe the ranks that have gone silent, or else those at the earliest place, if others are further.

    Args:
        heard: rank → when it was last heard of, and where it stood.
        now: by the same clock.
    """
    newest = max((when for when, _ in heard.values()), default=now)
    silent = {rank for rank, (when, _) in heard.items() if newest - when > SILENT}
    places = {rank: (position.step, position.phase == "computes") for rank, (_, position) in heard.items()}
    first = min(places.values(), default=None)
    late = {rank for rank, place in places.items() if place == first} if len(set(places.values())) > 1 else set()
    found = []
    for rank in sorted(silent or late):
        when, position = heard[rank]
        place = f"rank {rank} (process {position.pid} on {position.host}), which"
        if rank in silent:
            found.append(f"{place} has not been heard of for {now - when:.0f} s, since step {position.step}")
        else:
            found.append(f"{place} {position.phase} at step {position.step} for {position.since + now - when:.0f} s")
    return found


def open_mailbox(timeout_s: float) -> Any:
    """Start the actor, which needs no CPU, on the node of the terminal: other nodes may be lost."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote(timeout_s)
