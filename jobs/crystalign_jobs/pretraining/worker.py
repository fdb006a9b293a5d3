"""One rank of a pre-training run: what happens inside the workers that `crystalign pretrain` starts."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from crystalign import storage
from crystalign.errors import ConfigError, Error, ModelError
from crystalign_jobs.pretraining.job import Job, Watch
from crystalign_jobs.pretraining.status import MODEL

if TYPE_CHECKING:
    from types import TracebackType

    from crystalign.model import Model
    from crystalign.model_config import ModelCard
    from crystalign.training.feed import FeedPlan, RankBatch
    from crystalign.training.loop import TrainState
    from crystalign_jobs.pretraining.interruption import Interruption
    from crystalign_jobs.pretraining.stream import RankFeed

_WOULD_RECUR = (ConfigError, ModelError, FloatingPointError)


def train_worker(settings: dict[str, Job]) -> None:
    """Run one rank: agree on the checkpoint, build the stream from its step, train, and write.

    Args:
        settings: the `Job`, under `job`; Ray Train passes mappings only.
    """
    import ray
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    from crystalign.training.checkpoint import latest_checkpoint
    from crystalign_ray.session import quieten

    quieten()
    job = settings["job"]
    rank = ray.train.get_context().get_world_rank()
    # All ranks must start from the same checkpoint, so rank 0 chooses it. After a fatal error none of them starts.
    failed, uri = False, None
    with _ending(job.mailbox):
        if rank == 0:
            failed = ray.get(job.mailbox.begin.remote()) is not None
            uri = None if failed else latest_checkpoint(job.run)
        failed, uri = broadcast_from_rank_zero((failed, uri))
        if not failed:
            state = _train(job, uri)
            ray.train.report({"step": state.step, "samples": state.samples})


def _train(job: Job, uri: str | None) -> TrainState:
    import ray.train
    from ray.train.torch import get_device

    from crystalign.training.feed import steps_per_epoch
    from crystalign.training.loop import train
    from crystalign_jobs.pretraining.interruption import Interruption, Reason

    config, context = job.config, ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    plan = job.plan.model_copy(update={"world_size": world_size})
    model, state = _start(job, uri)
    total_steps = min(plan.epochs * steps_per_epoch(plan), config.max_steps or sys.maxsize)
    with ExitStack() as stack:
        writer = stack.enter_context(Writer(job, plan, model, state)) if rank == 0 else None
        if state.step >= total_steps or state.seconds >= 60 * (config.max_minutes or sys.maxsize):
            return _finished(writer, model, state)
        interruption = Interruption(rank, world_size, job.mailbox, 60 * config.timeout_minutes)
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
                _batches(feed, state, interruption, writer, job.watch),
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

    from crystalign_jobs.pretraining.stream import RankFeed, split, stream

    iterators = split(stream(plan, start_step=step), world_size) if rank == 0 else None
    # The broadcast carries at most 1,000 bytes, hence a reference.
    (reference,) = broadcast_from_rank_zero([ray.put(iterators)] if rank == 0 else None)
    return RankFeed(ray.get(reference)[rank], rank=rank, start_step=step)


def _batches(
    feed: Iterator[RankBatch], state: TrainState, interruption: Interruption, writer: Writer | None, watch: Watch | None
) -> Iterator[Any]:
    """Batches until the stream ends or training is interrupted; every batch taken from the stream is yielded."""
    step = state.step
    while True:
        if writer:
            writer.check()
        interruption.at(step, "waits for data")
        if interruption.due():
            return
        rank_batch = next(feed, None)
        if rank_batch is None:
            return
        if watch is not None:
            watch(interruption.rank, rank_batch.step, rank_batch.ids)
        interruption.at(step, "computes")
        yield rank_batch.batch
        del rank_batch  # free its memory before the next batch
        step += 1


def _interrupted(writer: Writer | None, model: Model, state: TrainState, interruption: Interruption) -> None:
    """Store a checkpoint; a worker that received SIGTERM then exits."""
    from ray.train.collective import barrier

    from crystalign_jobs.pretraining.interruption import Reason

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


def _start(job: Job, uri: str | None) -> tuple[Model, TrainState]:
    """Model and training state from the checkpoint, or new ones that are equal on every rank.

    Raises:
        ConfigError: the training rows are not those of the checkpoint, so its position in the stream is not valid.
    """
    import torch

    from crystalign.model import Model
    from crystalign.training.checkpoint import load_checkpoint
    from crystalign.training.loop import TrainState

    config, card = job.config, job.card
    if uri is None:
        torch.manual_seed(config.seed)
        return Model(config.model, job.files), TrainState()
    model, state = load_checkpoint(uri)
    if model.card.selection_sha256 != card.selection_sha256:
        raise ConfigError(
            f"the training rows of {config.data} are not those of {uri}: the dataset changed; resume on the dataset "
            "as it was, or start a new run"
        )
    return model, state


@contextmanager
def _ending(mailbox: Any, kinds: tuple[type[Exception], ...] = _WOULD_RECUR) -> Iterator[None]:
    """Let errors of these kinds end the run: they are recorded, and workers that Ray restarts exit at once."""
    import ray

    try:
        yield
    except kinds as error:
        ray.get(mailbox.fail.remote(error))
        raise


class Writer:
    """Writes metrics, checkpoints and the final model, on rank 0. An error in writing ends the run."""

    def __init__(self, job: Job, plan: FeedPlan, model: Model, start: TrainState) -> None:
        from crystalign.training.checkpoint_writer import CheckpointWriter
        from crystalign.training.feed import steps_per_epoch
        from crystalign.training.held_out import HeldOut, TimeBudget
        from crystalign.training.metrics import MetricLog

        self.job, self.run, self.mailbox = job, job.run, job.mailbox
        self.card: ModelCard = job.card.model_copy(update={"metrics": model.card.metrics})
        self.steps_per_epoch = steps_per_epoch(plan)
        self.metrics = MetricLog(job.config, self.run, start_step=start.step)
        self.checkpoints = CheckpointWriter(
            self.run, model, keep=job.config.keep_checkpoints, publish=self.metrics.publish
        )
        self.held_out: HeldOut | None = None
        self.time_budget, self.began = TimeBudget(), time.perf_counter()
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
        """Read and featurise the held-out rows on which retrieval is measured."""
        from crystalign.shards.dataset import Dataset
        from crystalign.training.held_out import HeldOut

        if self.job.held_out:
            dataset = Dataset.open(self.job.config.data)
            self.held_out = HeldOut.read(dataset, self.job.held_out, model.modalities)

    def log(self, record: dict[str, float], waited: float) -> None:
        """Send a record to the loggers and to the terminal."""
        seconds, waited_before = self.before
        record = record | {"data_wait": (waited - waited_before) / max(record["seconds"] - seconds, 1e-9)}
        self.before = (record["seconds"], waited)
        self.last = record
        self.metrics.write(record)
        self.mailbox.put.remote(record | self.retrieval)

    def check(self) -> None:
        """Raise the error of a failed checkpoint write, if any."""
        with _ending(self.mailbox, (Error,)):
            self.checkpoints.check()

    def checkpoint(self, model: Model, state: TrainState) -> None:
        """Measure retrieval, copy the state, and write the checkpoint in the background, with the metrics."""
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
        """Wait until the last checkpoint is stored; if the run stops here, report its step to the mailbox."""
        import ray

        with _ending(self.mailbox, (Error,)):
            self.checkpoints.flush()
        if stopped:
            ray.get(self.mailbox.stop_at.remote(self.saved or 0))

    def finish(self, model: Model, state: TrainState) -> None:
        """Write the final model directory."""
        self.store(stopped=False)
        with _ending(self.mailbox, (Error,)), tempfile.TemporaryDirectory(prefix="crystalign-model-") as folder:
            model.save_pretrained(folder, self._card(state))
            storage.upload_directory(folder, storage.join(self.run, MODEL), manifest="config.json")

    def _measure(self, model: Model, state: TrainState) -> None:
        """Measure retrieval on the held-out rows, at the end and as often as the time budget allows."""
        last = self.last.get("progress", 0.0) >= 1.0
        if self.held_out is None or not (last or self.time_budget.allows(time.perf_counter() - self.began)):
            return
        began = time.perf_counter()
        self.retrieval, self.measured_at = self.held_out.recall(model), state.step
        self.time_budget.took(time.perf_counter() - began)
        if self.retrieval:
            self.metrics.write({"step": float(state.step)} | self.retrieval)
        if self.retrieval and self.last:
            self.mailbox.put.remote(self.last | self.retrieval)

    def _card(self, state: TrainState) -> ModelCard:
        metrics = self.card.metrics | {key: value for key, value in self.last.items() if key.startswith("loss")}
        metrics |= self.retrieval
        return self.card.model_copy(update={"steps": state.step, "samples": state.samples, "metrics": metrics})
