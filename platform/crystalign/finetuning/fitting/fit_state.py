"""What a fit needs to go on where it was killed: one file of tensors, and one that says it is whole.

Importing this imports no torch.
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
"""In a trial's folder."""
STATE, STOP = "state.json", "stop.json"
"""The state; and a file by which whoever runs a fit may remember that it is to end, which goes with the state."""

logger = logging.getLogger(__name__)


@dataclass
class FitState:
    """Where a fit is, besides its tensors."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Optimiser steps done."""
    seconds: float = 0.0
    """Processor time, restarts included."""
    kept_epoch: int = 0
    """The one whose weights are kept, counted from 1."""
    kept_score: float = float("inf")
    """Its score."""


def save_state(folder: str, key: str, state: FitState, tensors: dict[str, Tensor]) -> None:
    """Write a state; `state.json`, which names the tensors by their sha256, changes from one to the next at once."""
    from safetensors.torch import save

    data = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    name = f"epoch-{state.epoch:06d}.safetensors"
    storage.write_bytes(storage.join(folder, name), data)
    described = {"key": key, "tensors": name, "sha256": Fingerprint.of(data).sha256, "state": asdict(state)}
    storage.write_bytes(storage.join(folder, STATE), json.dumps(described, indent=2).encode())
    for place in _tensor_files(folder):
        if not place.endswith(f"/{name}"):
            storage.delete(place)


def forget_state(folder: str) -> None:
    """Delete a state, and what was said of its fit; other files stay."""
    for place in (storage.join(folder, STATE), storage.join(folder, STOP), *_tensor_files(folder)):
        storage.delete(place)


def _tensor_files(folder: str) -> list[str]:
    """URIs of the files of tensors in a folder, whichever fit wrote them."""
    names = storage.list_names(folder)
    return [storage.join(folder, name) for name in names if re.fullmatch(r"epoch-\d{6}\.safetensors", name)]


def load_state(folder: str, key: str) -> tuple[FitState, dict[str, Tensor]] | None:
    """The last whole state of a trial; None where there is none, or where it is another trial's or broken."""
    from safetensors.torch import load

    place = storage.join(folder, STATE)
    if not storage.exists(place):
        return None
    try:
        described = json.loads(storage.read_bytes(place))
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
