from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crystalign.errors import ConfigError, InputError
from crystalign.material import Material, Provenance
from crystalign.modalities import make_modality
from crystalign.modalities.tabular import TabularModality
from crystalign.modalities.text_embedding import LanguageModelEntry, settings_of_language_model
from crystalign.modalities.vector import Vector, VectorColumns
from crystalign.physics.descriptors import descriptors

VALUES = np.array([0.5, np.nan, -300.0], np.float32)


def test_a_vector_survives_its_column_with_what_is_missing():
    cell = pa.array([TabularModality.to_column(Vector(VALUES))], TabularModality.column_type())[0]
    np.testing.assert_array_equal(TabularModality.from_column(cell).values, VALUES)


def test_what_is_missing_is_zero_and_masked_and_large_numbers_are_bent():
    modality = make_modality("tabular", {"width": 3})
    batch = modality.collate([modality.featurise(Vector(VALUES)), modality.empty_sample()])
    np.testing.assert_allclose(batch["values"][0].numpy(), np.arcsinh([0.5, 0.0, -300.0]), rtol=1e-6)
    assert batch["mask"].tolist() == [[1, 0, 1], [1, 1, 1]]
    plain = make_modality("text_embedding", {"width": 3}).featurise(Vector(VALUES))
    assert plain["values"].tolist() == [0.5, 0.0, -300.0]


def test_training_hides_known_numbers_at_its_rate_and_never_all_of_them():
    modality = make_modality("tabular", {"width": 100, "dropout": 0.9})
    values = np.arange(1, 101, dtype=np.float32)
    values[:40] = np.nan
    rng = np.random.default_rng(0)
    drawn = [modality.featurise(Vector(values), rng=rng) for _ in range(400)]
    masks = np.stack([d["mask"] for d in drawn])
    assert not masks[:, :40].any()  # what is not known is not invented
    assert (masks.sum(axis=1) >= 1).all()
    # one number always stays, each other one with probability 0.1: (1 + 0.1 · 59) / 60
    assert masks[:, 40:].mean() == pytest.approx(0.115, abs=0.006)  # 3 standard deviations
    for features in drawn:
        np.testing.assert_array_equal(features["values"], np.arcsinh(np.nan_to_num(values)) * features["mask"])
    whole = modality.featurise(Vector(values))
    assert whole["mask"].sum() == 60
    unchanged = make_modality("tabular", {"width": 100}).featurise(Vector(values), rng=rng)
    np.testing.assert_array_equal(unchanged["mask"], whole["mask"])


def test_the_built_in_descriptors_fit_the_default_width(textbook):
    features = make_modality("tabular").featurise(Vector(descriptors(textbook["SrTiO3"])))
    assert features["mask"].all()
    assert np.abs(features["values"]).max() < 6


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ([], "bad-shape"),
        ([[1.0]], "bad-shape"),
        (np.zeros(70_000), "bad-shape"),
        ([1.0, np.inf], "infinite"),
        ([1.0, 1e300], "infinite"),
        ([np.nan, np.nan], "nan"),
    ],
)
def test_what_is_no_vector_is_refused(wrong, reason):
    with pytest.raises(InputError) as caught:
        Vector(np.array(wrong))
    assert caught.value.reason == reason


def test_another_length_is_refused():
    with pytest.raises(InputError, match=r"tabular vector of 3 numbers, expected 133.*width") as caught:
        make_modality("tabular").featurise(Vector(VALUES))
    assert caught.value.reason == "bad-width"


def test_a_table_of_a_user_may_hold_it(textbook):
    columns = VectorColumns(values="potnet")
    assert columns.names == ("potnet",)
    assert columns.read({"potnet": VALUES.astype(float)}, textbook["Cu"]).values.dtype == np.float32


def test_vectors_that_agree_to_four_digits_are_equivalent(textbook):
    def key(name, values):
        modalities = {} if values is None else {"tabular": Vector(np.array(values))}
        return TabularModality.equivalence(Material(name, textbook["Cu"], Provenance("t", "CC0-1.0"), modalities))

    first = key("a", [1.0, np.nan])
    assert first == key("b", [1.000001, np.nan])
    assert len({first, key("c", [1.001, np.nan]), key("d", [1.0, 0.0]), key("e", None)}) == 4


FIRST = LanguageModelEntry(name="first", sha256="a" * 64, pooling="cls", max_tokens=64, width=3)


def test_a_model_learns_from_the_dataset_whose_vectors_it_reads():
    filled = settings_of_language_model({"squash": True}, FIRST, origin="data")
    assert filled == {"squash": True, "width": 3, "language_model": FIRST.identity}
    assert make_modality("text_embedding", filled).settings.language_model == FIRST.identity
    assert settings_of_language_model({"width": 5}, FIRST, origin="data")["width"] == 5  # and so is told by each row
    assert settings_of_language_model(filled, FIRST.model_copy(update={"name": "moved"}), origin="data") == filled


@pytest.mark.parametrize(
    "change", [{"sha256": "b" * 64}, {"pooling": "mean"}, {"max_tokens": 32}, {"width": 4}], ids=lambda c: next(iter(c))
)
def test_vectors_of_another_language_model_are_refused(change):
    filled = settings_of_language_model({}, FIRST, origin="data")
    other = FIRST.model_copy(update=change)
    with pytest.raises(ConfigError, match=rf"embeddings of data were made by first \(.*{FIRST.identity[:12]}"):
        settings_of_language_model(filled, other, origin="data")


def test_where_nobody_recorded_whose_they_are_nothing_is_compared():
    assert settings_of_language_model({"width": 3}, None, origin="data") == {"width": 3}
    known = {"width": 3, "language_model": FIRST.identity}
    assert settings_of_language_model(known, None, origin="data") == known
    assert make_modality("text_embedding").settings.language_model == ""
