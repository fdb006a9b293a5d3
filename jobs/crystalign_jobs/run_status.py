"""`RunStatus`: what a run says about itself in its folder, and what can be concluded from the store."""

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
"""Between two writings of the status while a run goes on."""
SILENT = timedelta(seconds=4 * WRITE_SECONDS)
"""A run that has not written for so long is not running, whatever its status says."""

State = Literal["new", "running", "finished", "stopped", "failed", "lost"]


class RunStatus(Config):
    """The content of `status.json`; the driver writes it now and then, and when the run ends."""

    state: Literal["running", "finished", "stopped", "failed"]
    """As the driver knew it last; a driver that was killed leaves `running` behind."""
    step: int = 0
    """Optimiser steps done."""
    total: int = 0
    """Steps of the whole run, as far as is known; 0 before the first."""
    metrics: dict[str, float] = {}
    """The last ones."""
    message: str = ""
    """Why it failed."""


class RunSummary(Config):
    """One run, as its folder shows it."""

    uri: str
    """Of the run."""
    state: State
    """`finished`: the final model is there. `running`: it wrote a moment ago. `stopped`, `failed`: it said so.
    `lost`: it said nothing for minutes, though it was running. `new`: nothing but its settings yet."""
    step: int | None = None
    """Steps done: as it said, or of the newest checkpoint."""
    checkpoint: int | None = None
    """Step from which it would go on."""
    total: int | None = None
    """Steps of the whole run."""
    loss: float | None = None
    """The last one known."""
    retrieval: float | None = None
    """R@1 on the held-out slice, the mean over pairs."""
    written: datetime | None = None
    """When it last wrote, by the store's clock."""
    message: str = ""
    """Why it failed."""

    @property
    def resume_command(self) -> str | None:
        """What goes on with it, where there is something to go on with."""
        return None if self.state in {"finished", "running"} else f"crystalign pretrain --resume {self.uri}"


def write_status(run: str, status: RunStatus) -> None:
    """Replace the status of a run."""
    storage.write_bytes(storage.join(run, STATUS), status.model_dump_json(indent=2).encode())


def summarise(run: str, now: datetime | None = None) -> RunSummary:
    """Conclude from a run's folder how it stands.

    Args:
        run: URI of the folder.
        now: the time to compare with; by default that of this machine's clock.
    """
    now = now or datetime.now(UTC)
    status = _read_status(run)
    newest = next(iter(checkpoints(run)), None)
    metrics: dict[str, float] = {}
    if newest is not None:
        with contextlib.suppress(VerificationError):  # broken: a resumed run will say so and take the one before
            metrics = dict(read_manifest(newest[1]).metrics)
    places = [storage.join(run, STATUS), storage.join(run, CONFIG), storage.join(run, "metrics.csv")]
    places += [] if newest is None else [storage.join(newest[1], MANIFEST)]
    written = max((when for place in places if (when := storage.modified(place))), default=None)
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
    if status is None:  # between its settings and its first step, or of a version that wrote none
        return "running" if recent else "lost" if started else "new"
    if status.state == "running":
        return "running" if recent else "lost"
    return "lost" if status.state == "finished" else status.state  # its model has been taken away


def _total(step: int | None, metrics: dict[str, float]) -> int | None:
    progress = metrics.get("progress", 0.0)
    return round(step / progress) if step and progress > 0 else None


def _read_status(run: str) -> RunStatus | None:
    place = storage.join(run, STATUS)
    if not storage.exists(place):
        return None
    try:
        return RunStatus.model_validate_json(storage.read_bytes(place))
    except ValueError as error:
        raise StorageError(f"{place} is not a run's status; delete it") from error
