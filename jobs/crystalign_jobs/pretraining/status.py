"""`RunStatus`, the status file of a run, and `RunSummary`, the state of a run read from its folder."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Literal

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import StorageError, VerificationError
from crystalign.training.checkpoint import MANIFEST, checkpoints, read_manifest

CONFIG, STATUS, MODEL = "config.yaml", "status.json", "model"
"""Names in a run's folder."""
WRITE_SECONDS = 30.0
"""Seconds between two writes of the status file."""
SILENT = timedelta(seconds=4 * WRITE_SECONDS)
"""A run that has not written for this long is not running, whatever its status says."""

State = Literal["new", "running", "finished", "stopped", "failed", "lost"]


class RunStatus(Config):
    """The content of `status.json`; the driver writes it every `WRITE_SECONDS`, and when the run ends."""

    state: Literal["running", "finished", "stopped", "failed"]
    """Last state that the driver wrote; it stays `running` if the driver was killed."""
    step: int = 0
    """Optimiser steps done."""
    total: int = 0
    """Estimated steps of the whole run; 0 before the first step."""
    metrics: dict[str, float] = {}
    """The latest metrics."""
    message: str = ""
    """Why it failed."""


class RunSummary(Config):
    """The state of one run, read from its folder."""

    uri: str
    """URI of the run."""
    state: State
    """`finished`: the final model exists. `running`: it wrote recently. `stopped`, `failed`: according to its status.
    `lost`: it was running, but has not written for minutes. `new`: it has only written its settings."""
    step: int | None = None
    """Steps done, from the status or the newest checkpoint."""
    checkpoint: int | None = None
    """Step of the newest checkpoint, from which the run would resume."""
    total: int | None = None
    """Steps of the whole run."""
    loss: float | None = None
    """Last known loss."""
    retrieval: float | None = None
    """R@1 on the held-out rows, averaged over pairs."""
    written: datetime | None = None
    """When it last wrote, by the clock of the storage."""
    message: str = ""
    """Why it failed."""

    @property
    def resume_command(self) -> str | None:
        """The command that resumes the run; None if it is finished or running."""
        return None if self.state in {"finished", "running"} else f"crystalign pretrain --resume {self.uri}"


def write_status(run: str, status: RunStatus) -> None:
    """Replace the status of a run."""
    storage.write_bytes(storage.join(run, STATUS), status.model_dump_json(indent=2).encode())


def summarise(run: str, now: datetime | None = None) -> RunSummary:
    """Read the state of a run from its folder.

    Args:
        run: URI of the folder.
        now: current time; default: the clock of this machine.
    """
    now = now or datetime.now(UTC)
    status = _read_status(run)
    newest = next(iter(checkpoints(run)), None)
    metrics: dict[str, float] = {}
    if newest is not None:
        with contextlib.suppress(VerificationError):  # broken: a resumed run reports it and uses the previous one
            metrics = dict(read_manifest(newest[1]).metrics)
    paths = [storage.join(run, STATUS), storage.join(run, CONFIG), storage.join(run, "metrics.csv")]
    paths += [] if newest is None else [storage.join(newest[1], MANIFEST)]
    written = max((time for path in paths if (time := storage.modified(path))), default=None)
    step = None if newest is None else newest[0]
    if status is not None and status.step >= (step or 0):
        step, metrics = status.step, metrics | status.metrics
    total = status.total if status is not None and status.total else _total(step, metrics)
    return RunSummary(
        uri=run,
        state=_state(run, status, recent=written is not None and now - written < SILENT, started=newest is not None),
        step=step,
        checkpoint=None if newest is None else newest[0],
        total=total,
        loss=metrics.get("loss"),
        retrieval=metrics.get("retrieval"),
        written=written,
        message="" if status is None else status.message,
    )


def _state(run: str, status: RunStatus | None, *, recent: bool, started: bool) -> State:
    if storage.exists(storage.join(run, MODEL, "config.json")):
        return "finished"
    if status is None:  # before the first step, or by a version without status files
        return "running" if recent else "lost" if started else "new"
    if status.state == "running":
        return "running" if recent else "lost"
    return "lost" if status.state == "finished" else status.state  # the final model was deleted


def _total(step: int | None, metrics: dict[str, float]) -> int | None:
    progress = metrics.get("progress", 0.0)
    return round(step / progress) if step and progress > 0 else None


def _read_status(run: str) -> RunStatus | None:
    path = storage.join(run, STATUS)
    if not storage.exists(path):
        return None
    try:
        return RunStatus.model_validate_json(storage.read_bytes(path))
    except ValueError as error:
        raise StorageError(f"{path} is not a valid status file; delete it") from error
