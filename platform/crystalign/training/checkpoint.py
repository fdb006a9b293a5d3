"""Checkpoints: a model directory, the optimiser and the cursor, in the object store, verified.

    <run>/checkpoints/step-00001000/
    ├── config.json, model.safetensors, README.md, …   a model: `crystalign.load` reads it
    ├── optimiser.safetensors                          moments of AdamW by parameter
    ├── state.json                                     step, samples, seconds and the data's cursor
    └── manifest.json                                  every file with size and sha256; written last

The newest checkpoint whose files are what its manifest says is the truth about a run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
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

logger = logging.getLogger(__name__)


class CheckpointManifest(Config):
    """The content of `manifest.json`."""

    format: int
    """Version of the layout."""
    step: int
    """Optimiser steps done."""
    files: tuple[FileEntry, ...]
    """Every other file."""


def checkpoint_uri(run_uri: str, step: int) -> str:
    """Where the checkpoint of a step lies."""
    return storage.join(run_uri, FOLDER, f"step-{step:08d}")


def save_checkpoint(run_uri: str, model: Model, state: TrainState, card: ModelCard | None = None) -> str:
    """Write the checkpoint of `state.step` and read it back.

    Args:
        run_uri: of the run; the checkpoint lies under it.
        model: its weights as they are.
        state: with the optimiser's tensors, as `train` hands it to `on_checkpoint`.
        card: what the model was trained on; by default the model's own.

    Returns:
        The checkpoint's URI, a model directory.

    Raises:
        VerificationError: what the store holds is not what was written.
    """
    from safetensors.torch import save

    uri = checkpoint_uri(run_uri, state.step)
    fields = {"step": state.step, "samples": state.samples, "seconds": state.seconds, "cursor": state.cursor}
    files = model.to_files(card)
    files[OPTIMISER] = save({name: tensor.contiguous() for name, tensor in state.optimiser.items()})
    files[STATE] = json.dumps(fields, indent=2).encode()
    entries = tuple(
        FileEntry(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in files.items()
    )
    manifest = CheckpointManifest(format=FORMAT, step=state.step, files=entries)
    files[MANIFEST] = manifest.model_dump_json(indent=2).encode()
    with tempfile.TemporaryDirectory(prefix="crystalign-checkpoint-") as folder:
        for path, data in files.items():
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        storage.upload_directory(folder, uri, manifest=MANIFEST)
    return uri


def checkpoints(run_uri: str) -> list[tuple[int, str]]:
    """(step, URI) of every checkpoint that has a manifest, newest first; not verified."""
    pattern = re.compile(rf"/{FOLDER}/step-(\d+)/{re.escape(MANIFEST)}$")
    folder = storage.join(run_uri, FOLDER)
    try:
        found = [match for uri in storage.list_files(folder) if (match := pattern.search(uri))]
    except StorageError as error:
        if storage.exists(folder):
            raise
        logger.debug("no checkpoints under %s: %s", run_uri, error)
        return []
    return [(step, checkpoint_uri(run_uri, step)) for step in sorted({int(m[1]) for m in found}, reverse=True)]


def verify_checkpoint(uri: str) -> CheckpointManifest:
    """Read every file of a checkpoint and compare it with the manifest.

    Raises:
        StorageError: a file is missing.
        VerificationError: a file is not what the manifest says, or the manifest is not one.
    """
    manifest = _read_manifest(uri)
    for entry in manifest.files:
        _read_verified(uri, entry)
    return manifest


def latest_checkpoint(run_uri: str) -> str | None:
    """The newest checkpoint of a run that verifies; one that does not is named in a warning and passed over."""
    for _, uri in checkpoints(run_uri):
        try:
            verify_checkpoint(uri)
        except StorageError as error:
            logger.warning("skipping the broken checkpoint %s: %s", uri, error)
            continue
        return uri
    return None


def load_checkpoint(uri: str) -> tuple[Model, TrainState]:
    """The model and the state of a checkpoint.

    Raises:
        ModelError: the model or the state cannot be used.
        StorageError: a file is missing.
        VerificationError: a file is not what the manifest says, or the manifest is not one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    manifest = _read_manifest(uri)
    files = {entry.path: _read_verified(uri, entry) for entry in manifest.files}
    model = Model.from_files(files, origin=uri)
    try:
        fields = json.loads(files[STATE])
        state = TrainState(**fields, optimiser=load(files[OPTIMISER]))
    except (ConfigError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ModelError(f"the checkpoint at {uri} does not fit this version of Crystalign: {error}") from error
    return model, state


def prune_checkpoints(run_uri: str, keep: int) -> list[str]:
    """Delete all but the newest `keep` checkpoints, manifest first, so that none is ever seen half deleted."""
    assert keep >= 1
    gone = [uri for _, uri in checkpoints(run_uri)[keep:]]
    for uri in gone:
        storage.delete(storage.join(uri, MANIFEST))
        storage.delete(uri)
    return gone


def _read_manifest(uri: str) -> CheckpointManifest:
    data = storage.read_bytes(storage.join(uri, MANIFEST))
    try:
        manifest = CheckpointManifest.model_validate_json(data)
    except ValueError as error:
        raise VerificationError(f"the manifest of checkpoint {uri} is not readable") from error
    if manifest.format != FORMAT:
        raise VerificationError(f"checkpoint {uri} has format {manifest.format}; this version reads {FORMAT}")
    return manifest


def _read_verified(uri: str, entry: FileEntry) -> bytes:
    data = storage.read_bytes(storage.join(uri, *entry.path.split("/")))
    if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise VerificationError(f"{entry.path} of checkpoint {uri} is not what its manifest says")
    return data
