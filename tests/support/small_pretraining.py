"""A small pre-training run, and an audit of what it trained on, for tests and for drivers in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from crystalign.model_config import ModalitySpec, ModelConfig
from crystalign.objectives.clip import Clip
from crystalign_jobs.pretrain import Pretrain, pretrain
from crystalign_jobs.pretraining.job import Watch

MODEL = ModelConfig(
    embedding_dim=16,
    modalities={
        "composition": ModalitySpec(encoder="composition-transformer", options={"hidden": 16, "layers": 1}),
        "text": ModalitySpec(encoder="bert", options={"hidden": 16, "layers": 1, "vocabulary": 300}),
    },
    objective=Clip(pairs=(("composition", "text"),)),
)
STEPS = 15
"""Of the run below: three epochs of five steps."""


def settings(data: str, out: str | Path, **changes: Any) -> Pretrain:
    """Three epochs of seventy-odd materials on two workers, with a checkpoint every four steps."""
    base = {
        "data": data,
        "out": str(out),
        "name": "run",
        "model": MODEL,
        "batch_size": 16,
        "epochs": 3,
        "checkpoint_every_steps": 4,
        "log_every_steps": 1,
        "rows_per_window": 32,
        "optimiser": {"lr": 5e-3},
        "loggers": ("csv",),
    }
    return Pretrain.model_validate(base | changes)


def audit(
    folder: str | Path,
    *,
    dies_at: int | None = None,
    terminates_at: int | None = None,
    hangs_at: int | None = None,
    driver: int | None = None,
    driver_dies_at: int | None = None,
    driver_signal: int = signal.SIGKILL,
    slow: float = 0.0,
) -> Watch:
    """A watch that notes the ids of each (step, rank), once a time, and lets one thing happen, once.

    Args:
        folder: where the notes go, a file for each time.
        dies_at: before this step rank 1 dies of kill -9.
        terminates_at: before this step rank 1 is sent SIGTERM.
        hangs_at: before this step rank 1 sleeps for ever.
        driver: process of the driver.
        driver_dies_at: before this step rank 0 sends it `driver_signal`.
        driver_signal: kill -9, or a polite one.
        slow: seconds that each step takes longer.
    """
    place = str(folder)
    Path(place).mkdir(parents=True, exist_ok=True)

    def watch(rank: int, step: int, ids: list[str]) -> None:
        flag = Path(place) / "happened"
        first = not flag.exists()
        if first and rank == 1 and step in (dies_at, terminates_at, hangs_at):
            flag.touch()
            if step == hangs_at:
                time.sleep(3600)
            os.kill(os.getpid(), signal.SIGKILL if step == dies_at else signal.SIGTERM)
        if first and rank == 0 and step == driver_dies_at:
            assert driver is not None
            flag.touch()
            os.kill(driver, driver_signal)
            while driver_signal == signal.SIGKILL:  # Ray ends the workers of a dead driver only after a while
                time.sleep(1.0)
        time.sleep(slow)
        taken = len(list(Path(place).glob(f"{step:04d}-{rank}-*")))
        (Path(place) / f"{step:04d}-{rank}-{taken}.json").write_text(json.dumps(ids))

    return watch


def history(folder: str | Path) -> dict[str, list[str]]:
    """`step-rank` → the ids it was trained on, the last time."""
    found = sorted(Path(folder).glob("*.json"))
    return {path.stem.rpartition("-")[0]: json.loads(path.read_text()) for path in found}


def repeated(folder: str | Path) -> list[str]:
    """`step-rank` that were done more than once."""
    return sorted({path.stem.rpartition("-")[0] for path in Path(folder).glob("*-[1-9].json")})


if __name__ == "__main__":
    data, out, notes, step = sys.argv[1:5]
    pretrain(settings(data, out), watch=audit(notes, driver=os.getpid(), driver_dies_at=int(step)))
