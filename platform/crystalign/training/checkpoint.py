"""Checkpoints: a model directory, the optimiser state and the data cursor, verified in the object store.

    <run>/checkpoints/step-00001000/
    ├── config.json, model.safetensors, README.md, …   the model, as `crystalign.load` reads it
    ├── optimiser.safetensors                          moments of AdamW by parameter
    ├── state.json                                     step, samples, seconds and the data cursor
    └── manifest.json                                  every file with size and sha256; written last

A run resumes from its newest checkpoint whose files agree with its manifest. The manifest is written last and
deleted first, so a crash at any time leaves either a complete checkpoint or none.
"""

from __future__ import annotations

import json
import logging
import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, ModelError, VerificationError
from crystalign.model import Model
from crystalign.model_config import ModelCard
from crystalign.storage import FileEntry
from crystalign.training.loop import TrainState

MANIFEST, OPTIMISER, STATE = "manifest.json", "optimiser.safetensors", "state.json"
FOLDER = "checkpoints"
FORMAT = 1
_STEP = re.compile(rf"/{FOLDER}/step-(\d+)/(.+)$")

logger = logging.getLogger(__name__)


class CheckpointManifest(Config):
    """The content of `manifest.json`."""

    format: int
    """Version of the layout."""
    step: int
    """Number of optimiser steps done."""
    files: tuple[FileEntry, ...]
    """Every file of the checkpoint except the manifest."""
    metrics: dict[str, float] = {}
    """Metrics of this step: `loss`, `retrieval` if it was measured, and their parts."""

    @property
    def score(self) -> tuple[bool, float]:
        """The score by which checkpoints are compared; higher is better.

        It is the held-out retrieval if that was measured, and minus the loss otherwise. A checkpoint with a measured
        retrieval ranks above one without.
        """
        if "retrieval" in self.metrics:
            return True, self.metrics["retrieval"]
        return False, -self.metrics.get("loss", math.inf)


def checkpoint_uri(run_uri: str, step: int) -> str:
    """The URI of the checkpoint of a step."""
    return storage.join(run_uri, FOLDER, f"step-{step:08d}")


# --- writing ----------------------------------------------------------------------------------------------------------


def save_checkpoint(
    run_uri: str,
    model: Model,
    state: TrainState,
    card: ModelCard | None = None,
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Write the checkpoint of `state.step` and read it back.

    Args:
        run_uri: URI of the run; the checkpoint is written below it.
        model: the model with its current weights.
        state: the training state with the optimiser's tensors, as `train` passes it to `on_checkpoint`.
        card: the model card to store; by default the model's own.
        metrics: metrics of this step, by which `prune_checkpoints` ranks checkpoints.

    Returns:
        The checkpoint's URI, which is also a model directory.

    Raises:
        StorageError: the store refuses the write or does not answer.
        VerificationError: the data read back differ from what was written.
    """
    uri = checkpoint_uri(run_uri, state.step)
    files = _files(model, state, card)
    entries = tuple(storage.entry_of(path, data) for path, data in files.items())
    manifest = CheckpointManifest(format=FORMAT, step=state.step, files=entries, metrics=dict(metrics or {}))
    files[MANIFEST] = manifest.model_dump_json(indent=2).encode()
    # An existing checkpoint of this step was not valid, or the run would not have repeated the step. Delete its
    # manifest first, so that it does not look complete while its files are replaced.
    storage.delete(storage.join(uri, MANIFEST))
    with tempfile.TemporaryDirectory(prefix="crystalign-checkpoint-") as folder:
        for path, data in files.items():
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        storage.upload_directory(folder, uri, manifest=MANIFEST)
    return uri


def prune_checkpoints(run_uri: str, keep: int, newest: int | None = None) -> list[str]:
    """Delete all checkpoints but the best `keep` and the newest, each manifest first.

    Remains of interrupted uploads are deleted as well. No other process may write to the run at the same time.

    Args:
        run_uri: URI of the run.
        keep: number of best checkpoints to keep, by `CheckpointManifest.score`; of equals the newer.
        newest: the step that was just stored. Checkpoints of later steps were not valid, or the run would have
            resumed from them; they are deleted.

    Returns:
        URIs of the deleted checkpoints.
    """
    assert keep >= 1
    steps = _steps(run_uri)
    complete = sorted((step for step, has_manifest in steps.items() if has_manifest), reverse=True)
    candidates = [step for step in complete if newest is None or step <= newest]
    retained = set(candidates)
    if len(candidates) > keep:
        best = sorted(candidates, key=lambda step: (_score(checkpoint_uri(run_uri, step)), step), reverse=True)
        retained = {candidates[0], *best[:keep]}
    for step in steps:
        uri = checkpoint_uri(run_uri, step)
        if step not in retained:
            storage.delete(storage.join(uri, MANIFEST))
            storage.delete(uri)
    return [checkpoint_uri(run_uri, step) for step in complete if step not in retained]


def _files(model: Model, state: TrainState, card: ModelCard | None) -> dict[str, bytes]:
    """Path → content of every file except the manifest."""
    from safetensors.torch import save

    fields = {"step": state.step, "samples": state.samples, "seconds": state.seconds, "cursor": state.cursor}
    files = dict(model.to_files(card))
    files[OPTIMISER] = save({name: tensor.contiguous() for name, tensor in state.optimiser.items()})
    files[STATE] = json.dumps(fields, indent=2).encode()
    return files


def _score(uri: str) -> tuple[bool, float]:
    try:
        return read_manifest(uri).score
    except VerificationError:
        return False, -math.inf  # the manifest is not readable: delete this one first


# --- reading ----------------------------------------------------------------------------------------------------------


def checkpoints(run_uri: str) -> list[tuple[int, str]]:
    """(step, URI) of every checkpoint that has a manifest, newest first; not verified."""
    complete = sorted((step for step, has_manifest in _steps(run_uri).items() if has_manifest), reverse=True)
    return [(step, checkpoint_uri(run_uri, step)) for step in complete]


def read_manifest(uri: str) -> CheckpointManifest:
    """The manifest of a checkpoint.

    Raises:
        StorageError: there is no manifest, or the store does not answer.
        VerificationError: the manifest is not readable or has another format version.
    """
    data = storage.read_bytes(storage.join(uri, MANIFEST))
    try:
        manifest = CheckpointManifest.model_validate_json(data)
    except ValueError as error:
        raise VerificationError(f"the manifest of checkpoint {uri} is not readable") from error
    if manifest.format != FORMAT:
        raise VerificationError(f"checkpoint {uri} has format {manifest.format}; this version reads {FORMAT}")
    return manifest


def verify_checkpoint(uri: str) -> CheckpointManifest:
    """Read every file of a checkpoint and compare it with the manifest.

    Raises:
        StorageError: the store does not answer.
        VerificationError: a file is missing or differs from the manifest, or the manifest is not readable.
    """
    manifest = read_manifest(uri)
    for entry in manifest.files:
        storage.read_verified(uri, entry)
    return manifest


def latest_checkpoint(run_uri: str) -> str | None:
    """The newest valid checkpoint of a run. A warning names each damaged checkpoint that is skipped.

    Returns:
        Its URI; None if the run has not written a checkpoint yet.

    Raises:
        StorageError: the store does not answer; the run must then not start again from zero.
        VerificationError: there are checkpoints, but all are damaged.
    """
    available = checkpoints(run_uri)
    reasons = []
    for _, uri in available:
        try:
            verify_checkpoint(uri)
        except VerificationError as error:
            logger.warning("skipping the broken checkpoint %s: %s", uri, error)
            reasons.append(str(error))
            continue
        return uri
    if available:
        raise VerificationError(
            f"none of the {len(available)} checkpoints of {run_uri} is valid ({reasons[0]}); restore one, or delete "
            f"{storage.join(run_uri, FOLDER)} to start again"
        )
    return None


def load_checkpoint(uri: str) -> tuple[Model, TrainState]:
    """The model and the state of a checkpoint.

    Raises:
        ModelError: the model or the state does not fit this version of Crystalign.
        StorageError: the store does not answer.
        VerificationError: a file is missing or differs from the manifest, or the manifest is not readable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    manifest = read_manifest(uri)
    files = {entry.path: storage.read_verified(uri, entry) for entry in manifest.files}
    model = Model.from_files(files, origin=uri)
    try:
        fields = json.loads(files[STATE])
        state = TrainState(**fields, optimiser=load(files[OPTIMISER]))
    except (ConfigError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ModelError(f"the checkpoint at {uri} does not fit this version of Crystalign: {error}") from error
    return model, state


def _steps(run_uri: str) -> dict[int, bool]:
    """Step → whether its folder holds a manifest."""
    steps: dict[int, bool] = {}
    for uri in storage.list_files(storage.join(run_uri, FOLDER)):
        if match := _STEP.search(uri):
            step = int(match[1])
            steps[step] = steps.get(step, False) or match[2] == MANIFEST
    return steps
