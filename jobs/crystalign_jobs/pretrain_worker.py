"""One rank of a pre-training run: what happens inside the workers that `crystalign pretrain` starts."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from crystalign import storage
from crystalign.errors import ConfigError

if TYPE_CHECKING:
    from crystalign.model import Model
    from crystalign.model_config import ModelCard
    from crystalign.training.batch import Batch
    from crystalign.training.feed import FeedPlan
    from crystalign.training.loop import TrainState
    from crystalign_jobs.stream import RankFeed

Watch = Callable[[int, int, list[str]], None]
"""Called on each rank before each step with (rank, step, ids): for audits of what was trained on."""

MODEL = "model"
"""Folder of the final model in a run."""


def train_worker(job: dict[str, Any]) -> None:
    """One rank: agree on the checkpoint, build the stream from its step, train, write."""
    import ray
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero
    from ray.train.torch import get_device

    from crystalign.training.checkpoint import latest_checkpoint
    from crystalign.training.feed import steps_per_epoch
    from crystalign.training.loop import train
    from crystalign_jobs.session import quieten
    from crystalign_jobs.stream import RankFeed, split, stream

    quieten()
    config = job["config"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    plan = job["plan"].model_copy(update={"world_size": world_size})
    # All ranks must start from the same checkpoint, so one of them decides.
    uri = broadcast_from_rank_zero(latest_checkpoint(job["run"]) if rank == 0 else None)
    model, state = _start(job, uri)
    total_steps = min(plan.epochs * steps_per_epoch(plan), config.max_steps or sys.maxsize)
    writer = _Writer(job, plan, state) if rank == 0 else None
    if state.step < total_steps:
        iterators = split(stream(plan, start_step=state.step), world_size) if rank == 0 else None
        # The broadcast carries at most 1,000 bytes, hence a reference.
        (reference,) = broadcast_from_rank_zero([ray.put(iterators)] if rank == 0 else None)
        rows = RankFeed(ray.get(reference)[rank], rank=rank, start_step=state.step)
        rows.start()
        state = train(
            config,
            model,
            _watched(rows, rank, job["watch"]),
            total_steps=total_steps,
            start_step=state.step,
            rank=rank,
            world_size=world_size,
            device=get_device(),
            state=state,
            on_log=(lambda record: writer.log(record, rows.waited)) if writer else None,
            on_checkpoint=writer.checkpoint if writer else None,
        )
    if writer:
        writer.finish(model, state)
    ray.train.report({"step": state.step, "samples": state.samples})


def _start(job: dict[str, Any], uri: str | None) -> tuple[Model, TrainState]:
    """Model and state: of the checkpoint, or fresh and the same on every rank.

    Raises:
        ConfigError: the rows to train on are not those of the checkpoint, so its cursor means nothing.
    """
    import torch

    from crystalign.model import Model
    from crystalign.training.checkpoint import load_checkpoint
    from crystalign.training.loop import TrainState

    config, card = job["config"], job["card"]
    if uri is None:
        torch.manual_seed(config.seed)
        return Model(config.model, job["files"]), TrainState()
    model, state = load_checkpoint(uri)
    if model.card.selection_sha256 != card.selection_sha256:
        raise ConfigError(
            f"the training rows of {config.data} are not those of {uri}: the dataset changed; resume on the dataset "
            "as it was, or start a new run"
        )
    return model, state


def _watched(rows: RankFeed, rank: int, watch: Watch | None) -> Iterator[Batch]:
    for fed in rows:
        if watch is not None:
            watch(rank, fed.step, fed.ids)
        yield fed.batch


class _Writer:
    """What rank 0 writes: metrics, checkpoints, the final model."""

    def __init__(self, job: dict[str, Any], plan: FeedPlan, start: TrainState) -> None:
        from crystalign.training.feed import steps_per_epoch
        from crystalign.training.metrics import MetricLog

        self.run, self.mailbox = job["run"], job["mailbox"]
        self.card: ModelCard = job["card"]
        self.steps_per_epoch = steps_per_epoch(plan)
        self.keep = job["config"].keep_checkpoints
        self.metrics = MetricLog(job["config"], self.run, start_step=start.step)
        self.before = (start.seconds, 0.0)
        self.last: dict[str, float] = {}
        self.mailbox.put.remote({"start": float(start.step)})

    def log(self, record: dict[str, float], waited: float) -> None:
        """To the writers and to the terminal."""
        seconds, waited_before = self.before
        record = record | {"data_wait": (waited - waited_before) / max(record["seconds"] - seconds, 1e-9)}
        self.before = (record["seconds"], waited)
        self.last = record
        self.metrics.write(record)
        self.mailbox.put.remote(record)

    def checkpoint(self, model: Model, state: TrainState) -> None:
        """Verified; metrics are made visible with it."""
        from crystalign.training.checkpoint import prune_checkpoints, save_checkpoint

        state.cursor = {"epoch": state.step // self.steps_per_epoch, "step": state.step % self.steps_per_epoch}
        save_checkpoint(self.run, model, state, self._card(state))
        prune_checkpoints(self.run, self.keep)
        self.metrics.publish()

    def finish(self, model: Model, state: TrainState) -> None:
        """The final model directory."""
        with tempfile.TemporaryDirectory(prefix="crystalign-model-") as folder:
            model.save_pretrained(folder, self._card(state))
            storage.upload_directory(folder, storage.join(self.run, MODEL), manifest="config.json")
        self.metrics.close()

    def _card(self, state: TrainState) -> ModelCard:
        losses = {key: value for key, value in self.last.items() if key.startswith("loss")}
        return self.card.model_copy(update={"steps": state.step, "samples": state.samples, "metrics": losses})
