"""The hits of a screening say what the service says of a result: whether it is hypothetical, and what is predicted."""

from __future__ import annotations

import pytest

from crystalign.index.manifest import IndexManifest
from crystalign.properties import PredictedProperty
from crystalign_serve.materials import listed_result
from crystalign_serve.screening.hits import Concluded, hit_schema, hit_table
from small_service import GAP

NUMBERS = {"value": 1.5, "lower": 1.0, "upper": 2.0, "out_of_domain": 0.25}


@pytest.mark.parametrize("classes", [(), ("metal", "insulator")])
def test_hits_hold_the_mark_and_the_predictions(places, classes):
    spec = PredictedProperty(target=GAP, model="gap", model_sha256="c" * 64, level=0.9, classes=classes)
    manifest = IndexManifest.read(places.index).model_copy(update={"predictions": (spec,)})
    record = {"id": "a", "formula": "NaCl", "spacegroup_number": 225, "n_sites": 2, "source": "s", "licence": "l"}
    predicted = {column: NUMBERS[part] for part, column in spec.columns.items()}
    results = [
        listed_result(rank, 1.0, {**record, **own}, None, manifest.properties, manifest.predictions)
        for rank, own in enumerate([{"hypothetical": True, GAP.column: 3.0, **predicted}, {"hypothetical": None}], 1)
    ]
    first, second = hit_table([Concluded("q", None, results)], 0, manifest).to_pylist()
    assert (first["hypothetical"], second["hypothetical"]) == (True, False)
    assert (first[GAP.column], second[GAP.column]) == (3.0, None)
    assert {column: first[column] for column in spec.columns.values()} == predicted
    assert all(second[column] is None for column in spec.columns.values())
    assert len(spec.columns) == len(NUMBERS)
    assert set(first) == set(hit_schema(manifest).names)
