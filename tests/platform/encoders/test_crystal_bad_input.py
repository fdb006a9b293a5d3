"""Crystals at the edge of what is possible: every crystal encoder gives finite vectors, or says which limit it has."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from crystalign.crystal import MAX_ATOMIC_NUMBER, Crystal
from crystalign.encoders import ENCODERS, make_encoder
from crystalign.encoders.pyg import MODELS
from crystalign.errors import CrystalError
from crystalign.modalities import make_modality

CRYSTAL_ENCODERS = [name for name, entry in ENCODERS.items() if entry.modality == "crystal" and name != "pyg"]
CRYSTAL_ENCODERS += [f"pyg {model}" for model in MODELS]
ROCK_SALT = 2.82 * (np.ones((3, 3)) - np.eye(3))
TWO_SITES = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
HALF = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def five_hundred_atoms():
    grid = np.stack(np.meshgrid(*[np.arange(5)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    frac = ((grid + HALF) / 5).reshape(-1, 3)
    moved = frac + 0.002 * np.random.default_rng(0).normal(size=frac.shape)
    return Crystal(5 * 3.61 * np.eye(3), moved, np.where(np.arange(500) % 2, 29, 79))


def slab():
    """Two layers of a square lattice below 30 Å of vacuum."""
    return Crystal(np.diag([3.0, 3.0, 32.0]), np.array([[0, 0, 0], [0.5, 0.5, 2 / 32]]), np.array([22, 8]))


CRYSTALS = {
    "one atom": lambda: Crystal(1.8 * (np.ones((3, 3)) - np.eye(3)), np.zeros((1, 3)), np.array([29])),
    "no neighbour in the cutoff": lambda: Crystal(np.diag([30.0, 31.0, 32.0]), np.zeros((1, 3)), np.array([10])),
    "one site far from the others": lambda: Crystal(
        30.0 * np.eye(3), np.array([[0, 0, 0], [0.1, 0, 0], [0.5, 0.5, 0.5]]), np.array([1, 1, 2])
    ),
    "500 atoms": five_hundred_atoms,
    "a slab": slab,
    "a needle": lambda: Crystal(np.diag([2.0, 2.0, 90.0]), np.array([[0, 0, 0], [0, 0, 0.5]]), np.array([26, 26])),
    "a flat, skewed cell": lambda: Crystal(
        np.array([[4.0, 0, 0], [39.9, 2.5, 0], [0.3, 0.2, 5.0]]), np.zeros((1, 3)), np.array([79])
    ),
    "a mixed site": lambda: Crystal(ROCK_SALT, TWO_SITES, np.array([11, 17]), (((11, 0.6), (19, 0.4)), ((17, 1.0),))),
    "vacancies": lambda: Crystal(ROCK_SALT, TWO_SITES, np.array([28, 8]), (((28, 0.5),), ((8, 1.0),))),
    "hardly anything on a site": lambda: Crystal(ROCK_SALT, TWO_SITES, np.array([28, 8]), (((28, 1e-3),), ((8, 1.0),))),
    "atoms nearly on each other": lambda: Crystal(
        5.0 * np.eye(3), np.array([[0, 0, 0], [0.1, 0, 0]]), np.array([6, 8])
    ),
    "the heaviest elements": lambda: Crystal(ROCK_SALT, TWO_SITES, np.array([101, MAX_ATOMIC_NUMBER])),
}


def embed(name, crystals):
    torch.manual_seed(0)
    name, _, model = name.partition(" ")
    encoder = make_encoder(name, {"model": model} if model else None).eval()
    modality = make_modality("crystal", ENCODERS[name].features)
    inputs = modality.collate([modality.featurise(crystal) for crystal in crystals])
    vectors = encoder(inputs)
    return encoder, vectors


@pytest.mark.parametrize("name", CRYSTAL_ENCODERS)
@pytest.mark.parametrize("kind", CRYSTALS)
def test_a_finite_vector_and_gradient_or_an_error_that_names_the_limit(name, kind):
    try:
        encoder, vectors = embed(name, [CRYSTALS[kind]()])
    except CrystalError as error:
        assert re.search(r"at most .*\d|limit .*\d", str(error))  # noqa: PT017 (either is right)
        return
    vectors.square().sum().backward()
    assert torch.isfinite(vectors).all()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", CRYSTAL_ENCODERS)
def test_an_odd_crystal_does_not_change_its_neighbours_in_the_batch(name):
    usual = Crystal(ROCK_SALT, TWO_SITES, np.array([11, 17]))
    odd = [CRYSTALS[kind]() for kind in ("no neighbour in the cutoff", "a mixed site", "a needle", "vacancies")]
    with torch.no_grad():
        (alone,) = embed(name, [usual])[1]
        beside = embed(name, [odd[0], odd[1], usual, *odd[2:]])[1][2]
    torch.testing.assert_close(beside, alone, rtol=0, atol=2e-5 * max(1.0, alone.abs().max().item()))


@pytest.mark.parametrize("name", CRYSTAL_ENCODERS)
def test_every_element_has_a_vector_of_its_own(name):
    """Where a network tells elements apart by what is known of them, the heaviest are the hardest."""
    crystals = [
        Crystal(ROCK_SALT, TWO_SITES, np.array([11, z])) for z in (17, 35, 99, 100, 110, 117, MAX_ATOMIC_NUMBER)
    ]
    with torch.no_grad():
        vectors = embed(name, crystals)[1]
    assert torch.isfinite(vectors).all()
    assert torch.pdist(vectors).min() > 0


def test_no_element_beyond_the_periodic_table():
    with pytest.raises(CrystalError, match=str(MAX_ATOMIC_NUMBER)):
        Crystal(ROCK_SALT, TWO_SITES, np.array([11, MAX_ATOMIC_NUMBER + 1]))


def test_too_many_sites_are_refused_with_the_limit():
    modality = make_modality("crystal", {"max_sites": 499})
    with pytest.raises(CrystalError, match="500 sites; at most 499"):
        modality.featurise(five_hundred_atoms())
