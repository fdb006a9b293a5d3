"""Residual network over an image."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from crystalign.encoders.vision import Vision
from crystalign.errors import ConfigError
from crystalign.modalities import Inputs


class ImageResNet(Vision):
    """ResNet (He et al., CVPR 2016, arXiv:1512.03385); the image's vector is the mean over its last map.

    BatchNorm would make the samples of a batch depend on each other. A network trained from scratch therefore has
    GroupNorm instead, and a published one uses its published statistics as constants.
    """

    family: ClassVar[str] = "resnet"

    class Settings(Vision.Settings):
        """Size of the network if it is trained from scratch."""

        stem: int = Field(default=32, ge=4)
        """Channels after the first convolution, which divides the image by four."""
        channels: tuple[int, ...] = (32, 64, 128, 256)
        """Output channels of each stage; each but the first halves the image."""
        depths: tuple[int, ...] = (2, 2, 2, 2)
        """Blocks of each stage."""
        block: Literal["basic", "bottleneck"] = "basic"
        """Block type: two 3 × 3 convolutions, or a 3 × 3 between two 1 × 1 with a quarter of the channels."""

    settings: Settings

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.width = int(self.network.config.hidden_sizes[-1])

    def forward(self, inputs: Inputs) -> Tensor:
        """(n, width) from `pixels` (n, 3, S, S)."""
        return self.states(inputs).mean(dim=(2, 3))  # (n, C, H, W) → (n, C)

    @classmethod
    def describe(cls, settings: Any) -> dict[str, Any]:
        """Return the settings as fields of `transformers.ResNetConfig`.

        Raises:
            ConfigError: stages without a depth or without channels.
        """
        if len(settings.channels) != len(settings.depths) or not settings.channels:
            raise ConfigError(f"channels {settings.channels} and depths {settings.depths} must have one number a stage")
        return {
            "embedding_size": settings.stem,
            "hidden_sizes": list(settings.channels),
            "depths": list(settings.depths),
            "layer_type": settings.block,
        }
