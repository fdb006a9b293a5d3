"""MatBind's crystal encoder: gated graph convolutions summed over neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from crystalign.config import Config
from crystalign.crystal import MAX_ATOMIC_NUMBER
from crystalign.encoders.crystal_graph import (
    EdgeLinear,
    GaussianBasis,
    mean_over_atoms,
    nearest_shares,
    on_sites,
    scatter_sum,
)
from crystalign.encoders.encoder import Encoder
from crystalign.encoders.graph_batch import as_inputs
from crystalign.modalities import Inputs

if TYPE_CHECKING:
    from torch_geometric.data import Batch


class MatBindGCN(Encoder):
    r"""The crystal network of MatBind (HFMI-SOL-AI/MatBind, 2025), on correct periodic edges.

    1. Sites are Σ_s x_s e_s + b, the learned vectors e of their species weighted by occupancy x: a linear layer on an
       occupancy-weighted one-hot of the elements. Edges are 41 Gaussians exp(−(d − μ_k)²/(0.2 Å)²), μ_k = 0, 0.2, …, 8
       Å.
    2. Six convolutions of PyTorch Geometric's `CGConv`, each with ReLU and LayerNorm after it: v_i ←
       LayerNorm(ReLU(v_i + Σ_j σ(W_g z_ij + b_g) ⊙ softplus(W_m z_ij + b_m))), z_ij = v_i ⊕ v_j ⊕ u_ij, over the
       twelve nearest neighbours j within 8 Å.
    3. The crystal is the mean over its sites.

    Corrections of the released code:

    - every periodic image is an edge with its own length (in the released code, all images of an atom have the length
      of the nearest, and an atom's edges to its own images have length 0)
    - equally distant neighbours share the remaining weight in the sum (`nearest_shares`), and a site with fewer than
      twelve neighbours sums over those, without edges to itself
    - 118 elements instead of 96, which adds 22 · `hidden` weights and changes nothing for the first 96
    - a crystal with one atom is normalised like any other
    """

    class Settings(Config):
        """Size of the network; the defaults are those of the released configuration."""

        hidden: int = Field(default=128, ge=4)
        """Channels C per atom, and length of the output vector."""
        layers: int = Field(default=6, ge=1)
        """Number of convolutions; each extends the receptive field by one neighbour."""
        neighbours: int = Field(default=12, ge=1)
        """Neighbours in the sum; at most the modality's `k`."""
        gaussians: int = Field(default=41, ge=2)
        """Basis functions of the distance."""
        cutoff: float = Field(default=8.0, gt=0)
        """Å; centre of the last Gaussian."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        hidden, k = settings.hidden, settings.gaussians
        self.width = hidden
        self.species = nn.Linear(MAX_ATOMIC_NUMBER, hidden)
        self.distances = GaussianBasis(0.0, settings.cutoff, k, sigma=settings.cutoff / (k - 1) / 2**0.5)
        self.convolutions = nn.ModuleList(Convolution(hidden, k) for _ in range(settings.layers))

    def forward(self, inputs: Inputs | Batch) -> Tensor:
        """(n, C) from the graph of n crystals with A atoms and E edges."""
        inputs = as_inputs(inputs)
        senders, receivers = inputs["edge_index"]  # (E,), (E,) sorted
        lengths = inputs["edge_length"]  # (E,)
        shares = nearest_shares(lengths, receivers, len(inputs["x"]), self.settings.neighbours)[:, None]  # (E, 1)
        basis = self.distances(lengths)  # (E, K)
        v = on_sites(F.pad(self.species.weight.T, (0, 0, 1, 0)), inputs) + self.species.bias  # (A, C)
        for convolution in self.convolutions:
            v = convolution(v, basis, senders, receivers, shares)  # (A, C)
        return mean_over_atoms(v, inputs)


class Convolution(nn.Module):
    """One convolution of `MatBindGCN`."""

    def __init__(self, hidden: int, gaussians: int) -> None:
        super().__init__()
        self.edge = EdgeLinear(hidden, gaussians, 2 * hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, v: Tensor, basis: Tensor, senders: Tensor, receivers: Tensor, shares: Tensor) -> Tensor:
        """(A, C) updated atoms."""
        gate, message = self.edge.on_edges(v, basis, senders, receivers).chunk(2, dim=1)  # (E, C) each
        gated = torch.sigmoid(gate) * F.softplus(message) * shares
        updated: Tensor = self.norm(F.relu(v + scatter_sum(gated.to(v.dtype), receivers, len(v))))
        return updated
