"""A crystal's vector depends on the crystal, not on how it is written down: for every crystal encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crystalign.crystal import Crystal
from crystalign.encoders import ENCODERS, make_encoder
from crystalign.encoders.pyg import MODELS
from crystalign.modalities import make_modality

CRYSTAL_ENCODERS = [name for name, entry in ENCODERS.items() if entry.modality == "crystal" and name != "pyg"]
CRYSTAL_ENCODERS += [f"pyg {model}" for model in MODELS]


@pytest.fixture
def crystal():
    """A triclinic cell of five atoms of three elements: no symmetry hides a mistake."""
    rng = np.random.default_rng(5)
    lattice = np.array([[4.1, 0.0, 0.0], [0.7, 5.2, 0.0], [-0.9, 1.1, 6.3]])
    frac = np.array([[0.1, 0.2, 0.3], [0.6, 0.1, 0.8], [0.35, 0.7, 0.05], [0.85, 0.55, 0.5], [0.2, 0.45, 0.7]])
    return Crystal(lattice, frac + 0.01 * rng.random((5, 3)), np.array([22, 8, 8, 38, 8]))


def rotated(crystal):
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    return Crystal(crystal.lattice @ q, crystal.frac_coords, crystal.atomic_numbers)


def translated(crystal):
    return Crystal(crystal.lattice, crystal.frac_coords + np.array([0.3, -0.7, 0.25]), crystal.atomic_numbers)


def permuted(crystal):
    order = np.array([3, 0, 4, 2, 1])
    return Crystal(crystal.lattice, crystal.frac_coords[order], crystal.atomic_numbers[order])


def with_other_vectors(crystal):
    """The same lattice by other vectors: a, b + a, c − 2b."""
    change = np.array([[1, 0, 0], [1, 1, 0], [0, -2, 1]])
    return Crystal(change @ crystal.lattice, crystal.frac_coords @ np.linalg.inv(change), crystal.atomic_numbers)


def supercell(crystal):
    shifts = np.array([[i, j, k] for i in range(2) for j in range(1) for k in range(3)])
    frac = (crystal.frac_coords[None] + shifts[:, None]).reshape(-1, 3) / [2, 1, 3]
    return Crystal(np.diag([2, 1, 3]) @ crystal.lattice, frac, np.tile(crystal.atomic_numbers, len(shifts)))


def vectors(name, crystals, dtype=torch.float32):
    torch.manual_seed(0)
    name, _, model = name.partition(" ")
    features = ENCODERS[name].features | {"dtype": str(dtype).removeprefix("torch.")}
    encoder = make_encoder(name, {"model": model} if model else None).to(dtype).eval()
    modality = make_modality("crystal", features)
    inputs = modality.collate([modality.featurise(c) for c in crystals])
    assert {t.dtype for t in inputs.values() if t.is_floating_point()} == {dtype}
    with torch.no_grad():
        return encoder(inputs)


@pytest.mark.parametrize("name", CRYSTAL_ENCODERS)
@pytest.mark.parametrize("change", [rotated, translated, permuted, with_other_vectors, supercell])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_vector_does_not_change(name, change, dtype, tolerance, crystal):
    first, second = vectors(name, [crystal, change(crystal)], dtype)
    torch.testing.assert_close(first, second, rtol=0, atol=tolerance * max(1.0, first.abs().max().item()))


@pytest.mark.parametrize("name", CRYSTAL_ENCODERS)
def test_the_vector_changes_with_the_crystal(name, crystal):
    moved = crystal.frac_coords.copy()
    moved[1, 0] += 0.05
    others = [
        Crystal(crystal.lattice, moved, crystal.atomic_numbers),
        Crystal(1.02 * crystal.lattice, crystal.frac_coords, crystal.atomic_numbers),
        Crystal(crystal.lattice, crystal.frac_coords, np.array([22, 8, 8, 56, 8])),
    ]
    first, *rest = vectors(name, [crystal, *others])
    assert all((first - other).abs().max() > 1e-3 for other in rest)


@pytest.mark.parametrize("name", CRYSTAL_ENCODERS)
def test_a_mixed_site_lies_between_and_full_occupancy_is_an_ordered_site(name, crystal):
    sites = [((int(z), 1.0),) for z in crystal.atomic_numbers]
    full = Crystal(crystal.lattice, crystal.frac_coords, crystal.atomic_numbers, tuple(sites))
    sites[3] = ((38, 0.5), (56, 0.5))
    mixed = Crystal(crystal.lattice, crystal.frac_coords, crystal.atomic_numbers, tuple(sites))
    ordered, same, other = vectors(name, [crystal, full, mixed])
    torch.testing.assert_close(ordered, same, rtol=1e-6, atol=1e-7)
    assert (ordered - other).abs().max() > 1e-3
