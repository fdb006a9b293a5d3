"""CGCNN as published: gated convolutions over the twelve nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from crystalign.config import Config
from crystalign.encoders.crystal_graph import (
    EdgeLinear,
    GaussianBasis,
    mean_over_atoms,
    nearest_shares,
    on_sites,
    scatter_sum,
)
from crystalign.encoders.elements import WIDTH, element_features
from crystalign.encoders.encoder import Encoder
from crystalign.encoders.graph_batch import as_inputs
from crystalign.modalities import Inputs

if TYPE_CHECKING:
    from torch_geometric.data import Batch


class CGCNN(Encoder):
    r"""Crystal graph convolutional network (Xie & Grossman, Phys. Rev. Lett. 120, 145301 (2018)).

    1. Atoms are 92 bins of elemental properties (`element_features`), mapped to C channels; edges
       41 Gaussians exp(−(d − μ_k)²/(0.2 Å)²), μ_k = 0, 0.2, …, 8 Å.
    2. Convolutions (eq. 5): v_i ← softplus(v_i + norm(Σ_j σ(z_ij^g) ⊙ softplus(z_ij^m))) with z_ij = norm(W (v_i ⊕ v_j
       ⊕ u_ij) + b) over the twelve nearest neighbours j within 8 Å.
    3. The crystal: the mean over its atoms, softplus, one linear layer to `width`, softplus. With
       `mlp`, the head of CLaSP in its place (Suzuki et al., Mach. Learn.: Sci. Technol. 6, 035006
       (2025)): linear, norm, ReLU, `mlp` times linear, ReLU, norm, and a linear layer at the end.

    The last layer of the published network, which predicts one number with 129 parameters, is left out. Two things
    differ, because there the published output depends on more than the crystal:

    - norm is LayerNorm over channels instead of BatchNorm over the batch, with the same number of weights
    - the sum over twelve neighbours never cuts a shell: equally distant neighbours share the remaining weight
      (`nearest_shares`), whereas the published code keeps those that come first. A site with fewer than twelve
      neighbours within 8 Å sums over those, whereas the published code adds edges of 9 Å to the first atom
    """

    class Settings(Config):
        """Size of the network; the defaults are those of the paper."""

        hidden: int = Field(default=64, ge=4)
        """Channels C per atom."""
        layers: int = Field(default=3, ge=1)
        """Number of convolutions; each extends the receptive field by one neighbour."""
        neighbours: int = Field(default=12, ge=1)
        """Neighbours in the sum; at most the modality's `k`."""
        gaussians: int = Field(default=41, ge=2)
        """Number of basis functions of the distance."""
        cutoff: float = Field(default=8.0, gt=0)
        """Å; centre of the last Gaussian of the distance."""
        width: int = Field(default=128, ge=4)
        """Length of the crystal's vector."""
        mlp: int = Field(default=0, ge=0)
        """Hidden layers of CLaSP's head; 0 is the paper's single layer."""

    settings: Settings
    features: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        hidden, k = settings.hidden, settings.gaussians
        self.width = settings.width
        self.register_buffer("features", torch.from_numpy(element_features().copy()))  # (Z, 92)
        self.atoms = nn.Linear(WIDTH, hidden)
        self.distances = GaussianBasis(0.0, settings.cutoff, k, sigma=settings.cutoff / (k - 1) / 2**0.5)
        self.convolutions = nn.ModuleList(Convolution(hidden, k) for _ in range(settings.layers))
        self.head = _clasp_head(settings) if settings.mlp else _paper_head(settings)

    def forward(self, inputs: Inputs | Batch) -> Tensor:
        """(n, width) from the graph of n crystals with A atoms and E edges."""
        inputs = as_inputs(inputs)
        senders, receivers = inputs["edge_index"]  # (E,), (E,) sorted
        lengths = inputs["edge_length"]  # (E,)
        shares = nearest_shares(lengths, receivers, len(inputs["x"]), self.settings.neighbours)[:, None]  # (E, 1)
        basis = self.distances(lengths)  # (E, K)
        v = on_sites(F.linear(self.features, self.atoms.weight), inputs) + self.atoms.bias  # (A, C)
        for convolution in self.convolutions:
            v = convolution(v, basis, senders, receivers, shares)  # (A, C)
        vectors: Tensor = self.head(mean_over_atoms(v, inputs))  # (n, width)
        return vectors


class Convolution(nn.Module):
    """One convolution of `CGCNN`."""

    def __init__(self, hidden: int, gaussians: int) -> None:
        super().__init__()
        self.edge = EdgeLinear(hidden, gaussians, 2 * hidden)
        self.edge_norm = nn.LayerNorm(2 * hidden)
        self.sum_norm = nn.LayerNorm(hidden)

    def forward(self, v: Tensor, basis: Tensor, senders: Tensor, receivers: Tensor, shares: Tensor) -> Tensor:
        """(A, C) updated atoms."""
        z = self.edge_norm(self.edge.on_edges(v, basis, senders, receivers))  # (E, 2C)
        gate, message = z.chunk(2, dim=1)  # (E, C) each
        gated = torch.sigmoid(gate) * F.softplus(message) * shares
        summed = scatter_sum(gated, receivers, len(v))  # (A, C)
        updated: Tensor = F.softplus(v + self.sum_norm(summed))
        return updated


def _paper_head(settings: CGCNN.Settings) -> nn.Sequential:
    return nn.Sequential(nn.Softplus(), nn.Linear(settings.hidden, settings.width), nn.Softplus())


def _clasp_head(settings: CGCNN.Settings) -> nn.Sequential:
    width = settings.width
    layers: list[nn.Module] = [nn.Linear(settings.hidden, width), nn.LayerNorm(width), nn.ReLU()]
    for _ in range(settings.mlp):
        layers += [nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width)]
    return nn.Sequential(*layers, nn.Linear(width, width))
