from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crystalign.errors import InputError
from crystalign.material import Material, Provenance
from crystalign.modalities import make_modality
from crystalign.modalities.tabular import TabularModality
from crystalign.modalities.vector import Vector, VectorColumns
from crystalign.physics.descriptors import descriptors

VALUES = np.array([0.5, np.nan, -300.0], np.float32)


def test_a_vector_survives_its_column_with_what_is_missing():
    cell = pa.array([TabularModality.to_column(Vector(VALUES))], TabularModality.column_type())[0]
    np.testing.assert_array_equal(TabularModality.from_column(cell).values, VALUES)


def test_what_is_missing_is_zero_and_masked_and_large_numbers_are_bent():
    modality = make_modality("tabular", {"width": 3})
    batch = modality.collate([modality.featurise(Vector(VALUES)), modality.stand_in()])
    np.testing.assert_allclose(batch["values"][0].numpy(), np.arcsinh([0.5, 0.0, -300.0]), rtol=1e-6)
    assert batch["mask"].tolist() == [[1, 0, 1], [1, 1, 1]]
    plain = make_modality("text_embedding", {"width": 3}).featurise(Vector(VALUES))
    assert plain["values"].tolist() == [0.5, 0.0, -300.0]


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
    with pytest.raises(InputError, match=r"tabular vector of 3 numbers, expected 102.*width") as caught:
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
