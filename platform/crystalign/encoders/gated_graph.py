"""Gated convolutions over a crystal's atoms and their periodic neighbours, after CGCNN."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from crystalign.config import Config
from crystalign.crystal import MAX_ATOMIC_NUMBER
from crystalign.encoders.crystal_graph import DEGREES, GaussianBasis, harmonics, max_over_atoms, on_sites, scatter_sum
from crystalign.encoders.elements import WIDTH, element_features
from crystalign.encoders.encoder import Encoder
from crystalign.encoders.graph_batch import as_inputs
from crystalign.errors import ConfigError
from crystalign.modalities import Inputs

if TYPE_CHECKING:
    from torch_geometric.data import Batch


class GatedGraph(Encoder):
    r"""A graph network after CGCNN (Xie & Grossman, Phys. Rev. Lett. 120, 145301 (2018)), not the published one.

    1. Atom i starts as a vector of its element: a linear map of its properties (`element_features`) plus a learned
       correction. A mixed site starts as the occupancy-weighted sum. Edge (i, j) of length d is expanded in Gaussians
       of d.
    2. Each convolution adds the mean over neighbours of a gated message (eq. 5 of the paper):
       v_i ← v_i + 1/|N_i| Σ_j σ(W_g z_ij) ⊙ SiLU(W_m z_ij),  z_ij = LayerNorm(v)_i ⊕ LayerNorm(v)_j ⊕ u_ij.
       W z_ij is computed as W_i v_i + W_j v_j + W_u u_ij: matrices act on atoms, not on edges.
    3. With `angular` channels, an atom also encodes bond angles between its neighbours: for the first channels of the
    gated messages g_ij, p_il = (Σ_m |1/|N_i| Σ_j g_ij Y_lm(r_ij)|²)^½, l = 1 … 4. By the addition
       theorem p_il² = 1/|N_i|² Σ_jk g_ij g_ik P_l(cos θ_jk): all angles at the cost of edges, no triples.
    4. The crystal is the mean and the maximum over its atoms, beside the volume per atom.

    Differences from CGCNN (`crystalign.encoders.cgcnn`), each for a reason: LayerNorm before a convolution, since
    BatchNorm ties samples together; the mean over neighbours, so that complete shells of 12 or of 18 count alike; SiLU
    for softplus (cheaper, equal in quality); element vectors that may deviate from the table. Nothing depends on the
    number of atoms in the cell: any supercell and any choice of lattice give the same vector.
    """

    class Settings(Config):
        """Size of the network."""

        hidden: int = Field(default=64, ge=4)
        """Channels per atom."""
        layers: int = Field(default=3, ge=1)
        """Number of convolutions; each extends the receptive field by one neighbour."""
        gaussians: int = Field(default=40, ge=2)
        """Basis functions of the distance."""
        cutoff: float = Field(default=8.0, gt=0)
        """Å; centre of the last Gaussian. Longer edges, which occur at isolated sites, are clamped to this length."""
        angular: int = Field(default=0, ge=0)
        """Channels of an atom's angular environment, at most `hidden`; 0 for distances only."""
        width: int = Field(default=256, ge=4)
        """Length of the crystal's vector."""

    settings: Settings
    features: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        hidden = settings.hidden
        self.width = settings.width
        self.register_buffer("features", torch.from_numpy(element_features().copy()), persistent=False)  # (Z, 92)
        self.tabulated = nn.Linear(WIDTH, hidden)
        self.elements = nn.Parameter(0.1 * torch.randn(MAX_ATOMIC_NUMBER + 1, hidden))
        self.distances = GaussianBasis(0.5, settings.cutoff, settings.gaussians)
        self.densities = GaussianBasis(1.5, 5.0, 24)  # log of Å³/atom: 4.5 (diamond) to 150 (molecular crystals)
        if settings.angular > hidden:
            raise ConfigError(f"angular {settings.angular} exceeds hidden {hidden}: lower it")
        self.convolutions = nn.ModuleList(
            GatedConvolution(hidden, settings.gaussians, settings.angular) for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Sequential(nn.Linear(3 * hidden + 24, settings.width), nn.SiLU())

    def forward(self, inputs: Inputs | Batch) -> Tensor:
        """(n, width) from the graph of n crystals with A atoms and E edges."""
        inputs = as_inputs(inputs)
        senders, receivers = inputs["edge_index"]  # (E,), (E,) sorted
        n, owner = len(inputs["n_atoms"]), inputs["batch"]  # (A,)
        per_atom = 1.0 / inputs["n_atoms"].to(inputs["volume"].dtype)  # (n,)
        start = on_sites(self.tabulated(self.features) + self.elements, inputs)  # (A, C)
        lengths = inputs["edge_length"].clamp(max=self.settings.cutoff)
        basis = self.distances(lengths)  # (E, K)
        degree = torch.bincount(receivers, minlength=len(owner)).clamp(min=1)  # (A,)
        weight = (1.0 / degree.to(basis.dtype))[:, None]  # (A, 1)
        directions = self._directions(inputs)  # (E, 24) or None
        v = start
        for convolution in self.convolutions:
            v = convolution(v, basis, directions, senders, receivers, weight)  # (A, C)
        v = self.norm(v)
        mean = v.new_zeros(n, v.shape[1]).index_add(0, owner, v) * per_atom[:, None]  # (n, C)
        first = start.new_zeros(n, v.shape[1]).index_add(0, owner, start) * per_atom[:, None]  # (n, C)
        largest = max_over_atoms(v, inputs)  # (n, C)
        density = self.densities((inputs["volume"] * per_atom).log().clamp(1.5, 5.0))  # (n, 24)
        pooled: Tensor = self.head(torch.cat([mean, largest, first, density], dim=1))  # (n, width)
        return pooled

    def _directions(self, inputs: Inputs) -> Tensor | None:
        if not self.settings.angular:
            return None
        return harmonics(inputs["edge_vector"] / inputs["edge_length"].clamp(min=1e-3)[:, None])


class GatedConvolution(nn.Module):
    """One convolution of `GatedGraph`."""

    def __init__(self, hidden: int, gaussians: int, angular: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.receiver = nn.Linear(hidden, 2 * hidden)
        self.sender = nn.Linear(hidden, 2 * hidden, bias=False)
        self.edge = nn.Linear(gaussians, 2 * hidden, bias=False)
        self.angular = angular
        self.out = nn.Linear(hidden + len(DEGREES) * angular, hidden)

    def forward(
        self,
        v: Tensor,
        basis: Tensor,
        directions: Tensor | None,
        senders: Tensor,
        receivers: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """(A, C) updated atoms."""
        h = self.norm(v)  # (A, C)
        z = self.edge(basis)  # (E, 2C)
        z = z + self.receiver(h).index_select(0, receivers)
        z = z + self.sender(h).index_select(0, senders)
        gate, message = z.chunk(2, dim=1)  # (E, C) each
        gated = torch.sigmoid(gate) * F.silu(message)
        summed = scatter_sum(gated, receivers, len(v))  # (A, C)
        seen = summed * weight
        if directions is not None:
            seen = torch.cat([seen, self._angles(gated, directions, receivers, weight)], dim=1)
        updated: Tensor = v + self.out(seen)
        return updated

    def _angles(self, gated: Tensor, directions: Tensor, receivers: Tensor, weight: Tensor) -> Tensor:
        """(A, 4 · angular) lengths of each degree's moments."""
        edges = (gated[:, : self.angular, None] * directions[:, None]).flatten(1)  # (E, angular · 24)
        moments = scatter_sum(edges, receivers, len(weight)) * weight
        squares = moments.view(len(weight), self.angular, -1).square()  # (A, angular, 24)
        sizes = [2 * degree + 1 for degree in DEGREES]
        sums = [part.sum(dim=2) for part in torch.split(squares, sizes, dim=2)]
        return (torch.cat(sums, dim=1) + 1e-6).sqrt()  # the root of 0 has no slope
