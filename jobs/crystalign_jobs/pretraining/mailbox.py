"""`Mailbox`: the actor through which the workers and the driver of a run exchange messages.

Rank 0 puts metrics in, and the driver takes them out. Each rank reports its position, which shows which rank the others
wait for. The driver asks for a stop. Workers leave errors here that must end the run without a restart.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple


class Position(NamedTuple):
    """Step and phase of a rank."""

    step: int
    """Its current step."""
    phase: str
    """Its phase in the step: `waits for data` or `computes`."""
    since: float
    """Seconds that it has been in this phase."""
    host: str
    """Host name of its machine."""
    pid: int
    """Its process id."""


class Mailbox:
    """The class of the actor, which stores the messages of one run."""

    def __init__(self, timeout_s: float) -> None:
        """Create an empty mailbox.

        Args:
            timeout_s: seconds that ranks wait for each other.
        """
        self._patience = 0.9 * timeout_s
        self._behind: list[str] = []
        self._records: list[dict[str, float]] = []
        self._positions: dict[int, tuple[float, Position]] = {}
        self._stop = self._began = False
        self._failure: Exception | None = None
        self._stopped_at: int | None = None

    def put(self, record: dict[str, float]) -> None:
        """Called by rank 0: add metrics, or `{"start": step}`."""
        self._records.append(record)

    def take(self) -> list[dict[str, float]]:
        """Called by the driver: return and remove the records since the last call."""
        taken, self._records = self._records, []
        return taken

    def beat(self, rank: int, position: Position) -> bool:
        """Called by each rank every second: record its position, and return whether the run should stop."""
        now = time.monotonic()
        self._positions[rank] = (now, position)
        if position.since > self._patience:  # the ranks time out soon, and then report no positions
            self._behind = laggards(self._positions, now)
        return self._stop

    def begin(self) -> Exception | None:
        """Called by rank 0 of new workers: forget the old positions; return the error that ended the run, if any."""
        self._positions.clear()
        self._behind, self._began = [], True
        return self._failure

    def behind(self) -> list[str]:
        """Descriptions of the ranks that the others waited for until they timed out; empty if none did."""
        return self._behind

    def ask_stop(self) -> None:
        """Called by the driver: ask the workers to write a checkpoint after this step, and to end."""
        self._stop = True

    def resume(self) -> bool:
        """Called by the driver before new workers start: clear the stop; return whether the old workers had begun."""
        began, self._began = self._began, False
        self._stopped_at, self._stop = None, False
        return began

    def fail(self, error: Exception) -> None:
        """Called by a rank: record an error that would recur after a restart."""
        self._failure = self._failure or error

    def stop_at(self, step: int) -> None:
        """Called by rank 0: record that the run stopped as asked; the checkpoint of this step is stored."""
        self._stopped_at = step

    def outcome(self) -> tuple[Exception | None, int | None]:
        """Why the run ended early: an error, or the step at which it stopped as asked."""
        return self._failure, self._stopped_at


SILENT = 5.0
"""Seconds without a heartbeat after which a rank counts as silent."""


def laggards(heard: dict[int, tuple[float, Position]], now: float) -> list[str]:
    """Describe the silent ranks, or else the ranks furthest behind, if not all are at the same position.

    Args:
        heard: rank → time of its last heartbeat, and its position.
        now: current time by the same clock.
    """
    newest = max((heard_at for heard_at, _ in heard.values()), default=now)
    silent = {rank for rank, (heard_at, _) in heard.items() if newest - heard_at > SILENT}
    progress = {rank: (position.step, position.phase == "computes") for rank, (_, position) in heard.items()}
    first = min(progress.values(), default=None)
    late = (
        {rank for rank, rank_progress in progress.items() if rank_progress == first}
        if len(set(progress.values())) > 1
        else set()
    )
    descriptions = []
    for rank in sorted(silent or late):
        heard_at, position = heard[rank]
        name = f"rank {rank} (process {position.pid} on {position.host}), which"
        if rank in silent:
            descriptions.append(f"{name} has sent no heartbeat for {now - heard_at:.0f} s, since step {position.step}")
        else:
            descriptions.append(
                f"{name} {position.phase} at step {position.step} for {position.since + now - heard_at:.0f} s"
            )
    return descriptions


def open_mailbox(timeout_s: float) -> Any:
    """Start the actor, which needs no CPU, on the node of the driver, because other nodes may be lost."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote(timeout_s)
