"""Message passing, scatter and pooling: PyTorch Geometric's against the encoders' own, on the same tensors.

    python tests/benchmarks/bench_message_passing.py

Each row times two functions that give the same numbers, in turns, in one process and on one thread, by its processor
time. The ratio is the median of PyTorch Geometric's time over the own kernel's: above 1 the own kernel is faster.
`train` is forward and backward, `forward` is without gradients. Before anything is timed, the values and the gradients
of the two are compared in float64. The encoders keep an own kernel where its ratio is at least 1.2 in training or in
inference, and not below 1 in the other; the last column says so. No encoder has a softmax over edges of its own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch_geometric.nn import CGConv, MessagePassing, global_max_pool, global_mean_pool
from torch_geometric.utils import scatter

from crystalign.config import Config
from crystalign.encoders.crystal_graph import EdgeLinear, max_over_atoms, mean_over_atoms, scatter_sum
from crystalign.encoders.gated_graph import GatedConvolution

FASTER = 1.2
"""From this ratio on, an own kernel stays."""


class BenchMessagePassing(Config):
    """Time the kernels of the graph encoders against PyTorch Geometric's."""

    crystals: int = 64
    """Crystals in a batch; they have 4 to 34 sites."""
    neighbours: int = 14
    """Edges per site: twelve nearest, with whole shells."""
    channels: tuple[int, ...] = (64, 128, 256)
    """Widths C."""
    repetitions: int = 20
    """Timed pairs per row."""


class Graph(NamedTuple):
    """The connections of a batch."""

    senders: Tensor
    receivers: Tensor
    owner: Tensor
    n_atoms: Tensor

    @property
    def inputs(self) -> dict[str, Tensor]:
        """As an encoder's inputs."""
        return {"batch": self.owner, "n_atoms": self.n_atoms}


class Pair(NamedTuple):
    """Two ways to compute one thing."""

    name: str
    own: Callable[[], Tensor]
    geometric: Callable[[], Tensor]
    leaves: list[Tensor]


def main(config: BenchMessagePassing) -> None:
    """Print one row per kernel and width."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    graph = make_graph(config)
    edges, atoms = len(graph.senders), len(graph.owner)
    table = Table("kernel", "C", "own, train (ms)", "train", "forward", "stays", title=f"{atoms} atoms, {edges} edges")
    for channels in config.channels:
        for make in KERNELS:
            compare(make(graph, channels, torch.float64))
            pair = make(graph, channels, torch.float32)
            own, train = timed(pair, config.repetitions, backward=True)
            _, forward = timed(pair, config.repetitions, backward=False)
            stays = "yes" if max(train, forward) >= FASTER and min(train, forward) >= 1.0 else "no"
            table.add_row(pair.name, str(channels), f"{1e3 * own:.2f}", f"{train:.2f}", f"{forward:.2f}", stays)
    Console(width=120).print(table)


def make_graph(config: BenchMessagePassing) -> Graph:
    """Random crystals, each site with as many neighbours in its own crystal, sorted by receiver."""
    n_atoms = torch.randint(4, 35, (config.crystals,))
    owner = torch.repeat_interleave(torch.arange(config.crystals), n_atoms)  # (A,)
    receivers = torch.repeat_interleave(torch.arange(len(owner)), config.neighbours)  # (E,)
    first = (n_atoms.cumsum(0) - n_atoms)[owner[receivers]]
    senders = first + (torch.rand(len(receivers)) * n_atoms[owner[receivers]]).long()
    return Graph(senders, receivers, owner, n_atoms)


def leaf(*shape: int, dtype: torch.dtype) -> Tensor:
    """Random numbers that take a gradient."""
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def sum_kernel(graph: Graph, channels: int, dtype: torch.dtype) -> Pair:
    """Messages summed at their receivers: by torch's `index_add`, as the encoders do, and by PyG's `scatter`."""
    messages, atoms = leaf(len(graph.receivers), channels, dtype=dtype), len(graph.owner)
    return Pair(
        "index_add | scatter",
        lambda: messages.new_zeros(atoms, channels).index_add(0, graph.receivers, messages),
        lambda: scatter(messages, graph.receivers, dim_size=atoms, reduce="sum"),
        [messages],
    )


def mean_pool(graph: Graph, channels: int, dtype: torch.dtype) -> Pair:
    """The mean over the atoms of each crystal."""
    v, n = leaf(len(graph.owner), channels, dtype=dtype), len(graph.n_atoms)
    return Pair(
        "mean over atoms | global_mean_pool",
        lambda: mean_over_atoms(v, graph.inputs),
        lambda: global_mean_pool(v, graph.owner, n),
        [v],
    )


def max_pool(graph: Graph, channels: int, dtype: torch.dtype) -> Pair:
    """The maximum over the atoms of each crystal."""
    v, n = leaf(len(graph.owner), channels, dtype=dtype), len(graph.n_atoms)
    return Pair(
        "maximum over atoms | global_max_pool",
        lambda: max_over_atoms(v, graph.inputs),
        lambda: global_max_pool(v, graph.owner, n),
        [v],
    )


def crystal_graph_convolution(graph: Graph, channels: int, dtype: torch.dtype) -> Pair:
    """CGCNN's convolution (its norms aside): one matrix split over atoms and edges, and PyG's on the concatenation."""
    own, geometric = EdgeLinear(channels, 41, 2 * channels).to(dtype), CGConv(channels, 41).to(dtype)
    with torch.no_grad():
        for layer, half in ((geometric.lin_f, slice(0, channels)), (geometric.lin_s, slice(channels, None))):
            layer.weight.copy_(own.weight[half])
            layer.bias.copy_(own.bias[half])
    v, u = leaf(len(graph.owner), channels, dtype=dtype), leaf(len(graph.receivers), 41, dtype=dtype)
    edge_index = torch.stack([graph.senders, graph.receivers])

    def by_hand() -> Tensor:
        gate, message = own.on_edges(v, u, graph.senders, graph.receivers).chunk(2, dim=1)
        return v + scatter_sum(torch.sigmoid(gate) * F.softplus(message), graph.receivers, len(v))

    return Pair("EdgeLinear, gate, sum | CGConv", by_hand, lambda: geometric(v, edge_index, u), [v, u])


class GatedSum(MessagePassing):
    """σ(gate) ⊙ SiLU(message), summed over the edges of each receiver."""

    def forward(self, edge_index: Tensor, receiver: Tensor, sender: Tensor, edge: Tensor) -> Tensor:
        """(A, C) from (A, 2C), (A, 2C) and (E, 2C)."""
        return self.propagate(edge_index, receiver=receiver, sender=sender, edge=edge)

    def message(self, receiver_i: Tensor, sender_j: Tensor, edge: Tensor) -> Tensor:
        """(E, C)."""
        gate, message = (edge + receiver_i + sender_j).chunk(2, dim=1)
        return torch.sigmoid(gate) * F.silu(message)


def gated_convolution(graph: Graph, channels: int, dtype: torch.dtype) -> Pair:
    """`GatedConvolution` as it is, and the same layers in a `MessagePassing`."""
    own, passing = GatedConvolution(channels, 40, 0).to(dtype), GatedSum(aggr="add")
    v, basis = leaf(len(graph.owner), channels, dtype=dtype), leaf(len(graph.receivers), 40, dtype=dtype)
    edge_index = torch.stack([graph.senders, graph.receivers])
    weight = (1.0 / torch.bincount(graph.receivers, minlength=len(v)).to(dtype))[:, None]

    def geometric() -> Tensor:
        h = own.norm(v)
        edge, sender, receiver = own.edge(basis), own.sender(h), own.receiver(h)
        summed = passing(edge_index, receiver, sender, edge)
        return v + own.out(summed * weight)

    return Pair(
        "GatedConvolution | MessagePassing",
        lambda: own(v, basis, None, graph.senders, graph.receivers, weight),
        geometric,
        [v, basis],
    )


KERNELS = (sum_kernel, mean_pool, max_pool, crystal_graph_convolution, gated_convolution)


def compare(pair: Pair) -> None:
    """Values and gradients of the two are the same numbers."""
    results = []
    for work in (pair.own, pair.geometric):
        out = work()
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
        results.append([out, *torch.autograd.grad((out * weights).sum(), pair.leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def timed(pair: Pair, repetitions: int, *, backward: bool) -> tuple[float, float]:
    """Median seconds of the own kernel, and the median ratio of PyTorch Geometric's time to it."""
    slope = torch.randn_like(pair.own())

    def once(work: Callable[[], Tensor]) -> float:
        began = time.process_time()
        if backward:
            for tensor in pair.leaves:
                tensor.grad = None
            work().backward(slope)
        else:
            with torch.no_grad():
                work()
        return time.process_time() - began

    once(pair.own), once(pair.geometric)
    times = []
    for number in range(repetitions):
        if number % 2:
            geometric = once(pair.geometric)
            times.append((once(pair.own), geometric))
        else:
            times.append((once(pair.own), once(pair.geometric)))
    return statistics.median(t[0] for t in times), statistics.median(g / o for o, g in times)


if __name__ == "__main__":
    main(tyro.cli(BenchMessagePassing, description=__doc__))
