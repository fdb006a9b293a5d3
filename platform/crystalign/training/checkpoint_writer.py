"""Checkpoints beside the training: a step is copied at once, written while the next ones run."""

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
    """Writes the checkpoints of a run in a thread of its own, one at a time.

    Training waits for a copy in memory, and for the checkpoint before where that is not stored yet.
    What goes wrong in the thread is raised by the next call of any method here, so that a run ends
    with the error and never goes on without its checkpoints.

    Example:
        with CheckpointWriter(run, model, keep=3) as writer:
            for batch in batches:
                writer.check()
                ...
                writer.save(model, state, card, {"loss": 0.1})
    """

    def __init__(self, run_uri: str, model: Model, *, keep: int, publish: Callable[[], None] | None = None) -> None:
        """Make room for one copy of the model in main memory.

        Args:
            run_uri: of the run.
            model: of which checkpoints will be taken.
            keep: how many of the best checkpoints stay beside the newest.
            publish: called in the thread before each checkpoint is written; what it stores is there when the run goes
                on from the checkpoint.
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
            value.add_note(str(error))  # what ended the training comes first
        finally:
            self._pool.shutdown()

    def save(
        self,
        model: Model,
        state: TrainState,
        card: ModelCard | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Copy the weights and begin to write the checkpoint of `state.step`.

        Args:
            model: its weights are copied before this returns.
            state: `state.optimiser` holds copies already, as `train` hands it to `on_checkpoint`.
            card: what the model was trained on.
            metrics: what was measured at this step.

        Raises:
            StorageError: an earlier checkpoint could not be stored.
        """
        self.flush()
        self._copy.load_state_dict(model.state_dict())
        frozen = TrainState(state.step, state.samples, state.seconds, dict(state.cursor), dict(state.optimiser))
        self._flight = self._pool.submit(self._write, frozen, card or model.card, dict(metrics or {}))

    def check(self) -> None:
        """Raise what the writing has failed with, if it has; costs nothing, so call it before each step.

        Raises:
            StorageError: a checkpoint could not be stored.
        """
        if self._flight is not None and self._flight.done():
            self.flush()

    def flush(self) -> None:
        """Wait until the last checkpoint is stored.

        Raises:
            StorageError: it could not be.
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
