"""MLP over a vector."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from crystalign.config import Config
from crystalign.encoders.encoder import Encoder
from crystalign.errors import ConfigError
from crystalign.modalities import Inputs
from crystalign.physics.descriptors import WIDTH


def mlp(width: int, layers: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them, for inputs of length `width`; identity if empty."""
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise((width, *layers)):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class VectorMLP(Encoder):
    """An MLP over a vector of fixed length, e.g. MultiMat's three layers over the embedding of a text.

    Missing elements are zero; with `missing`, the mask of known elements is a second input.
    """

    class Settings(Config):
        """Size of the network."""

        inputs: int = Field(default=WIDTH, ge=1)
        """Length of the input; equal to the modality's setting, by default that of our descriptors."""
        layers: tuple[int, ...] = Field(default=(256, 256), min_length=1)
        """Width of each layer; the last is the length of the output vector."""
        missing: bool = True
        """Whether the mask of known elements is a second input."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.width = settings.layers[-1]
        self.layers = mlp((1 + settings.missing) * settings.inputs, settings.layers)

    def forward(self, inputs: Inputs) -> Tensor:
        """(n, width) from `values` (n, W) and `mask` (n, W), 1 where known."""
        values, mask = inputs["values"], inputs["mask"]
        if values.shape[1] != self.settings.inputs:
            raise ConfigError(f"vectors of {values.shape[1]} numbers, expected {self.settings.inputs}: set `inputs`")
        masked = values * mask
        vector: Tensor = self.layers(torch.cat([masked, mask], dim=1) if self.settings.missing else masked)
        return vector
