"""`Job`: what the driver of a pre-training run passes to its workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crystalign.model_config import ModelCard
from crystalign.training.feed import FeedPlan
from crystalign.training.held_out import Place
from crystalign_jobs.pretraining.config import Pretrain

Watch = Callable[[int, int, list[str]], None]
"""Called on each rank before each step with (rank, step, ids): to record which samples were used."""


@dataclass(frozen=True)
class Job:
    """Input of the workers, the same for all ranks; it must be picklable."""

    run: str
    """URI of the run."""
    config: Pretrain
    """Its settings."""
    files: dict[str, bytes]
    """Files that encoders need before the first step, such as a tokenizer: path → content."""
    plan: FeedPlan
    """Plan of the batches for one rank; the workers set the world size."""
    card: ModelCard
    """Model card before training."""
    held_out: tuple[Place, ...]
    """Positions of the rows on which retrieval is measured."""
    watch: Watch | None = None
    """Called before each step."""
    mailbox: Any = None
    """Handle of the run's `Mailbox` actor."""
