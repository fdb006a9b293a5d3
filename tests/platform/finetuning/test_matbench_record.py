"""Records are those that matbench writes and checks."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crystalign.errors import FileFormatError
from crystalign.finetuning.results.matbench import Fold, fold_of, fold_scores, read_record, record, write_record


def folds(n: int = 5) -> list[Fold]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(n):
        values, predicted = rng.normal(size=(2, 7))
        ids = [f"mb-log-kvrh-{number}{row}" for row in range(7)]
        named = dict(zip(ids, predicted.tolist(), strict=True))
        made.append(Fold(named, fold_scores(values, predicted), {"lr": 1e-3, "alpha": "b"}))
    return made


def test_a_record_comes_back(tmp_path):
    write_record(str(tmp_path / "results.json"), {"matbench_log_kvrh": folds()}, {"authors": "nobody"})
    assert read_record(str(tmp_path / "results.json")) == {"matbench_log_kvrh": folds()}


def test_the_layout_is_matbenchs():
    found = record({"matbench_log_kvrh": folds()})
    assert set(found) == {
        "@module", "@class", "version", "benchmark_name", "tasks", "user_metadata", "datestamp", "hash",
    }  # fmt: skip
    assert found["benchmark_name"] == "matbench_v0.1"
    task = found["tasks"]["matbench_log_kvrh"]
    assert set(task) == {"@module", "@class", "benchmark_name", "dataset_name", "results"}
    assert list(task["results"]) == [f"fold_{n}" for n in range(5)]
    assert set(task["results"]["fold_0"]) == {"data", "parameters", "scores"}
    assert set(task["results"]["fold_0"]["scores"]) == {"mae", "rmse", "mape", "max_error"}
    assert all(isinstance(value, float) for value in task["results"]["fold_0"]["scores"].values())
    assert set(fold_scores([0, 1], [0.2, 0.7], classification=True)) == {
        "accuracy", "balanced_accuracy", "f1", "rocauc",
    }  # fmt: skip


def test_the_hash_is_of_the_sorted_json_of_the_rest():
    found = record({"matbench_log_kvrh": folds(1)})
    stated = found.pop("hash")

    def in_order(values):
        return {k: in_order(v) if isinstance(v, dict) else v for k, v in sorted(values.items())}

    assert hashlib.sha256(json.dumps(in_order(found)).encode()).hexdigest() == stated


def test_an_altered_record_is_refused(tmp_path):
    path = tmp_path / "results.json"
    write_record(str(path), {"matbench_log_kvrh": folds()})
    path.write_text(path.read_text().replace('"alpha": "b"', '"alpha": "c"', 1))
    with pytest.raises(FileFormatError, match="altered"):
        read_record(str(path))
    path.write_text("[]")
    with pytest.raises(FileFormatError, match="no record"):
        read_record(str(path))


def test_scores_are_matbenchs():
    found = fold_scores([1.0, 2.0, 0.0], [2.0, 2.0, 3.0])
    assert found == pytest.approx({"mae": 4 / 3, "rmse": np.sqrt(10 / 3), "mape": 0.5, "max_error": 3.0})
    classified = fold_scores([1, 1, 0, 0], [0.9, 0.3, 0.6, 0.1], classification=True)
    assert classified == pytest.approx({"accuracy": 0.5, "balanced_accuracy": 0.5, "f1": 0.5, "rocauc": 0.75})


@pytest.mark.parametrize("wrong", [0.0, -3.0, np.nan])
def test_a_prediction_without_a_logarithm_is_refused_and_named(tmp_path, wrong):
    columns = {"id": ["a", "b"], "part": ["test", "test"], "k_vrh": [100.0, 10.0]}
    pq.write_table(pa.table(columns | {"k_vrh_predicted": [10.0, 10.0]}), tmp_path / "predictions.parquet")
    assert fold_of(str(tmp_path), "k_vrh", log10=True).scores["mae"] == pytest.approx(0.5)
    pq.write_table(pa.table(columns | {"k_vrh_predicted": [10.0, wrong]}), tmp_path / "predictions.parquet")
    with pytest.raises(FileFormatError, match="1 of the predictions of 'k_vrh' are not positive"):
        fold_of(str(tmp_path), "k_vrh", log10=True)
