from __future__ import annotations

import numpy as np
import pytest
import torch

from crystalign.crystal import Crystal
from crystalign.encoders import ENCODERS, make_encoder
from crystalign.encoders.potnet import CombinedBasis, RangedBasis
from crystalign.errors import CrystalError
from crystalign.modalities import make_modality

NAMES = ("potnet", "potnet-ranged")
UNUSUAL = {
    "one atom": Crystal(3.6 * np.eye(3), np.zeros((1, 3)), np.array([29])),
    "an isolated atom": Crystal(40.0 * np.eye(3), np.zeros((1, 3)), np.array([2])),
    "a needle": Crystal(np.diag([2.0, 2.0, 90.0]), np.array([[0, 0, 0], [0, 0, 0.5]]), np.array([26, 26])),
    "a slab": Crystal(np.diag([3.2, 3.2, 36.0]), np.array([[0, 0, 0.4], [0.5, 0.5, 0.45]]), np.array([6, 7])),
    "heavy elements": Crystal(4.0 * np.eye(3), np.array([[0, 0, 0], [0.5] * 3]), np.array([103, 118])),
    "near split sites": Crystal(
        4.0 * np.eye(3),
        np.array([[0, 0, 0], [0, 0, 0.05], [0.5] * 3]),
        np.array([26, 27, 8]),
        (((26, 0.5),), ((27, 0.25),), ((8, 1.0),)),
    ),
}


def batch(name, crystals, **settings):
    modality = make_modality("crystal", ENCODERS[name].features | settings)
    return modality.collate([modality.featurise(c) for c in crystals])


def vectors(name, crystals):
    torch.manual_seed(0)
    encoder = make_encoder(name).double().eval()
    with torch.no_grad():
        return encoder(batch(name, crystals, dtype="float64"))


def test_the_published_setting_has_the_published_number_of_weights():
    encoder = make_encoder("potnet")
    assert sum(p.numel() for p in encoder.parameters()) == 1_718_656
    assert {sum(p.numel() for p in c.parameters()) for c in encoder.convolutions} == {526_336}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_crystals_have_finite_vectors_and_gradients(name, kind):
    torch.manual_seed(0)
    encoder = make_encoder(name)
    found = encoder(batch(name, [UNUSUAL[kind]]))
    assert torch.isfinite(found).all()
    found.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_another_cell_of_a_textbook_crystal_has_its_vector(name, known, cell, transform):
    first, second = vectors(name, [known, transform(known, cell)])
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_atoms_beyond_the_local_edges_are_felt(name):
    """Two chains whose neighbours within 4 Å agree, and whose distance does not."""
    chains = [Crystal(np.diag([3.0, 9.0, b]), np.zeros((1, 3)), np.array([29])) for b in (9.0, 12.0)]
    graphs = [batch(name, [c])["edge_length"] for c in chains]
    torch.testing.assert_close(*graphs)
    first, second = vectors(name, chains)
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_more_sites_than_the_limit_are_refused_by_name(name):
    grid = np.stack(np.meshgrid(*[np.arange(6) / 6] * 3, indexing="ij"), -1).reshape(-1, 3)
    with pytest.raises(CrystalError, match=r"216 sites; .* at most 200"):
        batch(name, [Crystal(18.0 * np.eye(3), grid, np.full(216, 13))])


def test_a_ranged_basis_tells_potentials_apart_and_goes_on_beyond_its_range():
    basis = RangedBasis(64)
    typical = torch.tensor([[-0.1, 1e-4, 1e-6], [0.0, 1e-4, 1e-6], [-0.1, 2e-4, 1e-6], [-0.1, 1e-4, 4e-6]])
    rows = basis(typical)
    assert rows.shape == (4, 192)
    assert (torch.cdist(rows, rows) + 9 * torch.eye(4)).min() > 0.5
    extreme = basis(torch.tensor([[-1e3, 0.0, 0.0], [1e3, 1e9, 1.0]]))
    assert torch.isfinite(extreme).all()
    assert (extreme.reshape(2, 3, 64).amax(dim=2) > 0.8).all()
    combined = CombinedBasis(64)(typical)
    assert torch.cdist(combined, combined)[0, 3] < 0.01  # what a hard-wired mixture does not see
