"""Predictions in an index: columns of their own, joined by place and id, never mixed with known values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crystalign.errors import ConfigError, DatasetError, VerificationError
from crystalign.index.build import build_index
from crystalign.index.embeddings import read_embeddings, write_embeddings
from crystalign.index.manifest import IndexManifest
from crystalign.index.predictions import (
    PredictionFile,
    PredictionManifest,
    PredictionProvenance,
    prediction_table,
)
from crystalign.index.search import Segment
from crystalign.properties import PredictedProperty, PropertySpec, Quantity
from crystalign.text_query.understanding import understand

GAP = PropertySpec(quantity=Quantity.BAND_GAP, method="pbe", source="mp", vintage="2026")
BULK = PropertySpec(quantity=Quantity.BULK_MODULUS_VRH, method="pbe", source="mp", vintage="2026")
MOMENT = PropertySpec(quantity=Quantity.TOTAL_MAGNETIZATION_PER_ATOM, method="pbe", source="mp", vintage="2026")
N = 300


def spec(target: PropertySpec, model: str = "gap", classes: tuple[str, ...] = ()) -> PredictedProperty:
    return PredictedProperty(target=target, model=model, model_sha256="c" * 64, level=0.9, classes=classes)


def write_predictions(
    uri: str, embeddings: str, specs: list[PredictedProperty], values: Any, rename: str = "", dataset: str = "d" * 64
) -> str:
    """Predictions of all embedded rows in files of 40 rows; a value that is NaN is missing."""
    table, _ = read_embeddings(embeddings)
    places = table.select(["id", "shard", "row"]).to_pandas()
    files = []
    making = PredictionProvenance(model_sha256="c" * 64, dataset_sha256="d" * 64)
    position = 0
    for shard, group in places.groupby("shard"):
        for start in range(0, len(group), 40):
            some = group.iloc[start : start + 40]
            records = []
            for value in values[position : position + len(some)]:
                said = {"value": value, "lower": value - 0.5, "upper": value + 0.5, "out_of_domain": abs(value)}
                records.append({(s.model, s.target.column): said for s in specs} if np.isfinite(value) else {})
            ids = [rename or name for name in some["id"]]
            first = int(some["row"].iloc[0])
            made = prediction_table(ids, int(shard), first, specs, records, [None] * len(ids))
            task = making.model_copy(update={"shard": int(shard), "row_groups": (start,)})
            entry = write_embeddings(uri, f"shard-{shard}-{start}", made, task)
            files.append(PredictionFile(**entry.model_dump(), shard=int(shard), start=first))
            position += len(some)
    manifest = PredictionManifest(
        predictions=tuple(specs), dataset_uri="data", dataset_sha256=dataset, rows=N, files=tuple(files)
    )
    manifest.write(uri)
    return uri


@pytest.fixture(scope="module")
def few(make):
    return make(N, 8, seed=5)


@pytest.fixture(scope="module")
def embeddings(few, write, tmp_path_factory) -> str:
    return write(str(tmp_path_factory.mktemp("predicted") / "embeddings"), few)


@pytest.fixture(scope="module")
def values() -> np.ndarray[Any, Any]:
    drawn = np.random.default_rng(3).normal(2.0, 2.0, N)
    drawn[::11] = np.nan
    return drawn


@pytest.fixture(scope="module")
def index(embeddings, values, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("predicted")
    one = write_predictions(str(folder / "gap"), embeddings, [spec(GAP)], values)
    two = write_predictions(str(folder / "ionic"), embeddings, [spec(MOMENT, "ionic", ("low", "high"))], values / 10)
    build_index(embeddings, str(folder / "index"), rows_per_segment=128, predictions=(one, two))
    return str(folder / "index")


@pytest.fixture(scope="module")
def segment(index) -> Segment:
    return Segment.load(index, IndexManifest.read(index))


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("band_gap", lambda v: v),
        ("band_gap_pbe", lambda v: v),
        ("band_gap_lower", lambda v: v - 0.5),
        ("band_gap_pbe_mp_2026_upper", lambda v: v + 0.5),
        ("band_gap_out_of_domain", np.abs),
        ("total_magnetization_per_atom_probability", lambda v: v / 10),
    ],
)
def test_every_part_of_a_prediction_is_a_field(name, of, segment, few, values):
    expected = np.nan_to_num(of(values), nan=-np.inf) > 1.5 * (0.1 if "prob" in name else 1.0)
    bound = 0.15 if "prob" in name else 1.5
    (found,) = segment.search(np.ones((1, 8)), N, f"_crystalign_predicted_{name} > {bound}")
    assert set(found.ids) == {i for i, kept in zip(few.ids, expected, strict=True) if kept}
    assert segment.count(f"_crystalign_predicted_{name} IS UNKNOWN") == np.isnan(values).sum()


def test_known_and_predicted_values_stay_apart(index, segment, few, values):
    manifest = IndexManifest.read(index)
    names = {field.column for field in manifest.listed_fields}
    assert {GAP.column, f"predicted_{GAP.column}", f"predicted_{GAP.column}_lower"} <= names
    by_id = {record["id"]: record for record in segment.records(np.arange(N))}
    known = few.table[GAP.column].to_pylist()
    for name, value, predicted in zip(few.ids, known, values, strict=True):
        record = by_id[name]
        assert record[GAP.column] == value
        stored = record[f"predicted_{GAP.column}"]
        assert stored is None if np.isnan(predicted) else stored == predicted


def test_an_index_with_predictions_is_another_index(embeddings, index, tmp_path):
    plain = build_index(embeddings, str(tmp_path / "plain"), rows_per_segment=128)
    assert plain.version != IndexManifest.read(index).version
    assert not any("predicted" in name for name in plain.fields)


def test_two_models_of_one_property_are_refused(embeddings, values, tmp_path):
    uris = [
        write_predictions(str(tmp_path / name), embeddings, [spec(GAP, name)], values) for name in ("first", "second")
    ]
    with pytest.raises(ConfigError, match="'first' and 'second' both predict band_gap"):
        build_index(embeddings, str(tmp_path / "index"), predictions=uris)


def test_predictions_of_another_dataset_are_refused(embeddings, values, tmp_path):
    other = write_predictions(str(tmp_path / "other"), embeddings, [spec(GAP)], values, rename="stranger")
    with pytest.raises(DatasetError, match=r"belong to another dataset: .*'stranger'"):
        build_index(embeddings, str(tmp_path / "index"), predictions=[other])
    newer = write_predictions(str(tmp_path / "newer"), embeddings, [spec(GAP)], values, dataset="e" * 64)
    with pytest.raises(DatasetError, match=r"are of dataset e{12} .* the embeddings of d{12}"):
        build_index(embeddings, str(tmp_path / "index"), predictions=[newer])
    with pytest.raises(DatasetError, match="no predictions at"):
        build_index(embeddings, str(tmp_path / "index"), predictions=[str(tmp_path / "nothing")])
    with pytest.raises(DatasetError, match="holds no predictions"):
        build_index(embeddings, str(tmp_path / "index"), predictions=[embeddings])


def test_a_damaged_file_of_predictions_is_refused(embeddings, values, tmp_path):
    uri = write_predictions(str(tmp_path / "gap"), embeddings, [spec(GAP)], values)
    victim = next((tmp_path / "gap" / "predictions").glob("*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(VerificationError):
        build_index(embeddings, str(tmp_path / "index"), predictions=[uri])


def test_words_ask_for_a_predicted_value_only_where_none_is_known(index, segment, few, values):
    manifest = IndexManifest.read(index)
    (chip,) = understand("band gap > 1.5 eV", manifest.fields).chips
    assert "(known or predicted)" in chip.label
    assert "lower" not in chip.filter
    known = np.array([np.nan if x is None else x for x in few.table[GAP.column].to_pylist()])
    hse = [name for name in few.table.column_names if "hse06" in name]
    other = np.array(few.table[hse[0]].to_pylist(), float)
    missing = np.isnan(known) & np.isnan(other)
    expected = (known > 1.5) | (other > 1.5) | (missing & (np.nan_to_num(values) > 1.5))
    assert segment.count(chip.filter) == expected.sum()
    bare = understand("bulk modulus > 100 GPa", manifest.fields)
    assert not bare.chips, "nothing is known or predicted of it"


def test_a_property_that_is_only_predicted_is_said_to_be():
    from crystalign.index.filters import make_fields

    (chip,) = understand("stiff", make_fields((), predictions=[spec(BULK)])).chips
    assert chip.label.endswith("(predicted)")
    assert chip.filter == "_crystalign_predicted_bulk_modulus_vrh>=200"
    nothing = understand("magnetic", make_fields((), predictions=[spec(MOMENT, "ionic", ("low", "high"))]))
    assert not nothing.chips, "a probability is no magnetization"
