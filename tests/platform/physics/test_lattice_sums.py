from __future__ import annotations

import numpy as np
import pytest
import torch

from crystalign.crystal import Crystal
from crystalign.errors import ConfigError, CrystalError
from crystalign.physics import ewald, lattice_sums
from crystalign.physics.ewald_torch import lattice_sums_batch

FCC = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
SHAPES = {
    "triclinic": [[4.1, 0, 0], [0.7, 5.2, 0], [-0.9, 1.1, 6.3]],
    "needle": [[2, 0, 0], [0, 2, 0], [0, 0, 90]],
    "slab": [[3.2, 0, 0], [-1.6, 2.77, 0], [0, 0, 36]],
    "skewed": [[4, 0, 0], [7.3, 4, 0], [5, -10.2, 5]],
    "left-handed": [[0, 3, 0], [4, 0, 0], [1, 0, 5]],
    "one long": [[3, 0, 0], [0, 4, 0], [29.7, 0.3, 4]],
}


@pytest.fixture(params=SHAPES)
def shape(request):
    """A lattice, and five sites no two of which are near."""
    frac = np.array([[0.1, 0.2, 0.3], [0.6, 0.1, 0.8], [0.35, 0.7, 0.05], [0.85, 0.55, 0.5], [0.2, 0.45, 0.7]])
    return np.array(SHAPES[request.param], float), frac


def direct(lattice, frac, radius, term):
    """Σ_T term(|r_i − r_j + T|) within a sphere, and the volume of a cell."""
    most = np.ceil(radius * np.linalg.norm(np.linalg.inv(lattice), axis=0) + 1).astype(int)
    grid = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in most], indexing="ij"), -1).reshape(-1, 3)
    sums = np.zeros((len(frac), len(frac)))
    for i, j in np.ndindex(sums.shape):
        r = np.linalg.norm((grid + frac[i] - frac[j]) @ lattice, axis=1)
        sums[i, j] = term(r[r < radius]).sum()
    return sums


@pytest.mark.parametrize(
    ("lattice", "other", "distance", "madelung"),
    [
        (FCC, [0.5, 0.5, 0.5], 0.5, 1.747564594633182),  # rock salt
        (np.eye(3), [0.5, 0.5, 0.5], np.sqrt(3) / 2, 1.762674773070991),  # caesium chloride
        (FCC, [0.25, 0.25, 0.25], np.sqrt(3) / 4, 1.638055053388789),  # zinc blende
    ],
)
def test_madelung_constants(lattice, other, distance, madelung):
    sums = lattice_sums(5.64 * lattice, [[0, 0, 0], other])
    assert (sums[0, 1, 0] - sums[0, 0, 0]) * 5.64 * distance == pytest.approx(madelung, abs=1e-9)


@pytest.mark.parametrize(
    ("lattice", "expected"),
    [
        (np.eye(3), 8.40192397482754),
        (np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / np.sqrt(3), 12.2536678672923),
        (np.sqrt(2) * FCC, 14.4539210437440),
    ],
)
def test_dispersion_sums_of_the_cubic_lattices(lattice, expected):
    assert lattice_sums(2.5 * lattice, [[0.3, 0, 0]])[0, 0, 1] * 2.5**6 == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("alpha", [1.2, 3.0, 40.0])
def test_the_exponential_is_its_direct_sum(shape, alpha):
    expected = direct(*shape, 34.0 / alpha, lambda r: np.exp(-alpha * r))
    np.testing.assert_allclose(lattice_sums(*shape, alpha=alpha)[..., 2], expected, atol=1e-10)


def test_the_dispersion_is_its_direct_sum_and_a_tail(shape):
    radius = 60.0
    tail = 4 * np.pi / (3 * radius**3 * abs(np.linalg.det(shape[0])))
    expected = direct(*shape, radius, lambda r: np.where(r > 1e-6, np.maximum(r, 1e-6), np.inf) ** -6.0) + tail
    np.testing.assert_allclose(lattice_sums(*shape)[..., 1], expected, atol=2e-8)


@pytest.mark.parametrize("alpha", [0.02, 3.0])
def test_where_the_sums_are_split_does_not_matter(shape, alpha, monkeypatch):
    first = lattice_sums(*shape, alpha=alpha)
    splitting = ewald.splitting
    for factor in (0.7, 1.4):
        monkeypatch.setattr(ewald, "splitting", lambda n, v, f=factor: f * splitting(n, v))
        np.testing.assert_allclose(lattice_sums(*shape, alpha=alpha), first, rtol=1e-10, atol=1e-10)


def test_the_potential_of_a_lattice_of_charges_has_mean_zero():
    lattice, n = np.array(SHAPES["triclinic"]), 6
    grid = np.stack(np.meshgrid(*[np.arange(n) / n] * 3, indexing="ij"), -1).reshape(-1, 3)
    # The mean over a grid of n³ points is that of a lattice n times as fine, whose own mean is zero.
    sums = lattice_sums(lattice, grid)[0, :, 0]
    np.testing.assert_allclose(sums.sum(), lattice_sums(lattice / n, [[0, 0, 0]])[0, 0, 0], atol=1e-9)


def test_another_cell_has_the_same_sums(known, cell, transform):
    """Added over the images that one cell has more than the other, whichever way they are divided between cells."""
    other = transform(known, cell)
    ours, theirs = (lattice_sums(c.lattice, c.frac_coords) for c in (known, other))
    between = (other.cart_coords[:, None] - known.cart_coords) @ np.linalg.inv(known.lattice)
    classes = np.abs(between - np.rint(between)).max(axis=2).argmin(axis=1)
    member = (classes[:, None] == np.arange(len(known))).astype(float)
    folded = np.einsum("ijp,jc->icp", theirs, member)
    np.testing.assert_allclose(folded, ours[classes], atol=1e-9)


@pytest.mark.parametrize("kind", ["niggli", "lll"])
def test_reduced_cells_have_the_same_sums(known, transform, kind):
    skewed = transform(known, [[1, 0, 0], [3, 1, 0], [-2, 2, 1]]).to_pymatgen()
    reduced = Crystal.from_pymatgen(skewed.get_reduced_structure("niggli" if kind == "niggli" else "LLL"))
    first = lattice_sums(skewed.lattice.matrix, skewed.frac_coords)
    np.testing.assert_allclose(lattice_sums(reduced.lattice, reduced.frac_coords), first, atol=1e-9)


def test_sites_may_be_permuted_rotated_and_moved(shape):
    lattice, frac = shape
    first = lattice_sums(lattice, frac)
    np.testing.assert_array_equal(first, first.swapaxes(0, 1))
    order = np.array([3, 0, 4, 2, 1])
    np.testing.assert_allclose(lattice_sums(lattice, frac[order]), first[np.ix_(order, order)], atol=1e-10)
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    np.testing.assert_allclose(lattice_sums(lattice @ q, frac), first, atol=1e-10)
    np.testing.assert_allclose(lattice_sums(lattice, frac + np.array([0.3, -7.7, 2.25])), first, atol=1e-10)


def test_the_batch_in_torch_has_the_same_sums():
    rng = np.random.default_rng(0)
    lattices = [np.array(s, float) for s in SHAPES.values()] + [5.64 * FCC, 12.0 * np.eye(3), 3.0 * np.eye(3)]
    sizes = [1, 2, 5, 3, 4, 2, 2, 40, 1]
    fracs = [rng.random((n, 3)) for n in sizes]
    expected = [lattice_sums(lattice, f, alpha=2.0).reshape(-1, 3) for lattice, f in zip(lattices, fracs, strict=True)]
    tensors = torch.tensor(np.stack(lattices)), torch.tensor(np.concatenate(fracs)), torch.tensor(sizes)
    found = lattice_sums_batch(*tensors, alpha=2.0)
    assert found.dtype == torch.float64
    scale = np.concatenate(expected)
    np.testing.assert_allclose(found.numpy(), scale, rtol=1e-10, atol=1e-10)


def test_the_batch_is_differentiable():
    lattice = torch.tensor([SHAPES["triclinic"]], dtype=torch.float64, requires_grad=True)
    frac = torch.tensor([[0.1, 0.2, 0.3], [0.6, 0.1, 0.8]], dtype=torch.float64, requires_grad=True)
    sizes = torch.tensor([2])
    assert torch.autograd.gradcheck(lambda *x: lattice_sums_batch(*x, sizes), (lattice, frac), atol=1e-5)


@pytest.mark.parametrize(
    ("lattice", "frac", "said", "reason"),
    [
        (4.0 * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5], [1.0, 1.0, 0.001]], "sites 0 and 2", "overlapping-atoms"),
        (np.ones((3, 3)), [[0, 0, 0]], "singular", "bad-lattice"),
        (np.zeros((3, 3)), [[0, 0, 0]], "singular", "bad-lattice"),
        (np.full((3, 3), np.nan), [[0, 0, 0]], "singular", "bad-lattice"),
        (np.diag([1e-3, 10.0, 1e3]), [[0, 0, 0]], "own image", "bad-lattice"),
        (np.eye(3), np.zeros((0, 3)), "N >= 1", "bad-sites"),
        (np.eye(3), [[0, np.inf, 0]], "finite", "bad-sites"),
    ],
)
def test_what_has_no_sums_is_refused(lattice, frac, said, reason):
    with pytest.raises(CrystalError, match=said) as caught:
        lattice_sums(lattice, frac)
    assert caught.value.reason == reason
    frac = torch.tensor(np.array(frac))
    with pytest.raises(CrystalError) as caught:
        lattice_sums_batch(torch.tensor(np.array(lattice))[None], frac, torch.tensor([len(frac)]))
    assert caught.value.reason == reason


@pytest.mark.parametrize("alpha", [0.0, -1.0, np.nan, np.inf])
def test_an_exponential_that_does_not_decay_is_refused(alpha):
    with pytest.raises(ConfigError, match="alpha"):
        lattice_sums(np.eye(3), [[0, 0, 0]], alpha=alpha)
