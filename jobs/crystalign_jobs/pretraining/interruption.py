"""Interruptions of training between two steps, on which all ranks agree.

There are three causes: a signal in the terminal (Ctrl-C, SIGTERM), a node that is about to be preempted
(`ray.train.get_preemption_info`), and a SIGTERM sent to one worker. Ranks learn of them at different times, so before
each step they agree on the largest reason that any rank knows. They use a separate gloo group, so that these messages
never mix with those of the gradients.
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

from crystalign_jobs.pretraining.mailbox import Position
from crystalign_ray.internals import torch_backend

BEAT_SECONDS = 1.0
POLL_SECONDS = 5.0
"""Seconds between two queries to Ray whether a node is being drained; each query is a barrier of all ranks."""
GRACE_SECONDS = 60.0
"""Seconds after a SIGTERM at which a worker exits, even without a checkpoint."""

_terminated = threading.Event()


class Reason(enum.IntEnum):
    """Why training is interrupted; ranks agree on the largest value."""

    NONE = 0
    POLL = 1
    """Not an interruption: all ranks query Ray for drained nodes."""
    DRAINED = 2
    """A node is about to be preempted: write a checkpoint, and train on until it is gone."""
    STOP = 3
    """The user stopped the run: write a checkpoint and end."""
    TERMINATED = 4
    """A worker received SIGTERM: write a checkpoint; then the worker exits and the run restarts."""


class Interruption:
    """Agreement on interruptions and the heartbeat, for one rank."""

    def __init__(self, rank: int, world_size: int, mailbox: Any, timeout_s: float) -> None:
        """Join the group and start the heartbeat; all ranks must call this at the same point.

        Args:
            rank: rank of this process.
            world_size: number of ranks W.
            mailbox: mailbox of the run.
            timeout_s: seconds that a rank waits for the others.
        """
        self.rank, self.world_size, self.reason = rank, world_size, Reason.NONE
        self._mailbox = mailbox
        self._group = _own_group(timeout_s) if world_size > 1 else None
        self._host, self._position = socket.gethostname(), (0, "starts", time.monotonic())
        self._asked, self._closed = threading.Event(), threading.Event()
        self._polled, self._drained_before = time.monotonic(), False
        self._thread = threading.Thread(target=self._beat, daemon=True, name="beat")
        self._thread.start()

    def at(self, step: int, phase: str) -> None:
        """Record the step and the phase of this rank."""
        self._position = (step, phase, time.monotonic())

    def due(self) -> bool:
        """Whether training is interrupted before this step; the same on every rank. `reason` says why."""
        self.reason = self._agree(self._known_reason())
        if self.reason == Reason.POLL:
            self.reason = Reason.DRAINED if self._drained() else Reason.NONE
        return self.reason != Reason.NONE

    @property
    def terminated(self) -> bool:
        """Whether this worker received SIGTERM."""
        return _terminated.is_set()

    def close(self) -> None:
        """Stop the heartbeat."""
        self._closed.set()
        self._thread.join(timeout=5)

    def _known_reason(self) -> Reason:
        """The reason that this rank knows."""
        if _terminated.is_set():
            return Reason.TERMINATED
        if self._asked.is_set():
            return Reason.STOP
        if self.rank == 0 and time.monotonic() - self._polled > POLL_SECONDS:
            self._polled = time.monotonic()
            return Reason.POLL
        return Reason.NONE

    def _agree(self, reason: Reason) -> Reason:
        if self._group is None:
            return reason
        import torch
        import torch.distributed as dist

        value = torch.tensor([int(reason)])
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self._group)
        return Reason(int(value[0]))

    def _drained(self) -> bool:
        """Whether a node of this run has newly started to drain; all ranks must call this together."""
        import ray.train

        drained = ray.train.get_preemption_info() is not None
        new = drained and not self._drained_before
        self._drained_before = drained
        return new

    def _beat(self) -> None:
        import ray

        while not self._closed.wait(BEAT_SECONDS):
            step, phase, since = self._position
            position = Position(step, phase, time.monotonic() - since, self._host, os.getpid())
            try:
                if ray.get(self._mailbox.beat.remote(self.rank, position), timeout=30):
                    self._asked.set()
            except ray.exceptions.GetTimeoutError:
                continue  # the machine is very busy
            except ray.exceptions.RayError:
                return  # the driver is gone, and Ray ends this process, too


def _own_group(timeout_s: float) -> Any:
    import torch.distributed as dist

    return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))


class GracefulTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray's set-up of torch, with workers that finish their step after SIGTERM."""

    @property
    def backend_cls(self) -> Any:
        """Ray's own backend, extended to install the signal handler."""
        return _GracefulTorchBackend


class _GracefulTorchBackend(torch_backend()):  # type: ignore[misc]
    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(_listen)  # in the main thread of each worker, as Python requires for signal handlers


def _listen() -> None:
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(signum: int, _frame: Any) -> None:
    _terminated.set()
    leave = threading.Timer(GRACE_SECONDS, os._exit, (128 + signum,))
    leave.daemon = True
    leave.start()
