"""Checkpoint of a fit: a file of tensors, and a file that marks it as complete.

Importing this module does not import torch.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from crystalign import storage
from crystalign.checksums import Fingerprint
from crystalign.errors import StorageError

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "state"
"""Name of the folder in a trial's folder."""
STATE, STOP = "state.json", "stop.json"
"""The state; and a file by which whoever runs a fit may remember that it is to end, which goes with the state."""

logger = logging.getLogger(__name__)


@dataclass
class FitState:
    """Progress of a fit, besides its tensors."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Optimiser steps done."""
    seconds: float = 0.0
    """CPU time in seconds, including restarts."""
    kept_epoch: int = 0
    """Epoch whose weights are kept, counted from 1."""
    kept_score: float = float("inf")
    """Validation score of that epoch."""


def save_state(folder: str, key: str, state: FitState, tensors: dict[str, Tensor]) -> None:
    """Write a state; `state.json`, which names the tensors by their sha256, is replaced atomically."""
    from safetensors.torch import save

    data = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    name = f"epoch-{state.epoch:06d}.safetensors"
    storage.write_bytes(storage.join(folder, name), data)
    described = {"key": key, "tensors": name, "sha256": Fingerprint.of(data).sha256, "state": asdict(state)}
    storage.write_bytes(storage.join(folder, STATE), json.dumps(described, indent=2).encode())
    for uri in _tensor_files(folder):
        if not uri.endswith(f"/{name}"):
            storage.delete(uri)


def forget_state(folder: str) -> None:
    """Delete a state and the stop file of its fit; other files are kept."""
    for uri in (storage.join(folder, STATE), storage.join(folder, STOP), *_tensor_files(folder)):
        storage.delete(uri)


def _tensor_files(folder: str) -> list[str]:
    """URIs of all tensor files in a folder."""
    names = storage.list_names(folder)
    return [storage.join(folder, name) for name in names if re.fullmatch(r"epoch-\d{6}\.safetensors", name)]


def load_state(folder: str, key: str) -> tuple[FitState, dict[str, Tensor]] | None:
    """Load the last complete state of a trial; None if there is none, or it is broken or belongs to another trial."""
    from safetensors.torch import load

    state_uri = storage.join(folder, STATE)
    if not storage.exists(state_uri):
        return None
    try:
        described = json.loads(storage.read_bytes(state_uri))
        data = storage.read_bytes(storage.join(folder, described["tensors"]))
        whole = described["key"] == key and not Fingerprint.of(data).difference(described["sha256"])
        state = FitState(**described["state"])
    except (StorageError, ValueError, KeyError, TypeError) as error:
        logger.warning("the state in %s cannot be read, the fit starts again: %s", folder, error)
        return None
    if not whole:
        logger.warning("the state in %s is another trial's, or not whole: the fit starts again", folder)
        return None
    tensors: dict[str, Tensor] = load(data)
    return state, tensors
