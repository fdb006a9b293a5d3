"""Crystals and batches as PyTorch Geometric's `Data` and `Batch`, and its kernels against ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch_geometric.data import Batch, Data
from torch_geometric.nn import CGConv, global_max_pool, global_mean_pool

from crystalign.crystal import Crystal
from crystalign.encoders import ENCODERS, make_encoder
from crystalign.encoders.crystal_graph import EdgeLinear, max_over_atoms, mean_over_atoms, scatter_sum
from crystalign.encoders.graph_batch import from_batch, to_batch
from crystalign.errors import ConfigError, CrystalError
from crystalign.modalities import make_modality
from crystalign.physics import neighbours

MIXED = (((26, 0.25), (28, 0.75)), ((8, 0.9),))
CRYSTAL_ENCODERS = [name for name, entry in ENCODERS.items() if entry.modality == "crystal"]


@pytest.fixture
def mixed():
    return Crystal(2.1 * (np.ones((3, 3)) - np.eye(3)), np.array([[0.1, 0, 0], [0.6, 0.5, 0.5]]), [28, 8], MIXED)


def inputs_of(crystals, **settings):
    modality = make_modality("crystal", {"dtype": "float64"} | settings)
    return modality.collate([modality.featurise(crystal) for crystal in crystals])


def same(one: Crystal, other: Crystal, tolerance: float) -> bool:
    moved = np.abs(one.frac_coords - other.frac_coords)
    return (
        np.allclose(one.lattice, other.lattice, rtol=tolerance, atol=0)
        and np.minimum(moved, 1 - moved).max() < tolerance
        and np.array_equal(one.atomic_numbers, other.atomic_numbers)
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-14)])
def test_a_crystal_comes_back_from_pyg(known, dtype, tolerance):
    data = known.to_pyg(dtype=dtype)
    assert data.pos.dtype == getattr(torch, dtype)
    assert data.num_nodes == len(known)
    assert data.cell.shape == (1, 3, 3)
    assert same(Crystal.from_pyg(data), known, tolerance)
    assert Crystal.from_pyg(data).is_ordered


def test_mixed_occupancies_come_back_from_pyg(mixed):
    found = Crystal.from_pyg(mixed.to_pyg(dtype="float64"))
    assert same(found, mixed, 1e-14)
    assert found.occupancies == MIXED


def test_edges_are_all_neighbours_with_their_images(known):
    data, expected = known.to_pyg(4.5, dtype="float64"), neighbours(known, cutoff=4.5)
    assert torch.equal(data.edge_index, torch.from_numpy(np.stack([expected.senders, expected.receivers])))
    senders, receivers = data.edge_index
    vectors = data.pos[senders] + data.edge_shift.double() @ data.cell[0] - data.pos[receivers]
    torch.testing.assert_close(data.edge_vec, vectors, rtol=0, atol=1e-12)
    torch.testing.assert_close(data.edge_weight, vectors.norm(dim=1), rtol=0, atol=1e-12)
    assert data.edge_weight.max() <= 4.5 + 1e-6
    assert data.is_directed() is False  # each edge has its reverse


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cell": None}, "not-periodic"),
        ({"pbc": torch.tensor([[True, True, False]])}, "not-periodic"),
        ({"z": None}, "bad-sites"),
        ({"z": torch.tensor([0])}, "unknown-element"),
        ({"cell": torch.zeros(1, 3, 3)}, "bad-lattice"),
        ({"cell": torch.eye(3).expand(2, 3, 3)}, "bad-lattice"),
        ({"pos": torch.zeros(2, 3)}, "bad-sites"),
    ],
)
def test_what_is_no_crystal_is_refused(textbook, change, reason):
    data = textbook["Cu"].to_pyg()
    for name, value in change.items():
        data[name] = value
    with pytest.raises(CrystalError) as refused:
        Crystal.from_pyg(data)
    assert refused.value.reason == reason


def test_a_batch_of_crystals_is_taken_apart_again(textbook):
    batch = Batch.from_data_list([crystal.to_pyg(dtype="float64") for crystal in textbook.values()])
    with pytest.raises(CrystalError, match="to_data_list"):
        Crystal.from_pyg(batch)
    found = [Crystal.from_pyg(data) for data in batch.to_data_list()]
    assert all(same(one, other, 1e-14) for one, other in zip(found, textbook.values(), strict=True))


def test_tensors_become_a_batch_and_tensors_again(textbook, mixed):
    inputs = inputs_of([textbook["TiO2"], mixed, textbook["Cu"]], lattice_sums_up_to=20, reciprocal_bins=16)
    batch = to_batch(inputs)
    assert batch.num_graphs == 3
    assert batch.ptr.tolist() == [0, 6, 8, 9]
    assert batch.num_nodes == 9
    found = from_batch(batch)
    assert found.keys() == inputs.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in inputs.items())


@pytest.mark.parametrize("name", CRYSTAL_ENCODERS)
def test_every_crystal_encoder_takes_a_batch(name, textbook, mixed):
    torch.manual_seed(0)
    encoder = make_encoder(name).double().eval()
    inputs = inputs_of([*textbook.values(), mixed], **ENCODERS[name].features)
    with torch.no_grad():
        assert torch.equal(encoder(to_batch(inputs)), encoder(inputs))


@pytest.mark.parametrize("name", ["pyg", "gated-graph", "cgcnn", "matbind-gcn"])
def test_a_batch_of_single_graphs_in_any_order_of_edges_is_encoded_alike(name, textbook):
    torch.manual_seed(0)
    encoder, graphs = make_encoder(name).double().eval(), []
    for crystal in textbook.values():
        data = crystal.to_pyg(5.0, dtype="float64")
        order = torch.randperm(data.num_edges)
        for key in ("edge_weight", "edge_vec", "edge_shift"):
            data[key] = data[key][order]
        data.edge_index = data.edge_index[:, order]
        graphs.append(data)
    inputs = inputs_of(textbook.values(), cutoff=5.0, k=1000)
    with torch.no_grad():
        found = encoder(Batch.from_data_list(graphs))
        torch.testing.assert_close(found, encoder(inputs), rtol=1e-10, atol=1e-10)


def test_a_batch_without_edges_is_refused(textbook):
    batch = Batch.from_data_list([textbook["Cu"].to_pyg()])
    with pytest.raises(ConfigError, match=r"no edge_index, edge_weight, edge_vec; make it of Crystal.to_pyg\(cutoff\)"):
        make_encoder("pyg")(batch)
    assert isinstance(batch[0], Data)


# --- kernels ----------------------------------------------------------------------------------------------------------


def gradients(out, *leaves):
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return torch.autograd.grad((out * weights).sum(), leaves)


def check_equal(one, other, *leaves):
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    for first, second in zip(gradients(one, *leaves), gradients(other, *leaves), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


@pytest.fixture
def atoms():
    """Vectors of 40 atoms in 6 crystals."""
    torch.manual_seed(0)
    owner = torch.tensor([0] * 3 + [1] + [2] * 20 + [3] * 2 + [4] * 4 + [5] * 10)
    inputs = {"batch": owner, "n_atoms": torch.bincount(owner)}
    return torch.randn(40, 7, dtype=torch.float64, requires_grad=True), inputs


def test_a_sum_over_edges_leaves_a_site_without_edges_at_zero():
    torch.manual_seed(0)
    receivers = torch.tensor([0, 0, 2, 2, 2, 4])
    messages = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    expected = torch.zeros(6, 3).double().index_add(0, receivers, messages)
    check_equal(scatter_sum(messages, receivers, 6), expected, messages)
    assert scatter_sum(messages, receivers, 6)[[1, 3, 5]].abs().max() == 0


def test_the_mean_over_atoms_is_the_one_of_pyg(atoms):
    v, inputs = atoms
    check_equal(mean_over_atoms(v, inputs), global_mean_pool(v, inputs["batch"], 6), v)


def test_the_maximum_over_atoms_is_the_one_of_pyg(atoms):
    v, inputs = atoms
    check_equal(max_over_atoms(v, inputs), global_max_pool(v, inputs["batch"], 6), v)


def test_one_matrix_split_over_atoms_and_edges_is_cgconv(atoms):
    v, _ = atoms
    ours, theirs = EdgeLinear(7, 5, 14).double(), CGConv(7, 5).double()
    with torch.no_grad():
        for layer, half in ((theirs.lin_f, slice(0, 7)), (theirs.lin_s, slice(7, None))):
            layer.weight.copy_(ours.weight[half])
            layer.bias.copy_(ours.bias[half])
    senders, receivers = torch.randint(40, (200,)), torch.randint(40, (200,)).sort().values
    u = torch.randn(200, 5, dtype=torch.float64, requires_grad=True)
    gate, message = ours.on_edges(v, u, senders, receivers).chunk(2, dim=1)
    summed = v + scatter_sum(torch.sigmoid(gate) * F.softplus(message), receivers, 40)
    check_equal(summed, theirs(v, torch.stack([senders, receivers]), u), v, u)
