from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crystalign.batch import make_batch
from crystalign.encoders import ENCODERS, make_encoder
from crystalign.errors import ConfigError, SpectrumError
from crystalign.modalities import make_modality
from crystalign.modalities.phonon_dos import EDGES, GRID, PhononDensityOfStates, PhononDosColumns, PhononDosModality
from crystalign.rejects import Reject
from crystalign.shards.dataset import Dataset
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign.sources import open_source
from crystalign.sources.mapping import load_mapping
from crystalign.sources.source import sample

PHONON = PhononDosModality()
F = np.linspace(-50, 1100, 2301)
BANDS = np.exp(-(((F - 200) / 40) ** 2)) + 0.3 * np.exp(-(((F - 600) / 30) ** 2))


def test_bins_hold_the_states_and_the_highest_is_one():
    standard = PhononDensityOfStates(F, BANDS).standardised()
    assert standard.densities.max() == 1.0
    inside = (EDGES[0] <= F) & (EDGES[-1] >= F)
    share = [(d[lo].sum() / d.sum()) for d, lo in ((standard.densities, GRID < 400), (BANDS[inside], F[inside] < 400))]
    assert share[0] == pytest.approx(share[1], rel=1e-4)
    assert standard.standardised() is standard
    np.testing.assert_allclose(
        PhononDensityOfStates(F, 7.3 * BANDS).standardised().densities, standard.densities, atol=1e-12
    )


def test_the_column_changes_nothing():
    standard = PhononDensityOfStates(F, BANDS).standardised()
    column = pa.array([PHONON.to_column(standard), None], PHONON.column_type())
    np.testing.assert_allclose(PHONON.from_column(column[0]).densities, standard.densities, rtol=1e-6)
    assert PHONON.featurise(PHONON.from_column(column[0]))["dos"].shape == (51,)


def test_units_are_wavenumbers():
    in_unit = {"cm-1": F, "THz": F * 0.0299792458, "meV": F * 0.1239841984}
    curves = [
        PhononDosColumns(frequencies="f", densities="d", unit=unit).read({"f": values, "d": BANDS}, None).densities
        for unit, values in in_unit.items()
    ]
    np.testing.assert_allclose(curves[1], curves[0], atol=1e-5)
    np.testing.assert_allclose(curves[2], curves[0], atol=1e-5)


@pytest.mark.parametrize(
    ("frequencies", "densities", "reason"),
    [
        (F, np.full(2301, np.nan), "nan"),
        (F[::-1], BANDS, "non-monotonic"),
        (F, BANDS[:7], "bad-shape"),
        (F, -BANDS, "negative-dos"),
        (F + 3000, BANDS, "window-not-covered"),
    ],
)
def test_what_is_no_phonon_spectrum_is_refused(frequencies, densities, reason):
    with pytest.raises(SpectrumError) as caught:
        PhononDensityOfStates(frequencies, densities).standardised()
    assert caught.value.reason == reason


def test_training_moves_and_broadens_and_keeps_the_states():
    linear = PhononDosModality(PhononDosModality.Settings(scale="linear"))
    value = PhononDensityOfStates(F, BANDS)
    plain, drawn = linear.featurise(value)["dos"], linear.featurise(value, rng=np.random.default_rng(0))["dos"]
    assert np.abs(drawn - plain).max() > 0.01
    assert drawn.sum() == pytest.approx(plain.sum(), rel=1e-5)


def test_the_published_table_becomes_a_dataset_and_a_batch(real_data, tmp_path):
    source = open_source(str(real_data / "phonon_dos" / "crystals.parquet"), mapping="phonon_dos")
    found = [m for item in sample(source.items(), 40, seed=0) for m in source.read(item)]
    materials = [m for m in found if not isinstance(m, Reject)]
    assert len(materials) == len(found) == 40
    assert all(m.value("phonon_dos").densities.max() == 1.0 for m in materials)
    commit_manifest(str(tmp_path), [write_shard(str(tmp_path), "0", materials)])
    dataset = Dataset.open(str(tmp_path))
    assert dataset.manifest.modalities["phonon_dos"] == 40
    back = list(dataset.materials(["phonon_dos"]))
    names = ("crystal", "phonon_dos")
    batch = make_batch(back[:8], {name: make_modality(name) for name in names}, np.random.default_rng(0))
    assert batch.present["phonon_dos"].all()
    assert batch.inputs["phonon_dos"]["dos"].shape == (8, 51)
    assert make_encoder("phonon-dos-transformer")(batch.inputs["phonon_dos"]).shape == (8, 192)
    assert ENCODERS["phonon-dos-transformer"].modality == "phonon_dos"


def test_a_mapping_names_only_modalities_that_tables_hold():
    mapping = load_mapping("phonon_dos")
    assert mapping.modalities["phonon_dos"].names == ("phonon_dos", "frequency_cm1")
    again = type(mapping).from_mapping(mapping.model_dump(), origin="itself")
    assert again == mapping
    plain = mapping.model_dump()
    with pytest.raises(ConfigError, match="phonon_dos is given twice"):
        type(mapping).from_mapping(plain | {"phonon_dos": {"frequencies": "f", "densities": "d"}}, origin="x")
    del plain["modalities"]
    with pytest.raises(ConfigError, match="unit"):
        type(mapping).from_mapping(
            plain | {"phonon_dos": {"frequencies": "f", "densities": "d", "unit": "Hz"}}, origin="x"
        )
    with pytest.raises(ConfigError, match="no table holds sound"):
        type(mapping).from_mapping(plain | {"modalities": {"sound": {}}}, origin="x")
