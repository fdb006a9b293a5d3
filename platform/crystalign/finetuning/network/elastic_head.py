"""Equivariant head that predicts the elastic tensor from the directions of a crystal's bonds."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from crystalign.crystal import MAX_ATOMIC_NUMBER
from crystalign.encoders.crystal_graph import GaussianBasis, on_sites
from crystalign.encoders.elements import WIDTH, element_features
from crystalign.errors import ConfigError
from crystalign.finetuning.data.scaling import TargetScaler
from crystalign.finetuning.network.elastic_tensors import PAIRS, moduli, vector_to_mandel
from crystalign.modalities import Inputs
from crystalign.properties import PropertySpec, Quantity

READ_OUT = {Quantity.BULK_MODULUS_VRH: "k_vrh", Quantity.SHEAR_MODULUS_VRH: "g_vrh"}
"""Property in tables → modulus of the tensor."""
TYPICAL = {Quantity.BULK_MODULUS_VRH: 80.0, Quantity.SHEAR_MODULUS_VRH: 40.0}
"""GPa; initial value of a modulus without labels."""
REACH = 4.0
"""Natural logarithm of the largest factor between a material's isotropic stiffness and the initial value."""
GAUSSIANS, FARTHEST = 16, 8.0


class ElasticHead(nn.Module):
    r"""C = exp(L), L a symmetry-adapted sum over bonds, both 6 × 6 in Mandel's notation.

    With unit vectors d of the edges e of a crystal, and ⟨·⟩ the mean over atoms of the mean over their edges,

    L = α P_v + β P_d + ⟨w_e d⊗d⊗d⊗d⟩ + (A⊗1 + 1⊗A),   A = ⟨u_e d⊗d⟩,

    where P_v, P_d project on volume and shape changes, and α, β, w, u depend on invariants alone: the crystal's vector,
    the elements of a bond and its length.

    - A rotation R of the crystal rotates L and exp L: L(R·crystal) = Q(R) L Q(R)ᵀ with Q orthogonal.
    - A symmetry of the crystal is a symmetry of L, so a cubic crystal has three independent constants.
    - The terms span all 21 components. Such a tensor has one part of degree 4 and two each of degree 2 and 0 (9 + 2·5 +
      2): the sum of d⊗d⊗d⊗d holds the first and one of degree 2, A the other, α and β those of degree 0.
    - The eigenvalues of exp L are positive: no crystal is predicted to be unstable. The exponential is smooth where
      eigenvalues meet, as they do in every crystal of symmetry; functions of single eigenvalues are not.
    - Moduli span decades; L is their logarithm, as the transform of scalar models.

    Our tables contain the moduli K and G but no tensors. Training on the moduli only constrains these invariants of
    the tensor. **The accuracy of the other components is not tested.** Lengths and vectors are those of the crystal
    modality; a mixed site is the sum of its species by occupancy.
    """

    features: Tensor
    start: Tensor

    def __init__(self, width: int, hidden: int, specs: tuple[PropertySpec, ...], scaler: TargetScaler) -> None:
        """Make a head with fresh weights that predicts the mean of the training labels.

        Args:
            width: length of the crystal's vector.
            hidden: channels per edge.
            specs: the targets; bulk and shear modulus, one of them or both.
            scaler: of these targets, in GPa.

        Raises:
            ConfigError: a target is not a modulus.
        """
        super().__init__()
        wrong = [spec.column for spec in specs if spec.quantity not in READ_OUT]
        if wrong:
            raise ConfigError(f"head: elastic predicts bulk and shear modulus, not {', '.join(wrong)}; use linear")
        self.specs, self.scaler = specs, scaler
        self.register_buffer("features", torch.from_numpy(element_features().copy()), persistent=False)  # (Z, 92)
        self.tabulated = nn.Linear(WIDTH, hidden)
        self.elements = nn.Parameter(0.1 * torch.randn(MAX_ATOMIC_NUMBER + 1, hidden))
        self.lengths = GaussianBasis(0.5, FARTHEST, GAUSSIANS)
        self.edge = nn.Linear(GAUSSIANS, hidden)
        self.crystal = nn.Linear(width, hidden, bias=False)
        self.weights = nn.Linear(hidden, 2)
        self.stiffness = nn.Linear(width, 2)
        for layer in (self.weights, self.stiffness):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        middle = dict(TYPICAL)
        for number, spec in enumerate(specs):
            learnt = scaler.mean[number]
            middle[spec.quantity] = 10.0**learnt if scaler.transform == "log10" else max(learnt, 1.0)
        stiffness = [3.0 * middle[Quantity.BULK_MODULUS_VRH], 2.0 * middle[Quantity.SHEAR_MODULUS_VRH]]
        self.register_buffer("start", torch.tensor([math.log(value) for value in stiffness]), persistent=False)  # (2,)

    def forward(self, vectors: Tensor, crystals: Inputs | None = None) -> Tensor:
        """Return moduli (n, T) on the scale of the targets, from vectors (n, width) and the crystals."""
        if crystals is None:
            raise ConfigError("head: elastic reads the structure: `crystal` must be one of the modalities")
        averages = moduli(self.tensors(vectors, crystals))
        read = [getattr(averages, READ_OUT[spec.quantity]) for spec in self.specs]  # (n,) each
        return self.scaler.scaled_tensor(torch.stack(read, dim=1))

    def tensors(self, vectors: Tensor, crystals: Inputs) -> Tensor:
        """Return tensors (n, 6, 6) in Mandel notation, GPa, in the Cartesian axes of each crystal."""
        directions = crystals["edge_vector"] / crystals["edge_length"].clamp(min=1e-3)[:, None]  # (E, 3)
        squares = vector_to_mandel(directions[:, :, None] * directions[:, None, :])  # (E, 6)
        w, u = (self._edge_weights(vectors, crystals) * _shares(crystals)[:, None]).unbind(dim=1)  # (E,) each
        owner = crystals["batch"].index_select(0, crystals["edge_index"][1])  # (E,)
        fourth = _summed(w[:, None, None] * squares[:, :, None] * squares[:, None, :], owner, len(vectors))  # (n, 6, 6)
        a = _summed(u[:, None] * squares, owner, len(vectors))  # (n, 6)
        one = squares.new_tensor([float(i == j) for i, j in PAIRS])  # (6,)
        second = a[:, :, None] * one + one[:, None] * a[:, None, :]  # (n, 6, 6)
        scalars = self.start + REACH * torch.tanh(self.stiffness(vectors) / REACH)  # (n, 2)
        volume = one[:, None] * one / 3.0  # (6, 6)
        projections = torch.stack([volume, torch.eye(6, dtype=one.dtype, device=one.device) - volume])  # (2, 6, 6)
        isotropic = torch.einsum("nk,kij->nij", scalars, projections)  # (n, 6, 6)
        exponential: Tensor = torch.linalg.matrix_exp(isotropic + fourth + second)  # (n, 6, 6)
        return exponential

    def _edge_weights(self, vectors: Tensor, crystals: Inputs) -> Tensor:
        """Return the weights w and u of each edge, (E, 2)."""
        senders, receivers = crystals["edge_index"]  # (E,) each
        sites = on_sites(self.tabulated(self.features) + self.elements, crystals)  # (A, C)
        state = self.edge(self.lengths(crystals["edge_length"].clamp(max=FARTHEST)))  # (E, C)
        state = state + sites.index_select(0, senders) + sites.index_select(0, receivers)
        state = state + self.crystal(vectors).index_select(0, crystals["batch"].index_select(0, receivers))
        weights: Tensor = self.weights(F.silu(state))
        return weights


def _shares(crystals: Inputs) -> Tensor:
    """Weights (E,) of the edges in the mean over atoms of the mean over their edges."""
    receivers = crystals["edge_index"][1]
    degree = torch.bincount(receivers, minlength=len(crystals["x"])).clamp(min=1)  # (A,)
    per_atom = degree * crystals["n_atoms"].index_select(0, crystals["batch"])  # (A,)
    return (1.0 / per_atom.to(crystals["edge_length"].dtype)).index_select(0, receivers)


def _summed(edges: Tensor, owner: Tensor, n: int) -> Tensor:
    """Sum over the edges of each crystal, (E, …) → (n, …)."""
    return edges.new_zeros(n, *edges.shape[1:]).index_add(0, owner, edges)
