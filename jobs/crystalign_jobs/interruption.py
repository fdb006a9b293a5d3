"""What ends or interrupts training between two steps, decided by all ranks together.

Three things may ask for it: the terminal (Ctrl-C, SIGTERM), a node that is about to be taken away
(`ray.train.get_preemption_info`), and a SIGTERM sent to one worker. Ranks hear of them at different
times, so before each step they take the largest of what each has heard: on a gloo group of their own,
whose messages never mix with those of the gradients.
"""

from __future__ import annotations

import enum
import os
import signal
import socket
import threading
import time
from datetime import timedelta
from typing import Any

from ray.train.torch import TorchConfig

from crystalign_jobs.mailbox import Position

BEAT_SECONDS = 1.0
POLL_SECONDS = 5.0
"""Between two questions to Ray whether a node is being drained; each is a barrier of all ranks."""
GRACE_SECONDS = 60.0
"""A worker that was sent SIGTERM leaves after this time, checkpoint or not."""

_terminated = threading.Event()


class Reason(enum.IntEnum):
    """Why training was interrupted; the larger one wins."""

    NONE = 0
    POLL = 1
    """Not an interruption: all ranks ask Ray about its nodes now."""
    DRAINED = 2
    """A node is about to be taken away: write a checkpoint and go on until it is."""
    STOP = 3
    """The user asked: write a checkpoint and end."""
    TERMINATED = 4
    """A worker was sent SIGTERM: write a checkpoint, then it leaves and the run restarts."""


class Interruption:
    """One rank's side of the agreement, and its sign of life."""

    def __init__(self, rank: int, world_size: int, mailbox: Any, timeout_s: float) -> None:
        """Join the group and begin to send signs of life; every rank does so at the same point.

        Args:
            rank: of this process.
            world_size: W.
            mailbox: of the run.
            timeout_s: how long a rank waits for the others.
        """
        self.rank, self.world_size, self.reason = rank, world_size, Reason.NONE
        self._mailbox = mailbox
        self._group = _own_group(timeout_s) if world_size > 1 else None
        self._host, self._place = socket.gethostname(), (0, "starts", time.monotonic())
        self._asked, self._closed = threading.Event(), threading.Event()
        self._polled, self._drained_before = time.monotonic(), False
        self._thread = threading.Thread(target=self._beat, daemon=True, name="beat")
        self._thread.start()

    def at(self, step: int, phase: str) -> None:
        """Note where this rank stands."""
        self._place = (step, phase, time.monotonic())

    def due(self) -> bool:
        """Whether training is interrupted here: the same answer on every rank; `reason` says why."""
        self.reason = self._agree(self._own())
        if self.reason == Reason.POLL:
            self.reason = Reason.DRAINED if self._drained() else Reason.NONE
        return self.reason != Reason.NONE

    @property
    def terminated(self) -> bool:
        """Whether it is this worker that was sent SIGTERM."""
        return _terminated.is_set()

    def close(self) -> None:
        """Send no more signs of life."""
        self._closed.set()
        self._thread.join(timeout=5)

    def _own(self) -> Reason:
        """What this rank has heard."""
        if _terminated.is_set():
            return Reason.TERMINATED
        if self._asked.is_set():
            return Reason.STOP
        if self.rank == 0 and time.monotonic() - self._polled > POLL_SECONDS:
            self._polled = time.monotonic()
            return Reason.POLL
        return Reason.NONE

    def _agree(self, mine: Reason) -> Reason:
        if self._group is None:
            return mine
        import torch
        import torch.distributed as dist

        word = torch.tensor([int(mine)])
        dist.all_reduce(word, dist.ReduceOp.MAX, group=self._group)
        return Reason(int(word[0]))

    def _drained(self) -> bool:
        """Whether a node of this run is newly being taken away; all ranks ask together."""
        import ray.train

        drained = ray.train.get_preemption_info() is not None
        new = drained and not self._drained_before
        self._drained_before = drained
        return new

    def _beat(self) -> None:
        import ray

        while not self._closed.wait(BEAT_SECONDS):
            step, phase, since = self._place
            position = Position(step, phase, time.monotonic() - since, self._host, os.getpid())
            try:
                if ray.get(self._mailbox.beat.remote(self.rank, position), timeout=30):
                    self._asked.set()
            except ray.exceptions.GetTimeoutError:
                continue  # a machine that is very busy
            except ray.exceptions.RayError:
                return  # the terminal is gone, and Ray ends this process with it


def _own_group(timeout_s: float) -> Any:
    import torch.distributed as dist

    return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))


class PoliteTorchConfig(TorchConfig):
    """Ray's set-up of torch; besides, a worker that is sent SIGTERM finishes its step."""

    @property
    def backend_cls(self) -> Any:
        """Ray's own, which also installs the signal's handler."""
        return _PoliteTorchBackend


class _PoliteTorchBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(_listen)  # in each worker's main thread, where alone Python handles signals


def _listen() -> None:
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(signum: int, _frame: Any) -> None:
    _terminated.set()
    leave = threading.Timer(GRACE_SECONDS, os._exit, (128 + signum,))
    leave.daemon = True
    leave.start()
