"""Vision transformer over an image."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from crystalign.encoders.vision import Vision
from crystalign.errors import ConfigError
from crystalign.modalities import Inputs


class ViT(Vision):
    """Attention between patches of an image (Dosovitskiy et al., ICLR 2021, arXiv:2010.11929).

    The default pooling is the mean over patches, because the class token of a fresh network hardly depends on the
    image. A published network was trained with one pooling and one image size: set `pooling`, and the modality's
    `size`, `mean` and `std`, to the same values.
    """

    family: ClassVar[str] = "vit"

    class Settings(Vision.Settings):
        """Size of the network if it is trained from scratch."""

        size: int = Field(default=64, ge=8)
        """Pixels along one side of the image; equal to the modality's `size`."""
        patch: int = Field(default=8, ge=2)
        """Pixels along one side of a patch; `size` must be a multiple."""
        hidden: int = Field(default=192, ge=8)
        """Channels per patch."""
        layers: int = Field(default=4, ge=1)
        """Transformer layers."""
        heads: int = Field(default=3, ge=1)
        """Attention heads; `hidden` must be a multiple."""
        expansion: int = Field(default=4, ge=1)
        """Channels of the inner layer, in units of `hidden`."""
        pooling: Literal["cls", "mean"] = "mean"
        """Pooling: the class token, or the mean over patches."""
        dropout: float = Field(default=0.0, ge=0, lt=1)
        """Dropout probability in training."""

    settings: Settings

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.network.pooler = None  # the pooler is a head for another task; its weights would never be trained
        self.width = int(self.network.config.hidden_size)

    def forward(self, inputs: Inputs) -> Tensor:
        """(n, width) from `pixels` (n, 3, S, S)."""
        side, expected = inputs["pixels"].shape[-1], self.network.config.image_size
        if side != expected:
            raise ConfigError(f"the vision transformer reads {expected} pixels, the modality sends {side}: set `size`")
        states = self.states(inputs)  # (n, 1 + T, C), the class token first
        return states[:, 0] if self.settings.pooling == "cls" else states[:, 1:].mean(dim=1)

    @classmethod
    def describe(cls, settings: Any) -> dict[str, Any]:
        """Return the settings as fields of `transformers.ViTConfig`.

        Raises:
            ConfigError: `size` is not a multiple of `patch`, or `hidden` not a multiple of `heads`.
        """
        if settings.size % settings.patch or settings.hidden % settings.heads:
            raise ConfigError(
                f"patch {settings.patch} must divide size {settings.size}, "
                f"and heads {settings.heads} must divide hidden {settings.hidden}"
            )
        return {
            "image_size": settings.size,
            "patch_size": settings.patch,
            "hidden_size": settings.hidden,
            "num_hidden_layers": settings.layers,
            "num_attention_heads": settings.heads,
            "intermediate_size": settings.expansion * settings.hidden,
            "hidden_dropout_prob": settings.dropout,
            "attention_probs_dropout_prob": settings.dropout,
        }
