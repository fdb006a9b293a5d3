"""One rank of a pre-training run: what happens inside the workers that `crystalign pretrain` starts."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from crystalign import storage
from crystalign.errors import ConfigError, Error, ModelError
from crystalign_jobs.run_status import MODEL

if TYPE_CHECKING:
    from types import TracebackType

    from crystalign.model import Model
    from crystalign.model_config import ModelCard
    from crystalign.training.feed import Fed, FeedPlan
    from crystalign.training.loop import TrainState
    from crystalign_jobs.interruption import Interruption
    from crystalign_jobs.stream import RankFeed

Watch = Callable[[int, int, list[str]], None]
"""Called on each rank before each step with (rank, step, ids): for audits of what was trained on."""

_WOULD_RECUR = (ConfigError, ModelError, FloatingPointError)


def train_worker(job: dict[str, Any]) -> None:
    """One rank: agree on the checkpoint, build the stream from its step, train, write."""
    import ray
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    from crystalign.training.checkpoint import latest_checkpoint
    from crystalign_jobs.session import quieten

    quieten()
    rank = ray.train.get_context().get_world_rank()
    # All ranks must start from the same checkpoint, so one of them decides; and none starts what has failed for good.
    failed, uri = False, None
    with _ending(job["mailbox"]):
        if rank == 0:
            failed = ray.get(job["mailbox"].begin.remote()) is not None
            uri = None if failed else latest_checkpoint(job["run"])
        failed, uri = broadcast_from_rank_zero((failed, uri))
        if not failed:
            state = _train(job, uri)
            ray.train.report({"step": state.step, "samples": state.samples})


def _train(job: dict[str, Any], uri: str | None) -> TrainState:
    import ray.train
    from ray.train.torch import get_device

    from crystalign.training.feed import steps_per_epoch
    from crystalign.training.loop import train
    from crystalign_jobs.interruption import Interruption, Reason

    config, context = job["config"], ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    plan = job["plan"].model_copy(update={"world_size": world_size})
    model, state = _start(job, uri)
    total_steps = min(plan.epochs * steps_per_epoch(plan), config.max_steps or sys.maxsize)
    with ExitStack() as stack:
        writer = stack.enter_context(Writer(job, plan, model, state)) if rank == 0 else None
        if state.step >= total_steps or state.seconds >= 60 * (config.max_minutes or sys.maxsize):
            return _finished(writer, model, state)
        interruption = Interruption(rank, world_size, job["mailbox"], 60 * config.timeout_minutes)
        stack.callback(interruption.close)
        rows = _rows(plan, state.step, rank, world_size)
        if writer:
            writer.read_held_out(model)
        rows.start()
        feed = iter(rows)
        while True:
            state = train(
                config,
                model,
                _batches(feed, state, interruption, writer, job["watch"]),
                total_steps=total_steps,
                start_step=state.step,
                rank=rank,
                world_size=world_size,
                device=get_device(),
                state=state,
                on_log=(lambda record: writer.log(record, rows.waited)) if writer else None,
                on_checkpoint=writer.checkpoint if writer else None,
            )
            if interruption.reason == Reason.NONE:
                return _finished(writer, model, state)
            _interrupted(writer, model, state, interruption)
            if interruption.reason == Reason.STOP:
                return state


def _rows(plan: FeedPlan, step: int, rank: int, world_size: int) -> RankFeed:
    """This rank's part of the stream, which rank 0 builds."""
    import ray
    from ray.train.collective import broadcast_from_rank_zero

    from crystalign_jobs.stream import RankFeed, split, stream

    iterators = split(stream(plan, start_step=step), world_size) if rank == 0 else None
    # The broadcast carries at most 1,000 bytes, hence a reference.
    (reference,) = broadcast_from_rank_zero([ray.put(iterators)] if rank == 0 else None)
    return RankFeed(ray.get(reference)[rank], rank=rank, start_step=step)


def _batches(
    feed: Iterator[Fed], state: TrainState, interruption: Interruption, writer: Writer | None, watch: Watch | None
) -> Iterator[Any]:
    """Batches until the stream ends or training is interrupted; nothing is taken from the stream that is not given."""
    step = state.step
    while True:
        if writer:
            writer.check()
        interruption.at(step, "waits for data")
        if interruption.due():
            return
        fed = next(feed, None)
        if fed is None:
            return
        if watch is not None:
            watch(interruption.rank, fed.step, fed.ids)
        interruption.at(step, "computes")
        yield fed.batch
        del fed  # its features make room for the next
        step += 1


def _interrupted(writer: Writer | None, model: Model, state: TrainState, interruption: Interruption) -> None:
    """Store a checkpoint before whatever comes; a worker that was sent SIGTERM then leaves."""
    from ray.train.collective import barrier

    from crystalign_jobs.interruption import Reason

    if writer:
        writer.checkpoint(model, state)
        writer.store(stopped=interruption.reason == Reason.STOP)
    if interruption.reason == Reason.TERMINATED:
        barrier()
        if interruption.terminated:
            os._exit(143)


def _finished(writer: Writer | None, model: Model, state: TrainState) -> TrainState:
    if writer:
        writer.finish(model, state)
    return state


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


@contextmanager
def _ending(mailbox: Any, kinds: tuple[type[Exception], ...] = _WOULD_RECUR) -> Iterator[None]:
    """Errors of these kinds end the run: workers that Ray starts again leave at once."""
    import ray

    try:
        yield
    except kinds as error:
        ray.get(mailbox.fail.remote(error))
        raise


class Writer:
    """What rank 0 writes: metrics, checkpoints, the final model. An error of its own ends the run."""

    def __init__(self, job: dict[str, Any], plan: FeedPlan, model: Model, start: TrainState) -> None:
        from crystalign.training.checkpoint_writer import CheckpointWriter
        from crystalign.training.feed import steps_per_epoch
        from crystalign.training.held_out import HeldOut, Ration
        from crystalign.training.metrics import MetricLog

        self.job, self.run, self.mailbox = job, job["run"], job["mailbox"]
        self.card: ModelCard = job["card"].model_copy(update={"metrics": model.card.metrics})
        self.steps_per_epoch = steps_per_epoch(plan)
        self.metrics = MetricLog(job["config"], self.run, start_step=start.step)
        self.checkpoints = CheckpointWriter(
            self.run, model, keep=job["config"].keep_checkpoints, publish=self.metrics.publish
        )
        self.held_out: HeldOut | None = None
        self.ration, self.began = Ration(), time.perf_counter()
        self.before = (start.seconds, 0.0)
        self.last: dict[str, float] = {}
        self.retrieval: dict[str, float] = {}
        self.measured_at: int | None = None
        self.saved = start.step if start.optimiser else None
        self.mailbox.put.remote({"start": float(start.step)})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _ending(self.mailbox, (Error,)):
            self.checkpoints.__exit__(kind, value, trace)
            if kind is None:
                self.metrics.close()

    def read_held_out(self, model: Model) -> None:
        """Featurise the slice that retrieval is measured on."""
        from crystalign.shards.dataset import Dataset
        from crystalign.training.held_out import HeldOut

        if self.job["held_out"]:
            dataset = Dataset.open(self.job["config"].data)
            self.held_out = HeldOut.read(dataset, self.job["held_out"], model.modalities)

    def log(self, record: dict[str, float], waited: float) -> None:
        """To the loggers and to the terminal."""
        seconds, waited_before = self.before
        record = record | {"data_wait": (waited - waited_before) / max(record["seconds"] - seconds, 1e-9)}
        self.before = (record["seconds"], waited)
        self.last = record
        self.metrics.write(record)
        self.mailbox.put.remote(record | self.retrieval)

    def check(self) -> None:
        """Raise what the writing of a checkpoint has failed with."""
        with _ending(self.mailbox, (Error,)):
            self.checkpoints.check()

    def checkpoint(self, model: Model, state: TrainState) -> None:
        """Measure the retrieval, copy, and write while training goes on; metrics are made visible with it."""
        if state.step in (0, self.saved):
            return  # interrupted before the first step, or just after a checkpoint
        self._measure(model, state)
        state.cursor = {"epoch": state.step // self.steps_per_epoch, "step": state.step % self.steps_per_epoch}
        metrics = {key: value for key, value in self.last.items() if key.startswith("loss") or key == "progress"}
        measured = self.retrieval if state.step == self.measured_at else {}
        with _ending(self.mailbox, (Error,)):
            self.checkpoints.save(model, state, self._card(state), metrics | measured)
        self.saved = state.step

    def store(self, *, stopped: bool) -> None:
        """Wait until the last checkpoint is stored, and say so where the run stops with it."""
        import ray

        with _ending(self.mailbox, (Error,)):
            self.checkpoints.flush()
        if stopped:
            ray.get(self.mailbox.stop_at.remote(self.saved or 0))

    def finish(self, model: Model, state: TrainState) -> None:
        """The final model directory."""
        self.store(stopped=False)
        with _ending(self.mailbox, (Error,)), tempfile.TemporaryDirectory(prefix="crystalign-model-") as folder:
            model.save_pretrained(folder, self._card(state))
            storage.upload_directory(folder, storage.join(self.run, MODEL), manifest="config.json")

    def _measure(self, model: Model, state: TrainState) -> None:
        """Retrieval on the held-out slice, at the end and as often as its share of the time allows."""
        last = self.last.get("progress", 0.0) >= 1.0
        if self.held_out is None or not (last or self.ration.allows(time.perf_counter() - self.began)):
            return
        began = time.perf_counter()
        self.retrieval, self.measured_at = self.held_out.recall(model), state.step
        self.ration.took(time.perf_counter() - began)
        if self.retrieval:
            self.metrics.write({"step": float(state.step)} | self.retrieval)
        if self.retrieval and self.last:
            self.mailbox.put.remote(self.last | self.retrieval)

    def _card(self, state: TrainState) -> ModelCard:
        known = self.card.metrics | {key: value for key, value in self.last.items() if key.startswith("loss")}
        metrics = known | self.retrieval
        return self.card.model_copy(update={"steps": state.step, "samples": state.samples, "metrics": metrics})
