"""Fit a property model: deterministic, on one or several processes, and resumable after a kill."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from crystalign.finetuning.data.features import FeatureStore
from crystalign.finetuning.data.splits import Split
from crystalign.finetuning.fitting.fit_state import FitState, forget_state, load_state, save_state
from crystalign.finetuning.fitting.optimiser import fitting_optimiser
from crystalign.finetuning.fitting.ranks import Ranks
from crystalign.finetuning.fitting.recipe import Recipe
from crystalign.finetuning.fitting.rows import LabelledRows
from crystalign.finetuning.model.property_model import PropertyModel
from crystalign.finetuning.network.fusion import stacking_weights
from crystalign.modalities import stable_hash
from crystalign.training.config import OptimiserConfig
from crystalign.training.schedule import learning_rate, optimiser_tensors, restore_optimiser, set_learning_rate

Ended = Literal["epochs", "patience", "seconds", "stopped"]
"""Why a fit ended: all epochs done, no more progress, time limit, or stopped by the caller."""
LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": F.l1_loss,
    "huber": F.huber_loss,
    "mse": F.mse_loss,
    "cross entropy": F.binary_cross_entropy_with_logits,
}
OnEpoch = Callable[[dict[str, float]], bool | None]
"""Takes the metrics of an epoch; True ends the fit."""


@dataclass(frozen=True)
class Fitted:
    """Outcome of a fit. The model holds the weights of the epoch that is kept."""

    ended: Ended
    """Why it ended."""
    epochs: int
    """Number of epochs."""
    kept_epoch: int
    """Epoch whose weights are kept, counted from 1."""
    kept_score: float
    """Its validation score: mean absolute error of the scaled labels, or cross entropy for classification."""
    seconds: float
    """CPU time in seconds, including restarts, not counting features."""
    history: tuple[dict[str, float], ...]
    """Metrics of every epoch since the last restart."""


def fit(
    model: PropertyModel,
    split: Split,
    store: FeatureStore,
    recipe: Recipe,
    *,
    lr: float,
    seed: int,
    folder: str | None = None,
    key: str = "",
    on_epoch: OnEpoch | None = None,
) -> Fitted:
    """Train on the training part, with early stopping on the validation part unless the last weights are kept.

    The same arguments give the same weights, on one machine and without `max_seconds`: the order of the rows and
    what is dropped follow from the seed, the epoch and the step alone.

    Where the default process group has several ranks, each calls this, takes its share of every batch, and holds the
    same weights at the end; without dropout they are those of one process up to rounding. Rank 0 writes the states.

    Args:
        model: trained in place; its encoders stay as they are with `recipe.train` = "head".
        split: of the labels.
        store: where features are kept.
        recipe: settings of the fit.
        lr: peak learning rate of the schedule.
        seed: decides the order of the rows, and dropout.
        folder: URI where states are written, from which a killed fit goes on.
        key: identity of the trial; a state of another key is not used.
        on_epoch: called after each epoch; True ends the fit.

    Raises:
        FloatingPointError: the gradient is not finite.
    """
    if recipe.train == "head":
        model.freeze()
    rows = LabelledRows(model, store, split.labels)
    rows.prepare(np.concatenate([split.train.rows, split.validation.rows]))
    return _Fit(model, split, rows, recipe, lr, seed, folder, key, on_epoch).run()


class _Fit:
    """State and loop of a fit."""

    def __init__(
        self,
        model: PropertyModel,
        split: Split,
        rows: LabelledRows,
        recipe: Recipe,
        lr: float,
        seed: int,
        folder: str | None,
        key: str,
        on_epoch: OnEpoch | None,
    ) -> None:
        self.model, self.split, self.rows, self.recipe = model, split, rows, recipe
        self.seed, self.folder, self.key, self.on_epoch = seed, folder, key, on_epoch
        self.ranks = Ranks()
        self.batch = recipe.batch(len(split.train))
        self.steps = -(-len(split.train) // self.batch)
        share = recipe.warmup_epochs / recipe.max_epochs
        self.schedule = OptimiserConfig(lr=lr, warmup_fraction=share, clip=recipe.clip)
        self.learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimiser = fitting_optimiser(model, recipe, lr)
        self.state = FitState()
        self.average = _copied(self.learning) if recipe.ema else {}
        self.kept = _copied(self.learning)
        self._restore()
        self.mark, self.saved = time.process_time(), self.state.seconds

    def run(self) -> Fitted:
        history: list[dict[str, float]] = []
        ended = self._over()
        while ended is None:
            metrics = self._epoch()
            history.append(metrics)
            ended = self._over()
            if self.on_epoch is not None and self.ranks.of_first(bool(self.on_epoch(metrics))):
                ended = "stopped"
            due = ended or self.state.seconds - self.saved >= self.recipe.save_seconds
            if self.folder is not None and due and self.ranks.first:
                self._save()
        _put(self.learning, self.kept)
        self._stack()
        self.model.eval()
        state = self.state
        return Fitted(ended, state.epoch, state.kept_epoch, state.kept_score, state.seconds, tuple(history))

    def _epoch(self) -> dict[str, float]:
        state = self.state
        order = np.random.default_rng([self.seed, state.epoch]).permutation(self.split.train.rows)
        total, lr, norm = 0.0, 0.0, 0.0
        self.model.train()
        for start in range(0, len(order), self.batch):
            part = order[start : start + self.batch]
            loss, lr, norm = self._step(part)
            total += loss * len(part)
        state.epoch += 1
        with self._averaged():
            score, errors = self._validate()
        if self.recipe.keep == "last" or score < state.kept_score:
            state.kept_score, state.kept_epoch = score, state.epoch
            self.kept = _copied(self.average or self.learning)
        self._clock()
        return {
            "epoch": float(state.epoch),
            "step": float(state.step),
            "seconds": state.seconds,
            "lr": lr,
            "loss": total / len(order),
            "grad_norm": norm,
            "score": score,
            "kept_score": state.kept_score,
            **errors,
        }

    def _step(self, rows: NDArray[np.int64]) -> tuple[float, float, float]:
        """Run one optimiser step; return loss, learning rate and gradient norm."""
        state = self.state
        stream = f"{self.seed}/{state.step}" + (f"/{self.ranks.rank}" if self.ranks.rank else "")
        torch.manual_seed(stable_hash(stream))  # dropout survives a restart
        if self.recipe.max_seconds is not None:
            self._clock()
        lr = learning_rate(self.schedule, self._progress(0.5))
        set_learning_rate(self.optimiser, lr)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._loss(self.ranks.share(rows))
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.sum_gradients(self.learning.values())
        norm = float(nn.utils.clip_grad_norm_(self.learning.values(), self.recipe.clip))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite at step {state.step}: lower the learning rate {lr:g}")
        self.optimiser.step()
        state.step += 1
        decay = min(self.recipe.ema, (1.0 + state.step) / (10.0 + state.step))
        for name, average in self.average.items():
            average.lerp_(self.learning[name].detach(), 1.0 - decay)
        return float(self.ranks.summed(loss.detach())), lr, norm

    def _loss(self, rows: NDArray[np.int64]) -> Tensor:
        """This rank's summand of the loss of a batch; a constant zero if the share has no rows."""
        if len(rows):
            outputs, able = self.rows.answers(rows)
        else:
            predictors, targets = len(self.model.fusion.predictors), len(self.model.targets)
            outputs = torch.zeros(0, predictors, targets, dtype=self.model.dtype, device=self.model.device)
            able = torch.zeros(0, predictors, dtype=torch.bool, device=self.model.device)
        labels = self.rows.wanted[rows].to(outputs.device)
        return prediction_loss(outputs, able, labels, self._kind, self.ranks)

    @property
    def _kind(self) -> str:
        classification = self.model.config.task.kind == "classification"
        return "cross entropy" if classification else self.recipe.loss

    def _validate(self) -> tuple[float, dict[str, float]]:
        """Return the validation score, and the mean absolute error of each target in its unit."""
        rows = self.split.validation.rows
        scaled = self._predicted(rows)
        labels = self.rows.wanted[rows]
        kind = "cross entropy" if self._kind == "cross entropy" else "l1"
        score = float(prediction_loss(scaled[:, None], torch.ones(len(rows), 1, dtype=torch.bool), labels, kind))
        values = self.model.config.scaler.restored(scaled.double().numpy())
        errors = np.abs(values - self.split.validation.values)
        is_labelled = np.isfinite(errors)
        means = [
            float(errors[is_labelled[:, t], t].mean()) if is_labelled[:, t].any() else math.nan
            for t in range(errors.shape[1])
        ]
        return score, {f"mae/{name}": mean for name, mean in zip(self.model.targets, means, strict=True)}

    def _predicted(self, rows: NDArray[np.int64]) -> Tensor:
        """Predict (n, T); each rank computes its share."""
        mine = self.ranks.share(rows)
        none = torch.zeros(0, len(self.model.targets), dtype=self.model.dtype)
        return self.ranks.joined(self.rows.predict(mine) if len(mine) else none, len(rows))

    def _stack(self) -> None:
        """Fit the weights of the predictors, if the settings ask for it."""
        fusion = self.model.config.fusion
        if fusion.weights == "equal" or len(self.model.fusion.predictors) == 1:
            return
        rows = self.split.validation.rows
        outputs, able = self.rows.outputs(rows)
        if self.model.config.task.kind == "classification":
            outputs = outputs.sigmoid()  # what is averaged
        self.model.weights.copy_(stacking_weights(outputs, able, self.rows.wanted[rows]))

    # --- stopping ---------------------------------------------------------------------------------------------------

    def _clock(self) -> None:
        now = time.process_time()
        self.state.seconds = self.ranks.of_first(self.state.seconds + now - self.mark)
        self.mark = now

    def _progress(self, ahead: float = 0.0) -> float:
        """Fraction of the fit that is done, in epochs or in time, whichever is larger."""
        done = (self.state.step + ahead) / (self.steps * self.recipe.max_epochs)
        limit = self.recipe.max_seconds
        return done if limit is None else max(done, self.state.seconds / limit)

    def _over(self) -> Ended | None:
        state, recipe = self.state, self.recipe
        if state.epoch >= recipe.max_epochs:
            return "epochs"
        if recipe.max_seconds is not None and state.seconds >= recipe.max_seconds:
            return "seconds"
        waited = state.epoch - max(state.kept_epoch, math.ceil(recipe.warmup_epochs))
        return "patience" if state.epoch and waited >= recipe.patience else None

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in place of the current ones."""
        if not self.average:
            yield
            return
        current = _copied(self.learning)
        _put(self.learning, self.average)
        try:
            yield
        finally:
            _put(self.learning, current)

    # --- resuming ---------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        assert self.folder is not None
        weights = {name: parameter.detach() for name, parameter in self.learning.items()}
        tensors = {"weights": weights, "kept": self.kept, "average": self.average}
        flat = {f"{part}/{name}": t for part, group in tensors.items() for name, t in group.items()}
        moments = {f"optimiser/{name}": t for name, t in optimiser_tensors(self.model, self.optimiser).items()}
        save_state(self.folder, self.key, self.state, flat | moments)
        self.saved = self.state.seconds

    def _restore(self) -> None:
        if self.folder is None:
            return
        checkpoint = load_state(self.folder, self.key)
        if checkpoint is None:
            if self.ranks.first:
                forget_state(self.folder)  # belongs to another fit
            return
        self.state, tensors = checkpoint
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "kept": {}, "average": {}, "optimiser": {}}
        for path, tensor in tensors.items():
            part, _, name = path.partition("/")
            parts[part][name] = tensor.to(self.model.device)
        _put(self.learning, parts["weights"])
        self.kept, self.average = parts["kept"], parts["average"]
        restore_optimiser(self.model, self.optimiser, parts["optimiser"])


def prediction_loss(outputs: Tensor, able: Tensor, labels: Tensor, kind: str, ranks: Ranks | None = None) -> Tensor:
    """Mean over predictors of the mean loss over the labels for which the predictor has input.

    Args:
        outputs: (n, P, T) on the scale of the network.
        able: (n, P) bool.
        labels: (n, T) on that scale; NaN where not known.
        kind: `l1`, `huber` (of unit width), `mse`, or `cross entropy` of a logit.
        ranks: if given, the n rows are this rank's share, and the sum over ranks is the loss of the whole batch.
    """
    usable = torch.isfinite(labels)[:, None] & able[..., None]  # (n, P, T)
    targets = torch.nan_to_num(labels)[:, None].to(outputs.dtype).expand_as(outputs)  # (n, P, T)
    loss = torch.where(usable, LOSSES[kind](outputs, targets, reduction="none"), 0.0)
    counts = usable.sum(dim=(0, 2))  # (P,)
    counts = counts if ranks is None else ranks.summed(counts)
    means = loss.sum(dim=(0, 2)) / counts.clamp(min=1)
    mean: Tensor = means.sum() / (counts > 0).sum().clamp(min=1)
    return mean


def _copied(parameters: dict[str, nn.Parameter] | dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@torch.no_grad()
def _put(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
