"""Checkpoints in the background: the weights are copied at once and written while training continues."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from crystalign.errors import StorageError
from crystalign.model import Model
from crystalign.model_config import ModelCard
from crystalign.training.checkpoint import prune_checkpoints, save_checkpoint
from crystalign.training.loop import TrainState


class CheckpointWriter:
    """Writes the checkpoints of a run in a background thread, one at a time.

    Training waits for the copy in memory, and for the previous checkpoint if that is not stored yet. An error in the
    thread is raised by the next call of any method of this class, so a run stops if its checkpoints cannot be stored.

    Example:
        with CheckpointWriter(run, model, keep=3) as writer:
            for batch in batches:
                writer.check()
                ...
                writer.save(model, state, card, {"loss": 0.1})
    """

    def __init__(self, run_uri: str, model: Model, *, keep: int, publish: Callable[[], None] | None = None) -> None:
        """Reserve main memory for one copy of the model.

        Args:
            run_uri: URI of the run.
            model: the model that will be saved.
            keep: number of best checkpoints to keep besides the newest.
            publish: called in the thread before each checkpoint is written, for data such as metrics that must be
                stored when a run resumes from the checkpoint.
        """
        self._run, self._keep, self._publish = run_uri, keep, publish
        self._copy = copy.deepcopy(model).cpu()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._flight: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
        except StorageError as error:
            if value is None:
                raise
            value.add_note(str(error))  # the error that ended the training is the one to raise
        finally:
            self._pool.shutdown()

    def save(
        self,
        model: Model,
        state: TrainState,
        card: ModelCard | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Copy the weights and start writing the checkpoint of `state.step`.

        Args:
            model: its weights are copied before this returns.
            state: `state.optimiser` must hold copies, as `train` passes it to `on_checkpoint`.
            card: the model card to store; by default the model's own.
            metrics: metrics of this step.

        Raises:
            StorageError: an earlier checkpoint could not be stored.
        """
        self.flush()
        self._copy.load_state_dict(model.state_dict())
        frozen = TrainState(state.step, state.samples, state.seconds, dict(state.cursor), dict(state.optimiser))
        self._flight = self._pool.submit(self._write, frozen, card or model.card, dict(metrics or {}))

    def check(self) -> None:
        """Raise the error of a failed write, if there is one. The call is cheap; call it before each step.

        Raises:
            StorageError: a checkpoint could not be stored.
        """
        if self._flight is not None and self._flight.done():
            self.flush()

    def flush(self) -> None:
        """Wait until the last checkpoint is stored.

        Raises:
            StorageError: it could not be stored.
        """
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.result()

    def _write(self, state: TrainState, card: ModelCard, metrics: dict[str, float]) -> None:
        if self._publish is not None:
            self._publish()
        try:
            save_checkpoint(self._run, self._copy, state, card, metrics)
            prune_checkpoints(self._run, self._keep, newest=state.step)
        except StorageError as error:
            raise type(error)(f"the checkpoint of step {state.step} could not be stored: {error}") from error
