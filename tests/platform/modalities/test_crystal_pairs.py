"""The lattice sums of all pairs as an optional part of a crystal's batch."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError
from crystalign.modalities.crystal import CrystalModality
from crystalign.physics import lattice_sums

PAIRS = CrystalModality(CrystalModality.Settings(lattice_sums_up_to=5))


def test_pairs_are_there_only_where_they_are_asked_for(textbook):
    plain = CrystalModality()
    assert "pair_sums" not in plain.featurise(textbook["NaCl"])
    assert "pair_index" not in plain.collate([plain.empty_sample()])
    assert PAIRS.collate([PAIRS.empty_sample()])["pair_sums"].shape == (1, 3)


def test_a_batch_holds_the_pairs_of_its_crystals_side_by_side(textbook):
    crystals = [textbook[name] for name in ("Cu", "SrTiO3", "NaCl")]
    batch = PAIRS.collate([PAIRS.featurise(c) for c in crystals])
    assert batch["pair_index"].shape == (2, 1 + 25 + 4)
    senders, receivers = batch["pair_index"]
    assert (batch["batch"][senders] == batch["batch"][receivers]).all()
    expected = [lattice_sums(c.lattice, c.frac_coords).reshape(-1, 3) for c in crystals]
    np.testing.assert_allclose(batch["pair_sums"].numpy(), np.concatenate(expected), rtol=1e-6, atol=1e-9)


def test_the_decay_is_a_setting(textbook):
    weaker = CrystalModality(CrystalModality.Settings(lattice_sums_up_to=5, lattice_sums_alpha=1.0, dtype="float64"))
    nacl = textbook["NaCl"]
    sums = lattice_sums(nacl.lattice, nacl.frac_coords, alpha=1.0).reshape(-1, 3)
    np.testing.assert_allclose(weaker.featurise(nacl)["pair_sums"], sums, atol=1e-12)


def test_cells_beyond_the_limit_are_left_out_or_refused_by_name(textbook):
    with pytest.raises(CrystalError, match=r"6 sites; .* at most 5, `lattice_sums_up_to`") as caught:
        PAIRS.featurise(textbook["TiO2"])
    assert caught.value.reason == "too-many-sites"
    table = pa.table({"n_sites": [1, 5, 6, 2000]})
    assert PAIRS.fits(table).tolist() == [True, True, False, False]
    assert CrystalModality().fits(table).tolist() == [True, True, True, False]


def test_coincident_sites_are_refused():
    twice = Crystal(4.0 * np.eye(3), np.array([[0, 0, 0], [0, 0, 0.001]]), np.array([26, 27]))
    with pytest.raises(CrystalError, match="coincide"):
        PAIRS.featurise(twice)
