"""The training loop in plain PyTorch, for one process or several under any launcher."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from crystalign.batch import Batch, MicroBatches
from crystalign.errors import ConfigError
from crystalign.modalities import stable_hash
from crystalign.model import Model
from crystalign.objectives import Loss
from crystalign.training.config import PretrainConfig
from crystalign.training.gradient_cache import CachedGradients, cached_backward, refuse_batch_statistics
from crystalign.training.schedule import (
    learning_rate,
    make_optimiser,
    optimiser_tensors,
    restore_optimiser,
    set_learning_rate,
)


@dataclass
class TrainState:
    """The state that a run needs in addition to its weights to resume."""

    step: int = 0
    """Optimiser steps done; the next batch is that of this step."""
    samples: int = 0
    """Samples seen by all ranks."""
    seconds: float = 0.0
    """Time spent in steps, without restarts."""
    cursor: dict[str, Any] = field(default_factory=dict)
    """Position in the data; its content is defined by the data feed."""
    optimiser: dict[str, Tensor] = field(default_factory=dict)
    """Named tensors of the optimiser; set when a checkpoint is taken."""


OnLog = Callable[[dict[str, float]], None]
OnCheckpoint = Callable[[Model, TrainState], None]


class Step(nn.Module):
    """Compute the loss of a batch. One module holds encoders and temperatures, so that DDP covers both."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, cached: CachedGradients | None = None) -> tuple[Tensor, Loss]:
        """The differentiable loss, and its parts for logging. With `cached`, the surrogate loss of a micro-batch."""
        embeddings = self.model(batch)  # modality → (b, D)
        if cached is None:
            loss = self.model.loss(embeddings, batch.present, batch.keys)
        else:
            loss = cached.surrogate(self.model, embeddings)
        return loss.total, Loss(loss.total.detach(), loss.pairs, loss.counts)


def train(
    config: PretrainConfig,
    model: Model,
    batches: Iterable[Batch | MicroBatches],
    *,
    total_steps: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    state: TrainState | None = None,
    on_log: OnLog | None = None,
    on_checkpoint: OnCheckpoint | None = None,
) -> TrainState:
    """Train until there are no more batches, or the limit of steps or minutes is reached.

    Args:
        config: optimiser, objective, intervals.
        model: trained in place.
        batches: of this rank from `start_step` on, equally many on every rank, in micro-batches as `config` says.
        total_steps: length of the whole run, over which the schedule extends.
        start_step: the step of the first batch; must equal `state.step` if a state is given.
        rank: rank of this process.
        world_size: number of ranks W.
        device: device of the computation.
        state: state of the checkpoint from which the run resumes; changed in place.
        on_log: called on rank 0 with flat metrics every `log_every_steps`, and after the last step.
        on_checkpoint: called on *every* rank every `checkpoint_every_steps`, and after the last step.

    Returns:
        The state after the last step, with the optimiser's tensors.

    Raises:
        ConfigError: the state or the micro-batches do not fit, or the model uses batch statistics with micro-batches.
        FloatingPointError: the gradient is not finite.
    """
    state = TrainState(step=start_step) if state is None else state
    if state.step != start_step:
        raise ConfigError(f"the state is of step {state.step}, but the batches start at step {start_step}")
    device = torch.device(device)
    model.to(device).train()
    if config.micro_batch_size is not None:
        refuse_batch_statistics(model)
    restore_optimiser(model, optimiser := make_optimiser(model, config.optimiser), state.optimiser)
    runner = _Runner(config, model, optimiser, state, total_steps, rank, world_size, device)
    finished = False
    for batch in batches:
        record = runner.step(batch)
        del batch  # free its memory before the next one is fetched
        finished = runner.finished()
        last = finished or state.step >= total_steps
        if record is not None and rank == 0 and on_log is not None:
            on_log(record)
        if on_checkpoint is not None and (last or state.step % config.checkpoint_every_steps == 0):
            state.optimiser = optimiser_tensors(model, optimiser)
            on_checkpoint(model, state)
        if last:
            break
    state.optimiser = optimiser_tensors(model, optimiser)
    return state


class _Runner:
    """Runs the steps of a training."""

    def __init__(
        self,
        config: PretrainConfig,
        model: Model,
        optimiser: torch.optim.AdamW,
        state: TrainState,
        total_steps: int,
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        self.config, self.model, self.optimiser, self.state = config, model, optimiser, state
        self.total_steps, self.rank, self.world_size, self.device = total_steps, rank, world_size, device
        self.module: nn.Module = Step(model)
        if world_size > 1:
            ids = [device.index or 0] if device.type == "cuda" else None
            # With find_unused_parameters, the gradient buckets, and with them the order of floating-point sums, are
            # the same before and after a restart.
            self.module = nn.parallel.DistributedDataParallel(self.module, device_ids=ids, find_unused_parameters=True)
        self.dtype = autocast_dtype(config, device)
        self.mark = time.perf_counter()
        self.progress = self._progress()
        self.logged = (self.mark, state.samples)

    def step(self, batch: Batch | MicroBatches) -> dict[str, float] | None:
        """Do one optimiser step; returns metrics if they are due at this step."""
        state, config = self.state, self.config
        torch.manual_seed(stable_hash(f"{config.seed}/{state.step}/{self.rank}"))  # same dropout after a restart
        lr = learning_rate(config.optimiser, self.progress)
        set_learning_rate(self.optimiser, lr)
        self.optimiser.zero_grad(set_to_none=True)
        parts = self._backward(batch)
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), config.optimiser.clip))
        if not math.isfinite(norm):  # the averaged gradient is the same on all ranks
            raise FloatingPointError(f"the gradient is not finite at step {state.step}: lower the learning rate {lr:g}")
        self.optimiser.step()
        self.model.constrain()
        state.step += 1
        state.samples += int(_total(batch.real.sum().double()[None].to(self.device), self.world_size)[0])
        now = time.perf_counter()
        state.seconds += now - self.mark
        self.mark = now
        self.progress = self._progress()
        if state.step % config.log_every_steps and state.step < self.total_steps and self.progress < 1.0:
            return None
        return self._record(parts, norm, lr)

    def _backward(self, batch: Batch | MicroBatches) -> Loss:
        """Compute the gradients; returns the loss without a graph."""
        size, limit = max(len(part) for part in batch.parts), self.config.micro_batch_size
        if size > (limit or size) or (limit is None and len(batch.parts) > 1):
            raise ConfigError(
                f"micro_batch_size is {limit}, but the batch of step {self.state.step} comes in {len(batch.parts)} "
                f"parts of up to {size} rows: set it in the FeedPlan, too"
            )
        if isinstance(batch, MicroBatches):
            return cached_backward(self.module, self.model, batch, device=self.device, autocast=self._autocast)
        parts: Loss
        with self._autocast():
            total, parts = self.module(batch.to(self.device))
        total.backward()
        return parts

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def finished(self) -> bool:
        """Whether the time limit is reached; the answer is the same on all ranks."""
        return self.config.max_minutes is not None and self.progress >= 1.0

    def _progress(self) -> float:
        """Fraction of the run that is done: of the steps, or of rank 0's minutes if that is larger."""
        done = self.state.step / max(1, self.total_steps)
        if self.config.max_minutes is None:
            return done
        share = torch.tensor([self.state.seconds / (60.0 * self.config.max_minutes)], device=self.device)
        if self.world_size > 1:
            dist.broadcast(share, 0)
        return max(done, float(share[0]))

    def _record(self, parts: Loss, norm: float, lr: float) -> dict[str, float]:
        """Flat metrics of this step over the global batch; must be called on all ranks."""
        local = torch.stack([parts.total, *parts.pairs.values()]).double()  # the same pairs on all ranks
        means = (_total(local, self.world_size) / self.world_size).tolist()
        before, samples = self.logged
        self.logged = (self.mark, self.state.samples)
        record = {
            "step": float(self.state.step),
            "samples": float(self.state.samples),
            "progress": self.progress,
            "loss": means[0],
            "lr": lr,
            "grad_norm": norm,
            "samples_per_second": (self.state.samples - samples) / max(1e-9, self.mark - before),
            "seconds": self.state.seconds,
        }
        for names, mean in zip(parts.pairs, means[1:], strict=True):
            record[f"loss/{'-'.join(names)}"] = mean
        for names, scale in self.model.logit_scales().items():
            record[f"temperature/{'-'.join(names)}"] = 1.0 / float(scale.detach())
        return record


def autocast_dtype(config: PretrainConfig, device: torch.device) -> torch.dtype | None:
    """bfloat16 if configured, or with `auto` on a GPU that supports it; None means the precision of the weights."""
    if config.compute_dtype == "auto":
        fits = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fits else None
    return torch.bfloat16 if config.compute_dtype == "bfloat16" else None


def _total(values: Tensor, world_size: int) -> Tensor:
    """Sum over ranks."""
    if world_size > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values
