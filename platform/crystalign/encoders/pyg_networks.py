"""PyTorch Geometric's networks over given periodic edges: from a batch of crystals to one vector per atom.

Each network has `channels`, the length of an atom's vector, and takes the tensors of `CrystalModality.collate`.
PyTorch Geometric's own `forward` computes edges from positions without periodic images; where it does, we call its
modules in the same order with the edges of the crystal.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch_geometric.nn import CGConv, SchNet, TransformerConv
from torch_geometric.nn.models.visnet import ViSNetBlock

from crystalign.crystal import MAX_ATOMIC_NUMBER
from crystalign.encoders.crystal_graph import GaussianBasis, on_sites
from crystalign.modalities import Inputs

ELEMENTS = MAX_ATOMIC_NUMBER + 1


class SchNetwork(nn.Module):
    """SchNet (Schütt et al., J. Chem. Phys. 148, 241722 (2018)) up to the last layer of its atomwise readout.

    An edge longer than `cutoff`, which occurs at a site without neighbours, is clamped to `cutoff`; its weight is 0.
    """

    def __init__(self, *, hidden: int, layers: int, gaussians: int, cutoff: float) -> None:
        super().__init__()
        self.network = SchNet(hidden, hidden, layers, gaussians, cutoff, readout="mean")
        self.network.embedding = nn.Embedding(ELEMENTS, hidden, padding_idx=0)
        self.network.lin2 = nn.Identity()
        for interaction in self.network.interactions:
            del interaction.mlp  # the same layers as interaction.conv.nn: weights are saved under one name
        self.channels = hidden // 2

    def forward(self, inputs: Inputs) -> Tensor:
        """(A, channels)."""
        net, edge_index = self.network, inputs["edge_index"]
        lengths = inputs["edge_length"].clamp(max=net.cutoff)  # (E,)
        expanded = net.distance_expansion(lengths)  # (E, K)
        h = on_sites(net.embedding.weight, inputs)  # (A, C)
        for interaction in net.interactions:
            h = h + interaction(h, edge_index, lengths, expanded)
        vectors: Tensor = net.act(net.lin1(h))
        return vectors


class ViSNetwork(nn.Module):
    """ViSNet (Wang et al., Nat. Commun. 15, 313 (2024)): scalar features and norms of the vector features.

    The published network adds a self-loop of length 0 to each atom and recognises self-loops by their equal ends. An
    edge to the atom's own periodic image also has equal ends, but it has a length and a direction, so we treat it as a
    normal
    edge: only the loops added below count as self-loops. An edge longer than `cutoff` has weight 0.

    The vectors are zero before the first layer, so the matrices of that layer that act on them are left out.
    """

    def __init__(self, *, hidden: int, layers: int, gaussians: int, cutoff: float, heads: int, degree: int) -> None:
        super().__init__()
        self.network = ViSNetBlock(
            lmax=degree,
            num_heads=heads,
            num_layers=layers,
            hidden_channels=hidden,
            num_rbf=gaussians,
            max_z=ELEMENTS,
            cutoff=cutoff,
        )
        first = self.network.vis_mp_layers[0]
        first.vec_proj = _ThreeTimes()
        if not first.last_layer:
            first.f_proj = first.w_src_proj = first.w_trg_proj = nn.Identity()
        self.degree = degree
        self.channels = (1 + degree) * hidden

    def forward(self, inputs: Inputs) -> Tensor:
        """(A, channels)."""
        x, vectors = self.scalars_and_vectors(inputs)  # (A, C), (A, 3 or 8, C)
        parts = torch.split(vectors, [2 * degree + 1 for degree in range(1, self.degree + 1)], dim=1)
        lengths = [(part.square().sum(dim=1) + 1e-6).sqrt() for part in parts]  # the root of 0 has no slope
        return torch.cat([x, *lengths], dim=1)

    def scalars_and_vectors(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return the output of `ViSNetBlock.forward`: (A, C), and (A, 3, C), or (A, 8, C) with degree 2."""
        net, neighbours = self.network, inputs["edge_index"]
        atoms = torch.arange(len(inputs["x"]), device=neighbours.device)
        near, direction = inputs["edge_length"], inputs["edge_vector"]
        direction = direction / near.clamp(min=1e-3)[:, None]  # (E, 3) unit vectors
        # Real edges first, then the loops of the published network.
        edge_index = torch.cat([neighbours, atoms.expand(2, -1)], dim=1)  # (2, E + A)
        lengths = F.pad(near, (0, len(atoms)))  # (E + A,)
        harmonics = net.sphere(F.pad(direction, (0, 0, 0, len(atoms))))  # (E + A, 3 or 8)
        expanded = net.distance_expansion(lengths)  # (E + A, K)
        x = self._neighbour_embedding(inputs, expanded[: len(near)])  # (A, C)
        vectors = x.new_zeros(len(atoms), harmonics.shape[1], x.shape[1])
        edges = net.edge_embedding(edge_index, expanded, x)  # (E + A, C)
        for layer in net.vis_mp_layers:
            dx, d_vectors, d_edges = layer(x, vectors, edge_index, lengths, edges, harmonics)
            x, vectors = x + dx, vectors + d_vectors
            edges = edges if d_edges is None else edges + d_edges
        return net.out_norm(x), net.vec_out_norm(vectors)

    def _neighbour_embedding(self, inputs: Inputs, expanded: Tensor) -> Tensor:
        """(A, C): `NeighborEmbedding.forward` over the real edges, mixed sites included."""
        part = self.network.neighbor_embedding
        own = on_sites(self.network.embedding.weight, inputs)  # (A, C)
        weights = part.distance_proj(expanded) * part.cutoff(inputs["edge_length"])[:, None]  # (E, C)
        around = part.propagate(inputs["edge_index"], x=on_sites(part.embedding.weight, inputs), W=weights)
        embedded: Tensor = part.combine(torch.cat([own, around], dim=1))
        return embedded


class _ThreeTimes(nn.Module):
    """Return zero vectors with three times as many channels, in place of a linear map."""

    def forward(self, vectors: Tensor) -> Tensor:
        return torch.cat([vectors] * 3, dim=-1)


class EdgeStack(nn.Module):
    """Layers of PyTorch Geometric over Gaussians of the distance, each followed by ReLU and LayerNorm.

    The convolutions add the atom's own vector. An edge longer than `cutoff` is clamped to it.
    """

    def __init__(self, convolutions: list[Any], *, hidden: int, gaussians: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.elements = nn.Embedding(ELEMENTS, hidden, padding_idx=0)
        self.distances = GaussianBasis(0.0, cutoff, gaussians)
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in convolutions)
        self.channels = hidden

    def forward(self, inputs: Inputs) -> Tensor:
        """(A, channels)."""
        basis = self.distances(inputs["edge_length"].clamp(max=self.cutoff))  # (E, K)
        v = on_sites(self.elements.weight, inputs)  # (A, C)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            v = norm(F.relu(convolution(v, inputs["edge_index"], basis)))
        return v


def cgconv(*, hidden: int, layers: int, gaussians: int, cutoff: float) -> EdgeStack:
    """`CGConv` (Xie & Grossman, Phys. Rev. Lett. 120, 145301 (2018)), without its BatchNorm."""
    convolutions = [CGConv(hidden, gaussians) for _ in range(layers)]
    return EdgeStack(convolutions, hidden=hidden, gaussians=gaussians, cutoff=cutoff)


def transformer(*, hidden: int, layers: int, gaussians: int, cutoff: float, heads: int) -> EdgeStack:
    """`TransformerConv` (Shi et al., IJCAI 2021): attention over neighbours, keys and values with edges added."""
    convolutions = [TransformerConv(hidden, hidden // heads, heads, edge_dim=gaussians) for _ in range(layers)]
    return EdgeStack(convolutions, hidden=hidden, gaussians=gaussians, cutoff=cutoff)


NETWORKS: dict[str, Any] = {"schnet": SchNetwork, "visnet": ViSNetwork, "cgconv": cgconv, "transformer": transformer}
"""Name → function that makes the network from its options."""
