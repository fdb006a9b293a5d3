"""Elastic tensors turn with the crystal, respect its symmetry, are stable, and give the moduli that others compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.analysis.elasticity.elastic import ElasticTensor
from scipy.spatial.transform import Rotation

from crystalign.crystal import Crystal
from crystalign.errors import ConfigError
from crystalign.finetuning.data.scaling import TargetScaler
from crystalign.finetuning.network.elastic_head import ElasticHead
from crystalign.finetuning.network.elastic_tensors import (
    COMPONENTS,
    components,
    ieee_rotation,
    in_ieee_frame,
    mandel_to_voigt,
    moduli,
    rotated,
    vector_to_mandel,
    voigt_to_mandel,
)
from crystalign.modalities import make_modality
from crystalign.properties import PropertySpec, Quantity

WIDTH = 8
SPECS = tuple(
    PropertySpec(quantity=quantity, method="pbe", source="synthetic", vintage="2026")
    for quantity in (Quantity.BULK_MODULUS_VRH, Quantity.SHEAR_MODULUS_VRH)
)
SCALER = TargetScaler(transform="log10", mean=(2.0, 1.5), std=(0.4, 0.4))
GRAPHS = make_modality("crystal", {"dtype": "float64"})


def head(seed: int = 0, strength: float = 30.0) -> ElasticHead:
    """One whose bonds matter."""
    torch.manual_seed(seed)
    made = ElasticHead(WIDTH, 16, SPECS, SCALER).double()
    with torch.no_grad():
        made.weights.weight.mul_(strength)
    return made.eval()


def tensors(crystals: list[Crystal], made: ElasticHead | None = None) -> np.ndarray:
    """(n, 6, 6) Voigt, of one vector for all."""
    inputs = GRAPHS.collate([GRAPHS.featurise(crystal) for crystal in crystals])
    vectors = torch.linspace(-1, 1, WIDTH, dtype=torch.float64).expand(len(crystals), -1)
    with torch.no_grad():
        return mandel_to_voigt((made or head()).tensors(vectors, inputs)).numpy()


def turned(crystal: Crystal, rotation: np.ndarray) -> Crystal:
    return Crystal(crystal.lattice @ rotation.T, crystal.frac_coords, crystal.atomic_numbers, crystal.occupancies)


def triclinic() -> Crystal:
    lattice = np.array([[4.1, 0.3, 0.1], [0.4, 5.2, -0.2], [0.7, -0.5, 6.3]])
    return Crystal(lattice, np.array([[0, 0, 0], [0.41, 0.37, 0.29], [0.12, 0.78, 0.55]]), np.array([14, 8, 20]))


def random_tensor(seed: int = 0) -> np.ndarray:
    """(6, 6) Voigt, positive definite."""
    root = np.random.default_rng(seed).normal(size=(6, 6))
    return mandel_to_voigt(torch.from_numpy(root @ root.T + 20 * np.eye(6))[None])[0].numpy()


def test_notations_are_those_of_pymatgen():
    voigt = random_tensor()
    mandel = voigt_to_mandel(torch.from_numpy(voigt)[None])[0].numpy()
    full = np.array(ElasticTensor.from_voigt(voigt))
    assert np.linalg.norm(mandel) == pytest.approx(np.linalg.norm(full))  # Mandel's notation keeps lengths
    strain = np.random.default_rng(1).normal(size=(3, 3))
    strain = strain + strain.T
    stress = vector_to_mandel(torch.from_numpy(np.einsum("ijkl,kl->ij", full, strain))[None])
    assert np.allclose(mandel @ vector_to_mandel(torch.from_numpy(strain)[None])[0].numpy(), stress[0].numpy())
    assert np.allclose(mandel_to_voigt(voigt_to_mandel(torch.from_numpy(voigt)[None]))[0].numpy(), voigt)
    assert COMPONENTS[:8] == ("C11", "C12", "C13", "C14", "C15", "C16", "C22", "C23")
    named = dict(zip(COMPONENTS, components(voigt[None])[0], strict=True))
    assert (named["C13"], named["C46"], named["C66"]) == (voigt[0, 2], voigt[3, 5], voigt[5, 5])


@pytest.mark.parametrize("seed", range(3))
def test_moduli_and_rotations_are_those_of_pymatgen(seed):
    voigt, rotation = random_tensor(seed), Rotation.random(rng=seed).as_matrix()
    oracle = ElasticTensor.from_voigt(voigt)
    found = moduli(voigt_to_mandel(torch.from_numpy(voigt)[None]))
    for name in ("k_voigt", "k_reuss", "k_vrh", "g_voigt", "g_reuss", "g_vrh"):
        assert float(getattr(found, name)) == pytest.approx(getattr(oracle, name), rel=1e-10)
    assert np.allclose(rotated(voigt[None], rotation)[0], oracle.rotate(rotation).voigt)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pymatgen's use of spglib
@pytest.mark.parametrize("name", ["NaCl", "ZnO", "Si", "tetragonal", "orthorhombic"])
def test_the_ieee_frame_is_that_of_pymatgen(textbook, name):
    edges = {"tetragonal": [3.9, 3.9, 4.4], "orthorhombic": [5.1, 3.9, 4.4]}
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    crystal = Crystal(np.diag(edges[name]), sites, np.array([26, 8])) if name in edges else textbook[name]
    crystal = turned(crystal, Rotation.random(rng=7).as_matrix())
    voigt = tensors([crystal])[0]
    oracle = ElasticTensor.from_voigt(voigt).convert_to_ieee(crystal.to_pymatgen(), initial_fit=False)
    assert np.allclose(in_ieee_frame(voigt, crystal), oracle.voigt, atol=1e-6 * abs(voigt).max())


def test_the_fourfold_axis_is_the_third_also_where_it_is_short(textbook):
    c = in_ieee_frame(tensors([textbook["TiO2"]])[0], textbook["TiO2"])
    assert c[0, 0] == pytest.approx(c[1, 1])
    assert abs(c[0, 0] - c[2, 2]) > 1e-3 * c[0, 0]


@pytest.mark.parametrize("name", ["NaCl", "ZnO", "TiO2", "triclinic"])
def test_ieee_axes_are_orthonormal_right_handed_and_of_the_crystal(textbook, name):
    crystal = triclinic() if name == "triclinic" else textbook[name]
    axes = ieee_rotation(crystal)
    assert np.allclose(axes @ axes.T, np.eye(3))
    assert np.linalg.det(axes) == pytest.approx(1.0)
    turn = Rotation.random(rng=3).as_matrix()
    there, here = turned(crystal, turn), tensors([crystal])[0]
    assert np.allclose(in_ieee_frame(tensors([there])[0], there), in_ieee_frame(here, crystal), atol=1e-5)


@pytest.mark.parametrize("name", ["ZnO", "SrTiO3", "triclinic"])
def test_turning_the_crystal_turns_the_tensor(textbook, name):
    crystal = triclinic() if name == "triclinic" else textbook[name]
    rotation = Rotation.random(rng=1).as_matrix()
    here, there = tensors([crystal, turned(crystal, rotation)])
    assert np.abs(rotated(here[None], rotation)[0] - there).max() < 1e-10 * np.abs(here).max()
    assert np.abs(here - there).max() > 1e-3 * np.abs(here).max()  # or there was nothing to turn


def test_single_precision_turns_to_a_hundred_thousandth():
    crystal, rotation = triclinic(), Rotation.random(rng=1).as_matrix()
    graphs = make_modality("crystal")
    inputs = graphs.collate([graphs.featurise(c) for c in (crystal, turned(crystal, rotation))])
    with torch.no_grad():
        found = head().float().tensors(torch.linspace(-1, 1, WIDTH).expand(2, -1), inputs)
    here, there = mandel_to_voigt(found.double()).numpy()
    assert np.abs(rotated(here[None], rotation)[0] - there).max() < 1e-5 * np.abs(here).max()


@pytest.mark.parametrize("name", ["Cu", "NaCl", "Si", "SrTiO3"])
def test_a_cubic_crystal_has_three_constants(textbook, name):
    crystal = textbook[name]
    found = in_ieee_frame(tensors([crystal])[0], crystal)
    c11, c12, c44 = found[0, 0], found[0, 1], found[3, 3]
    expected = np.zeros((6, 6))
    expected[:3, :3] = c12
    expected[[0, 1, 2], [0, 1, 2]], expected[[3, 4, 5], [3, 4, 5]] = c11, c44
    assert np.allclose(found, expected, atol=1e-8 * c11)
    assert abs(2 * c44 - (c11 - c12)) > 1e-4 * c11  # it is not isotropic


def test_a_hexagonal_crystal_has_five(textbook):
    crystal = textbook["ZnO"]
    c = in_ieee_frame(tensors([crystal])[0], crystal)
    assert c[5, 5] == pytest.approx((c[0, 0] - c[0, 1]) / 2)
    assert c[0, 0] == pytest.approx(c[1, 1])
    assert c[0, 2] == pytest.approx(c[1, 2])
    assert c[3, 3] == pytest.approx(c[4, 4])
    rest = np.triu(c, 1)
    rest[:3, :3] = 0.0
    assert np.abs(rest).max() < 1e-8 * c[0, 0]
    assert abs(c[0, 0] - c[2, 2]) > 1e-3 * c[0, 0]


def test_another_cell_of_the_same_crystal_has_the_same_tensor(known, transform, cell):
    found = tensors([known, transform(known, cell)])
    assert np.allclose(found[0], found[1], atol=1e-7 * np.abs(found[0]).max())


@pytest.mark.parametrize("strength", [0.0, 30.0, 300.0])
def test_every_prediction_is_stable_against_strain(textbook, strength):
    for seed in range(3):
        found = torch.from_numpy(tensors([*textbook.values(), triclinic()], head(seed, strength)))
        assert torch.allclose(found, found.mT, rtol=1e-10)
        assert float(torch.linalg.eigvalsh(voigt_to_mandel(found)).min()) > 0.0


def test_a_crystal_without_symmetry_can_have_any_of_21_components():
    crystal = triclinic()
    logarithms = []
    for seed in range(40):
        values, vectors = torch.linalg.eigh(voigt_to_mandel(torch.from_numpy(tensors([crystal], head(seed)))))
        logarithm = vectors @ torch.diag_embed(values.log()) @ vectors.mT
        logarithms.append(components(logarithm.numpy())[0])
    singular = np.linalg.svd(np.array(logarithms) - np.mean(logarithms, axis=0), compute_uv=False)
    assert (singular > 1e-6 * singular[0]).sum() == 21


def test_it_starts_at_the_mean_modulus_of_the_training_labels(textbook):
    torch.manual_seed(0)
    made = ElasticHead(WIDTH, 16, SPECS, SCALER).double()
    with torch.no_grad():
        made.weights.weight.zero_()
        made.stiffness.weight.zero_()
    found = moduli(voigt_to_mandel(torch.from_numpy(tensors([textbook["ZnO"]], made))))
    assert float(found.k_vrh) == pytest.approx(10**2.0)
    assert float(found.g_vrh) == pytest.approx(10**1.5)


def test_moduli_train_the_tensor(textbook):
    """Gradients pass through tensor, exponential and averages, also where eigenvalues coincide."""
    torch.manual_seed(0)
    crystals = [textbook[name] for name in ("Cu", "NaCl", "ZnO", "SrTiO3")]
    inputs = GRAPHS.collate([GRAPHS.featurise(crystal) for crystal in crystals])
    made = ElasticHead(WIDTH, 16, SPECS, SCALER).double()
    vectors = torch.randn(len(crystals), WIDTH, dtype=torch.float64)
    wanted = torch.tensor(np.random.default_rng(0).normal(size=(len(crystals), 2)))
    optimiser = torch.optim.Adam(made.parameters(), lr=0.03)
    losses = []
    for _ in range(60):
        loss = (made(vectors, inputs) - wanted).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in made.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]


def test_other_targets_and_missing_structures_are_refused():
    gap = PropertySpec(quantity=Quantity.BAND_GAP, method="pbe", source="synthetic", vintage="2026")
    with pytest.raises(ConfigError, match="bulk and shear modulus, not band_gap"):
        ElasticHead(WIDTH, 16, (gap,), TargetScaler(mean=(0.0,), std=(1.0,)))
    with pytest.raises(ConfigError, match="must be one of the modalities"):
        head()(torch.zeros(1, WIDTH))
