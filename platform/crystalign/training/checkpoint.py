"""Checkpoints: a model directory, the optimiser and the cursor, in the object store, verified.

    <run>/checkpoints/step-00001000/
    ├── config.json, model.safetensors, README.md, …   a model: `crystalign.load` reads it
    ├── optimiser.safetensors                          moments of AdamW by parameter
    ├── state.json                                     step, samples, seconds and the data's cursor
    └── manifest.json                                  every file with size and sha256; written last

The newest checkpoint whose files are what its manifest says is the truth about a run. A manifest
is the last thing that is written and the first that is deleted, so a crash between any two writes
leaves either a whole checkpoint or none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, ModelError, StorageError, VerificationError
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
    """Optimiser steps done."""
    files: tuple[FileEntry, ...]
    """Every other file."""
    metrics: dict[str, float] = {}
    """What was measured at this step: `loss`, `retrieval` where it was, and their parts."""

    @property
    def score(self) -> tuple[bool, float]:
        """What checkpoints are compared by, higher is better: the held-out retrieval, and the loss where it is unknown.

        A checkpoint whose retrieval was measured is preferred to one of which only the loss is known.
        """
        if "retrieval" in self.metrics:
            return True, self.metrics["retrieval"]
        return False, -self.metrics.get("loss", math.inf)


def checkpoint_uri(run_uri: str, step: int) -> str:
    """Where the checkpoint of a step lies."""
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
        run_uri: of the run; the checkpoint lies under it.
        model: its weights as they are.
        state: with the optimiser's tensors, as `train` hands it to `on_checkpoint`.
        card: what the model was trained on; by default the model's own.
        metrics: what was measured at this step; `prune_checkpoints` goes by it.

    Returns:
        The checkpoint's URI, a model directory.

    Raises:
        StorageError: the store refuses or does not answer.
        VerificationError: what the store holds is not what was written.
    """
    uri = checkpoint_uri(run_uri, state.step)
    files = _files(model, state, card)
    entries = tuple(
        FileEntry(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in files.items()
    )
    manifest = CheckpointManifest(format=FORMAT, step=state.step, files=entries, metrics=dict(metrics or {}))
    files[MANIFEST] = manifest.model_dump_json(indent=2).encode()
    # One that is there did not verify, or the run would not be at this step again: it must not seem whole meanwhile.
    storage.delete(storage.join(uri, MANIFEST))
    with tempfile.TemporaryDirectory(prefix="crystalign-checkpoint-") as folder:
        for path, data in files.items():
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        storage.upload_directory(folder, uri, manifest=MANIFEST)
    return uri


def prune_checkpoints(run_uri: str, keep: int, newest: int | None = None) -> list[str]:
    """Delete all but the best `keep` checkpoints and the newest, each manifest first.

    What an upload that broke off left behind goes too. Nothing may be writing to the run meanwhile.

    Args:
        run_uri: of the run.
        keep: how many of the best stay, by `CheckpointManifest.score`; of equals the newer.
        newest: the step that was just stored. Those of later steps did not verify, or the run would be beyond them:
            they go.

    Returns:
        URIs of the checkpoints that were deleted.
    """
    assert keep >= 1
    steps = _steps(run_uri)
    whole = sorted((step for step, complete in steps.items() if complete), reverse=True)
    able = [step for step in whole if newest is None or step <= newest]
    kept = set(able)
    if len(able) > keep:
        best = sorted(able, key=lambda step: (_score(checkpoint_uri(run_uri, step)), step), reverse=True)
        kept = {able[0], *best[:keep]}
    for step in steps:
        uri = checkpoint_uri(run_uri, step)
        if step not in kept:
            storage.delete(storage.join(uri, MANIFEST))
            storage.delete(uri)
    return [checkpoint_uri(run_uri, step) for step in whole if step not in kept]


def _files(model: Model, state: TrainState, card: ModelCard | None) -> dict[str, bytes]:
    """Everything but the manifest."""
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
        return False, -math.inf  # not readable as a manifest: the first to go


# --- reading ----------------------------------------------------------------------------------------------------------


def checkpoints(run_uri: str) -> list[tuple[int, str]]:
    """(step, URI) of every checkpoint that has a manifest, newest first; not verified."""
    whole = sorted((step for step, complete in _steps(run_uri).items() if complete), reverse=True)
    return [(step, checkpoint_uri(run_uri, step)) for step in whole]


def read_manifest(uri: str) -> CheckpointManifest:
    """The manifest of a checkpoint.

    Raises:
        StorageError: there is none.
        VerificationError: it is not readable, or of another version.
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
        VerificationError: a file is missing or is not what the manifest says, or the manifest is not one.
    """
    manifest = read_manifest(uri)
    for entry in manifest.files:
        _read_verified(uri, entry)
    return manifest


def latest_checkpoint(run_uri: str) -> str | None:
    """The newest checkpoint of a run that verifies; one that does not is named in a warning and passed over.

    Returns:
        Its URI; None where the run has not written one yet.

    Raises:
        StorageError: the store does not answer. A run that cannot see its checkpoints must not start again at zero.
        VerificationError: there are checkpoints, and none is whole.
    """
    found = checkpoints(run_uri)
    reasons = []
    for _, uri in found:
        try:
            verify_checkpoint(uri)
        except VerificationError as error:
            logger.warning("skipping the broken checkpoint %s: %s", uri, error)
            reasons.append(str(error))
            continue
        return uri
    if found:
        raise VerificationError(
            f"none of the {len(found)} checkpoints of {run_uri} is whole ({reasons[0]}); restore one, or delete "
            f"{storage.join(run_uri, FOLDER)} to start again"
        )
    return None


def load_checkpoint(uri: str) -> tuple[Model, TrainState]:
    """The model and the state of a checkpoint.

    Raises:
        ModelError: the model or the state cannot be used.
        StorageError: the store does not answer.
        VerificationError: a file is missing or is not what the manifest says, or the manifest is not one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    manifest = read_manifest(uri)
    files = {entry.path: _read_verified(uri, entry) for entry in manifest.files}
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


def _read_verified(uri: str, entry: FileEntry) -> bytes:
    place = storage.join(uri, *entry.path.split("/"))
    try:
        data = storage.read_bytes(place)
    except StorageError as error:
        if storage.exists(place):  # or the store does not answer this either
            raise
        raise VerificationError(f"{entry.path} of checkpoint {uri} is missing") from error
    if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise VerificationError(f"{entry.path} of checkpoint {uri} is not what its manifest says")
    return data
