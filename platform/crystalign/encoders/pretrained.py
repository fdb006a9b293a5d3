"""Encoders that may start from weights learned on another task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import nn

from crystalign.config import Config
from crystalign.encoders.encoder import Encoder, Files
from crystalign.errors import ConfigError

WEIGHTS = "pretrained.safetensors"


class Pretrainable(Encoder):
    """An encoder whose first weights are read once, before training, and travel to every rank as a file.

    A trained model holds its own weights, so the file stays behind: `restore` needs none.
    """

    class Settings(Config):
        """Where the first weights come from."""

        pretrained: str | None = None
        """Path or URI of a safetensors file of this encoder's weights, as `save_weights` makes it; None draws them."""

    @classmethod
    def prepare(cls, settings: Any, values: Sequence[Any]) -> Files:
        """Read the file.

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
        """Fresh weights, or those of the file.

        Raises:
            ConfigError: the file is missing, or holds another network's weights.
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
        """The network; the caller loads its weights."""
        return cls(settings)


def save_weights(encoder: nn.Module) -> bytes:
    """The weights as safetensors, for `pretrained`."""
    from safetensors.torch import save

    packed: bytes = save({name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()})
    return packed
