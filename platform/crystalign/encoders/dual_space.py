"""Crystal encoder in direct and reciprocal space: bonds from the graph, the lattice from reciprocal spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn

from crystalign.config import Config
from crystalign.encoders.encoder import Encoder
from crystalign.encoders.gated_graph import GatedGraph
from crystalign.encoders.graph_batch import as_inputs
from crystalign.errors import ConfigError
from crystalign.modalities import Inputs

if TYPE_CHECKING:
    from torch_geometric.data import Batch


class DualSpace(Encoder):
    """`GatedGraph` beside a network over the crystal's reciprocal spectra.

    A graph of neighbours within a few Å does not determine the lattice: structures with the same bonds but different
    periods look alike. The spectra of `crystalign.physics.reciprocal` contain the periods and, like the graph, do not
    depend on the choice of cell, origin or orientation.
    """

    class Settings(Config):
        """Size of the network."""

        direct: GatedGraph.Settings = GatedGraph.Settings()
        """Settings of the graph network."""
        bins: int = Field(default=256, ge=1)
        """Points of each spectrum; equal to the modality's `reciprocal_bins`."""
        hidden: int = Field(default=512, ge=4)
        """Width of the hidden layer over both spectra."""
        width: int = Field(default=256, ge=4)
        """Length of the crystal's vector."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.width = settings.width
        self.direct = GatedGraph(settings.direct)
        self.reciprocal = nn.Sequential(
            nn.Linear(2 * settings.bins, settings.hidden),
            nn.GELU(),
            nn.Linear(settings.hidden, settings.width),
            nn.GELU(),
        )
        self.head = nn.Linear(self.direct.width + settings.width, settings.width)

    def forward(self, inputs: Inputs | Batch) -> Tensor:
        """(n, width) from the graph and `reciprocal` (n, 2, bins)."""
        inputs = as_inputs(inputs)
        spectra = inputs.get("reciprocal")
        if spectra is None or spectra.shape[-1] != self.settings.bins:
            points = 0 if spectra is None else spectra.shape[-1]
            raise ConfigError(
                f"{points} points of reciprocal space, expected {self.settings.bins}: set reciprocal_bins"
            )
        vectors: Tensor = self.head(torch.cat([self.direct(inputs), self.reciprocal(spectra.flatten(1))], dim=1))
        return vectors
