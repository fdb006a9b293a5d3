"""Encoders that can start from weights trained on another task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import nn

from crystalign.config import Config
from crystalign.encoders.encoder import Encoder, Files
from crystalign.errors import ConfigError

WEIGHTS = "pretrained.safetensors"


class Pretrainable(Encoder):
    """Encoder whose initial weights are read once before training and sent to every rank as a file.

    A trained model contains its own weights, so `restore` does not need the file.
    """

    class Settings(Config):
        """Source of the initial weights."""

        pretrained: str | None = None
        """Path or URI of a safetensors file as `save_weights` writes it; None for random initial weights."""

    @classmethod
    def prepare(cls, settings: Any, values: Sequence[Any]) -> Files:
        """Read the file of initial weights.

        Raises:
            ConfigError: no such file.
        """
        if settings.pretrained is None:
            return super().prepare(settings, values)
        from crystalign import storage
        from crystalign.errors import StorageError

        try:
            return {WEIGHTS: storage.read_bytes(settings.pretrained)}
        except StorageError as error:
            message = f"no pre-trained weights at {settings.pretrained!r}: {error}"
            raise ConfigError(message) from error

    @classmethod
    def build(cls, settings: Any, files: Files) -> Self:
        """Make the encoder with fresh weights, or those of the file.

        Raises:
            ConfigError: the file is missing, or holds the weights of another network.
        """
        encoder = cls(settings)
        if settings.pretrained is None:
            return encoder
        if WEIGHTS not in files:
            message = f"the weights of {settings.pretrained!r} were not read: make them with `crystalign.model.prepare`"
            raise ConfigError(message)
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            encoder.load_state_dict(load(files[WEIGHTS]))
        except (RuntimeError, SafetensorError) as error:
            message = f"{settings.pretrained!r} does not hold weights of this network at these settings: {error}"
            raise ConfigError(message) from error
        return encoder

    @classmethod
    def restore(cls, settings: Any, files: Files) -> Self:  # noqa: ARG003
        """Make the network without initial weights; the caller loads them."""
        return cls(settings)


def save_weights(encoder: nn.Module) -> bytes:
    """Save the weights as safetensors, for use as `pretrained`."""
    from safetensors.torch import save

    packed: bytes = save({name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()})
    return packed
