"""The published graph networks, against their formulas written out atom by atom."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F  # noqa: N812

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.encoders import make_encoder
from crystalign.encoders.crystal_graph import DEGREES, EdgeLinear, harmonics, nearest_shares
from crystalign.encoders.elements import element_features
from crystalign.encoders.gated_graph import GatedGraph
from crystalign.modalities import make_modality

TWELVE = {"cutoff": 8.0, "k": 12, "dtype": "float64"}
RADII = torch.linspace(0, 8, 41).double()


def graph(*crystals, **settings):
    modality = make_modality("crystal", TWELVE | settings)
    return modality.collate([modality.featurise(crystal) for crystal in crystals])


@pytest.fixture
def triclinic():
    """No two neighbours are equally far: twelve is twelve."""
    lattice = np.array([[4.1, 0.0, 0.0], [0.7, 5.2, 0.0], [-0.9, 1.1, 6.3]])
    frac = np.array([[0.11, 0.2, 0.3], [0.6, 0.13, 0.8], [0.35, 0.7, 0.05]])
    return Crystal(lattice, frac, np.array([22, 8, 38]))


def nearest(crystal, k):
    """Per site, the k nearest (other site, distance), over a large box of images."""
    shifts = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), -1).reshape(-1, 3) @ crystal.lattice
    cart = crystal.cart_coords
    for centre in cart:
        distances = np.linalg.norm(cart[:, None] + shifts - centre, axis=-1)
        order = np.argsort(distances, axis=None)[1 : k + 1]
        yield [(int(i) // len(shifts), float(distances.ravel()[i])) for i in order]


def gaussians(distance):
    return torch.exp(-((distance - RADII) ** 2) / 0.2**2)


def test_cgcnn_is_the_published_formula(triclinic):
    torch.manual_seed(0)
    encoder = make_encoder("cgcnn").double()
    elements = torch.from_numpy(element_features().astype(float))
    v = [encoder.atoms(elements[int(z)]) for z in triclinic.atomic_numbers]
    for convolution in encoder.convolutions:
        after = []
        for i, around in enumerate(nearest(triclinic, 12)):
            total = 0.0
            for j, distance in around:
                z = convolution.edge_norm(convolution.edge(torch.cat([v[i], v[j], gaussians(distance)])))
                gate, message = z[:64], z[64:]
                total = total + torch.sigmoid(gate) * F.softplus(message)
            after.append(F.softplus(v[i] + convolution.sum_norm(total)))
        v = after
    mean = torch.stack(v).mean(dim=0)
    expected = F.softplus(encoder.head[1](F.softplus(mean)))
    torch.testing.assert_close(encoder(graph(triclinic))[0], expected, rtol=0, atol=1e-10)


def test_matbind_is_the_published_formula(triclinic):
    torch.manual_seed(0)
    encoder = make_encoder("matbind-gcn").double()
    v = list(encoder.species(torch.eye(118).double()[triclinic.atomic_numbers.astype(int) - 1]))
    for convolution in encoder.convolutions:
        after = []
        for i, around in enumerate(nearest(triclinic, 12)):
            total = v[i]
            for j, distance in around:
                z = convolution.edge(torch.cat([v[i], v[j], gaussians(distance)]))
                total = total + torch.sigmoid(z[:128]) * F.softplus(z[128:])
            after.append(convolution.norm(F.relu(total)))
        v = after
    torch.testing.assert_close(encoder(graph(triclinic))[0], torch.stack(v).mean(dim=0), rtol=0, atol=1e-10)


def test_one_matrix_on_edges_is_three_on_atoms_and_edges():
    torch.manual_seed(0)
    layer, v, u = EdgeLinear(5, 3, 4), torch.randn(6, 5), torch.randn(9, 3)
    senders, receivers = torch.randint(6, (9,)), torch.randint(6, (9,)).sort().values
    expected = layer(torch.cat([v[receivers], v[senders], u], dim=1))
    torch.testing.assert_close(layer.on_edges(v, u, senders, receivers), expected)


@pytest.mark.parametrize("k", [1, 4, 7, 12, 13])
def test_k_neighbours_count_as_k_whatever_their_ties(known, k):
    inputs = graph(known, k=max(k, 12))
    receivers, n = inputs["edge_index"][1], len(known)
    shares = nearest_shares(inputs["edge_length"], receivers, n, k)
    torch.testing.assert_close(shares.new_zeros(n).index_add(0, receivers, shares), shares.new_full((n,), float(k)))
    assert shares.min() >= 0
    assert shares.max() <= 1


def test_a_shell_shares_the_places_that_are_left(textbook):
    inputs = graph(textbook["Cu"], k=18)
    shares = nearest_shares(inputs["edge_length"], inputs["edge_index"][1], 1, 15)
    torch.testing.assert_close(shares, torch.tensor([1.0] * 12 + [0.5] * 6).double())


def test_few_neighbours_count_fully_and_none_is_made_up():
    far = Crystal(np.diag([7.0, 30.0, 31.0]), np.zeros((1, 3)), np.array([10]))
    inputs = graph(far)
    torch.testing.assert_close(inputs["edge_length"], torch.tensor([7.0, 7.0]).double())
    assert nearest_shares(inputs["edge_length"], inputs["edge_index"][1], 1, 12).tolist() == [1.0, 1.0]


PUBLISHED = {  # which of the 92 are set in the table of the published code
    "C": [14, 20, 31, 38, 49, 63, 74, 79, 82],
    "Na": [1, 21, 27, 41, 46, 59, 73, 78, 87],
    "Fe": [8, 22, 29, 40, 53, 61, 72, 80, 83],
    "Cu": [11, 22, 29, 39, 56, 61, 74, 80, 83],
    "Au": [11, 24, 31, 40, 56, 62, 75, 80, 84],
    "La": [0, 24, 27, 42, 47, 60, 73, 81, 87],
}


@pytest.mark.parametrize("symbol", PUBLISHED)
def test_elements_are_described_as_published(symbol):
    assert np.flatnonzero(element_features()[SYMBOLS.index(symbol)]).tolist() == PUBLISHED[symbol]


def test_every_element_has_at_most_one_bin_of_each_quantity():
    features = element_features()
    assert features.shape == (119, 92)
    assert set(np.unique(features)) == {0.0, 1.0}
    assert features[0].sum() == 0
    for part in np.split(features[1:], np.cumsum([19, 7, 10, 10, 12, 10, 10, 4]), axis=1):
        assert part.sum(axis=1).max() == 1
    for column in (slice(0, 19), slice(19, 26), slice(36, 46), slice(46, 58), slice(78, 82)):
        assert (features[1:, column].sum(axis=1) == 1).all()  # known of all: group, period, radius, valence, block


def test_harmonics_obey_the_addition_theorem():
    u, v = torch.nn.functional.normalize(torch.randn(2, 50, 3, dtype=torch.float64), dim=2)
    parts = (harmonics(u) * harmonics(v)).split([2 * degree + 1 for degree in DEGREES], dim=1)
    for degree, part in zip(DEGREES, parts, strict=True):
        legendre = scipy.special.eval_legendre(degree, (u * v).sum(dim=1).numpy())
        np.testing.assert_allclose(part.sum(dim=1).numpy(), legendre, atol=1e-12)


def test_angular_channels_tell_a_square_from_a_tetrahedron():
    square = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    tetrahedron = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    graphs = [
        {
            "x": torch.tensor([29]),
            "edge_index": torch.zeros(2, 4, dtype=torch.int64),
            "edge_length": torch.full((4,), 2.5),
            "edge_vector": 2.5 * directions,
            "batch": torch.tensor([0]),
            "n_atoms": torch.tensor([1]),
            "volume": torch.tensor([12.0]),
        }
        for directions in (square, tetrahedron, tetrahedron @ turn)
    ]
    for angular in (0, 8):
        torch.manual_seed(0)
        encoder = GatedGraph(GatedGraph.Settings(hidden=16, angular=angular)).eval()
        with torch.no_grad():
            flat, full, turned = (encoder(graph) for graph in graphs)
        torch.testing.assert_close(full, turned, rtol=1e-5, atol=1e-5)
        assert ((flat - full).abs().max() > 1e-3) == (angular > 0)
