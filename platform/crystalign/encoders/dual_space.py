"""A crystal read in direct and in reciprocal space: bonds from the one, the lattice from the other."""

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

    A graph of neighbours a few Å wide does not know the lattice: structures with the same bonds and
    other periods look alike to it. The spectra of `crystalign.physics.reciprocal` hold the periods, and
    like the graph depend on no choice of cell, origin or orientation.
    """

    class Settings(Config):
        """Size."""

        direct: GatedGraph.Settings = GatedGraph.Settings()
        """The graph network."""
        bins: int = Field(default=256, ge=1)
        """Points of each spectrum, as the modality's `reciprocal_bins`."""
        hidden: int = Field(default=512, ge=4)
        """Width of the layer that sees both spectra at once."""
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
            found = 0 if spectra is None else spectra.shape[-1]
            raise ConfigError(f"{found} points of reciprocal space, expected {self.settings.bins}: set reciprocal_bins")
        vectors: Tensor = self.head(torch.cat([self.direct(inputs), self.reciprocal(spectra.flatten(1))], dim=1))
        return vectors
