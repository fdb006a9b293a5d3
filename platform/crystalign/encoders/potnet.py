"""PotNet: gated convolutions over near neighbours and over lattice sums of interatomic potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

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
from crystalign.errors import ConfigError
from crystalign.modalities import Inputs

if TYPE_CHECKING:
    from torch_geometric.data import Batch

WEIGHTS = (-0.801, -0.074, 0.145)
"""Published weights of Coulomb, r⁻⁶ and exp(−αr) in the one number that describes a pair."""
COULOMB_SCALE = 0.1
"""1/Å; nine of ten pairs in Materials Project crystals lie within twice this, a few reach thirty times as far."""
FAINTEST = 1e-8
"""Lower bounds of the r⁻⁶ (1/Å⁶) and exp(−αr) sums; weaker sums, a quarter of the latter, are clamped to these."""


class PotNet(Encoder):
    r"""Potential network (Lin et al., ICML 2023, PMLR 202), in the setting of MultiMat (Moro et al., 2025).

    1. Atoms are 92 bins of elemental properties, mapped linearly to C channels; of a mixed site the
       sum weighted by occupancy.
    2. Local edges, to the 16 nearest neighbours within 4 Å: SiLU(W·Gaussians(−0.75/d)). Complete
       edges, between all pairs: norm(softplus(W·basis(S))) of the lattice sums S of Coulomb, r⁻⁶
       and exp(−3r) potentials (`crystalign.physics.lattice_sums`).
    3. Convolutions over both: v_i ← ReLU(v_i + norm(Σ_j σ(norm(MLP_g z_ij)) ⊙ MLP_m z_ij)), z_ij = v_i ⊕ v_j ⊕ e_ij,
       each MLP two linear layers with SiLU between them.
    4. The crystal is the mean over its atoms and one linear layer.

    `basis` = "published" is the released setting, 1,718,656 weights: the three sums in one number of
    fixed shares, in multiquadrics √(1 + ((S − μ_k)/Δ)²), μ_k on [−4, 4], Δ apart. Of 64, the sums of
    real crystals reach 14; of the 256 Gaussians of −0.75/d on [−4, 4], 18. "ranged" gives each sum
    Gaussians of its own that end where the data does: of arsinh(Coulomb / 0.1 Å⁻¹), log₁₀ r⁻⁶ and
    log₁₀ exp(−αr); and the distances their own range.

    Differences from the released code, each a correction:

    - norm is LayerNorm over channels instead of BatchNorm over the batch, with the same number of weights
    - the sums are exact for every cell (the released exponential scales with the cell's volume, the
      Coulomb sum ends too early in elongated cells)
    - the released network gives a supercell another vector than its primitive cell, because the supercell distributes
      each sum over several pairs before a non-linear map. Here translationally equivalent copies of a site are one
      sender whose sums are added before they are embedded (`complete_graph`), so every supercell has the vector of the
      primitive cell
    - equally distant neighbours share the remaining weight of the 16 (`nearest_shares`), and edges are not duplicated;
      a site without a neighbour within 4 Å keeps its nearest
    """

    class Settings(Config):
        """Size of the network."""

        hidden: int = Field(default=256, ge=4)
        """Channels C per atom and per edge."""
        layers: int = Field(default=3, ge=1)
        """Convolutions."""
        neighbours: int = Field(default=16, ge=1)
        """Neighbours in the local sum; at most the modality's `k`."""
        basis: Literal["published", "ranged"] = "ranged"
        """Basis in which distances and potentials are expanded."""
        local_bins: int = Field(default=64, ge=2)
        """Basis functions of the distance."""
        complete_bins: int = Field(default=64, ge=2)
        """Basis functions of the published combination of the potentials, or of each potential."""
        width: int = Field(default=128, ge=4)
        """Length of the crystal's vector."""

    settings: Settings
    features: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        hidden, ranged = settings.hidden, settings.basis == "ranged"
        self.width = settings.width
        self.register_buffer("features", torch.from_numpy(element_features().copy()), persistent=False)  # (Z, 92)
        self.atoms = nn.Linear(WIDTH, hidden)
        self.distances = GaussianBasis(*((-0.95, -0.1) if ranged else (-4.0, 4.0)), settings.local_bins)
        self.local = nn.Linear(settings.local_bins, hidden)
        self.potentials = RangedBasis(settings.complete_bins) if ranged else CombinedBasis(settings.complete_bins)
        self.complete = nn.Linear(self.potentials.count, hidden)
        self.complete_norm = nn.LayerNorm(hidden)
        self.convolutions = nn.ModuleList(PotNetConvolution(hidden) for _ in range(settings.layers))
        self.head = nn.Linear(hidden, settings.width)

    def forward(self, inputs: Inputs | Batch) -> Tensor:
        """(n, width) from n crystals with A atoms, E local edges and P complete ones."""
        inputs = as_inputs(inputs)
        if "pair_index" not in inputs:
            raise ConfigError(
                "PotNet reads the lattice sums of all pairs: set lattice_sums_up_to of the crystal modality"
            )
        senders, receivers = torch.cat([inputs["edge_index"], inputs["pair_index"]], dim=1)  # (E + P,) each
        lengths, near = inputs["edge_length"], inputs["edge_index"][1]  # (E,), sorted
        shares = nearest_shares(lengths, near, len(inputs["x"]), self.settings.neighbours)  # (E,)
        shares = torch.cat([shares, shares.new_ones(len(inputs["pair_sums"]))])[:, None]  # (E + P, 1)
        local = F.silu(self.local(self.distances(-0.75 / lengths)))  # (E, C)
        complete = self.complete_norm(F.softplus(self.complete(self.potentials(inputs["pair_sums"]))))  # (P, C)
        edges = torch.cat([local, complete.to(local.dtype)])  # (E + P, C)
        v = on_sites(F.linear(self.features, self.atoms.weight), inputs) + self.atoms.bias  # (A, C)
        for convolution in self.convolutions:
            v = convolution(v, edges, senders, receivers, shares)  # (A, C)
        vectors: Tensor = self.head(mean_over_atoms(v, inputs))  # (n, width)
        return vectors


class PotNetConvolution(nn.Module):
    """One convolution of `PotNet`."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.gate_in, self.gate_out = EdgeLinear(hidden, hidden, hidden), nn.Linear(hidden, hidden)
        self.message_in, self.message_out = EdgeLinear(hidden, hidden, hidden), nn.Linear(hidden, hidden)
        self.gate_norm, self.sum_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)

    def forward(self, v: Tensor, edges: Tensor, senders: Tensor, receivers: Tensor, shares: Tensor) -> Tensor:
        """(A, C) updated atoms."""
        gate = self.gate_out(F.silu(self.gate_in.on_edges(v, edges, senders, receivers)))  # (E, C)
        message = self.message_out(F.silu(self.message_in.on_edges(v, edges, senders, receivers)))  # (E, C)
        gated = torch.sigmoid(self.gate_norm(gate)) * message * shares  # (E, C)
        summed = scatter_sum(gated, receivers, len(v))  # (A, C)
        return F.relu(v + self.sum_norm(summed))


class CombinedBasis(nn.Module):
    """The published basis: multiquadrics of one weighted sum of the three potentials."""

    centres: Tensor
    weights: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.spacing = 8.0 / (count - 1)
        self.register_buffer("centres", torch.linspace(-4.0, 4.0, count), persistent=False)
        self.register_buffer("weights", torch.tensor(WEIGHTS), persistent=False)

    def forward(self, sums: Tensor) -> Tensor:
        """(P, 3) → (P, K)."""
        combined = (sums * self.weights).sum(dim=1, keepdim=True)  # (P, 1)
        return (1.0 + ((combined - self.centres) / self.spacing).square()).sqrt()


class RangedBasis(nn.Module):
    """Gaussians of each potential over its range in real crystals; values outside are clamped to the range."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = 3 * count
        self.coulomb = GaussianBasis(-4.0, 4.0, count)
        self.dispersion = GaussianBasis(-6.5, 0.5, count)
        self.repulsion = GaussianBasis(-8.0, 0.5, count)

    def forward(self, sums: Tensor) -> Tensor:
        """(P, 3) → (P, 3K)."""
        coulomb = (sums[:, 0] / COULOMB_SCALE).asinh().clamp(-4.0, 4.0)
        faint = sums[:, 1:].clamp(min=FAINTEST).log10()  # (P, 2)
        dispersion, repulsion = faint[:, 0].clamp(-6.5, 0.5), faint[:, 1].clamp(-8.0, 0.5)
        return torch.cat([self.coulomb(coulomb), self.dispersion(dispersion), self.repulsion(repulsion)], dim=1)
