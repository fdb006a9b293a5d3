"""Matbench's record format: five folds of predictions with their scores, as its leaderboard accepts them.

A record holds, for each task such as `matbench_log_kvrh`, the folds `fold_0` … `fold_4`, each with `data` (id →
prediction), `parameters` and `scores`, and a sha256 of all of it (Dunn et al., npj Comput. Mater. 6, 138 (2020)). The
folds themselves come from matbench's validation file: `PublishedSplit` with `part: splits/<task>/fold_0`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from crystalign import storage
from crystalign.errors import FileFormatError
from crystalign.finetuning.results.metrics import roc_auc

BENCHMARK, VERSION = "matbench_v0.1", "0.6"
REGRESSION = ("mae", "rmse", "mape", "max_error")
CLASSIFICATION = ("accuracy", "balanced_accuracy", "f1", "rocauc")
SMALLEST = 1e-5
"""Labels closer to zero are ignored in `mape`."""


class Fold(NamedTuple):
    """The predictions of one fold."""

    predictions: Mapping[str, float]
    """Id of a test material → prediction; for classification, the probability."""
    scores: Mapping[str, float]
    """Scores from `fold_scores`."""
    parameters: Mapping[str, Any] = {}
    """Description of the model."""


def fold_scores(values: ArrayLike, predicted: ArrayLike, *, classification: bool = False) -> dict[str, float]:
    """Compute the scores of a fold as defined by matbench.

    Regression: mean absolute error, root mean square error, mean relative error over labels above 10⁻⁵, and maximum
    error. Classification: accuracy, balanced accuracy and F₁ at a threshold of 0.5, and the area under the ROC curve.

    Args:
        values: (n,) labels; 0 or 1 for classification.
        predicted: (n,).
        classification: which scores.
    """
    y, z = np.asarray(values, np.float64), np.asarray(predicted, np.float64)
    if classification:
        return _classified(y > 0.5, z)
    error, far = np.abs(y - z), np.abs(y) > SMALLEST
    mape = float(np.mean(error[far] / np.abs(y[far]))) if far.any() else 0.0
    scores = (float(error.mean()), float(np.sqrt(np.square(error).mean())), mape, float(error.max()))
    return dict(zip(REGRESSION, scores, strict=True))


def _classified(positive: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> dict[str, float]:
    said = probabilities > 0.5
    hits = said == positive
    recalls = [float(hits[positive == side].mean()) for side in (True, False) if (positive == side).any()]
    both = int((said & positive).sum())
    f1 = 2.0 * both / max(int(said.sum()) + int(positive.sum()), 1)
    scores = (float(hits.mean()), float(np.mean(recalls)), f1, roc_auc(positive, probabilities))
    return dict(zip(CLASSIFICATION, scores, strict=True))


def fold_of(folder: str, target: str, *, log10: bool = False, classification: bool = False) -> Fold:
    """Convert the test part of a finished trial to a fold.

    Args:
        folder: folder of the trial, whose split must be that of the fold.
        target: the property column.
        log10: matbench's target is the logarithm of the column, as of `matbench_log_kvrh`.
        classification: which scores.

    Raises:
        FileFormatError: the trial predicted no such column, or, with `log10`, a value that is not positive.
    """
    with storage.open_input(storage.join(folder, "predictions.parquet")) as source:
        table = pq.read_table(source)
    if target not in table.column_names:
        raise FileFormatError(f"{folder} predicted no {target!r}: {', '.join(table.column_names)}", reason="no-column")
    test = table.filter(pa.array([part == "test" for part in table.column("part").to_pylist()]))
    values, predicted = (test.column(name).to_numpy() for name in (target, f"{target}_predicted"))
    if log10:
        _check_positive(target, {"the labels": values, "the predictions": predicted})
        values, predicted = np.log10(values), np.log10(predicted)
    scores = fold_scores(values, predicted, classification=classification)
    return Fold(dict(zip(test.column("id").to_pylist(), predicted.tolist(), strict=True)), scores)


def _check_positive(target: str, columns: Mapping[str, NDArray[np.float64]]) -> None:
    """Refuse values without a logarithm, which would turn the scores of the fold into NaN.

    Raises:
        FileFormatError: a value that is not positive.
    """
    for name, values in columns.items():
        wrong = np.flatnonzero(~(values > 0))
        if len(wrong):
            raise FileFormatError(
                f"{len(wrong)} of {name} of {target!r} are not positive, such as {values[wrong[0]]:g}, and have no "
                "logarithm; fit the logarithm itself, by `transform: log10` of the task",
                reason="not-positive",
            )


def record(tasks: Mapping[str, Sequence[Fold]], user_metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Make a record of complete tasks.

    Args:
        tasks: `matbench_log_kvrh`, … → its folds, in order.
        user_metadata: about the algorithm, e.g. its authors.
    """
    described = {
        name: {
            "@module": "matbench.task",
            "@class": "MatbenchTask",
            "benchmark_name": BENCHMARK,
            "dataset_name": name,
            "results": {
                f"fold_{number}": {
                    "data": dict(fold.predictions),
                    "parameters": dict(fold.parameters),
                    "scores": dict(fold.scores),
                }
                for number, fold in enumerate(folds)
            },
        }
        for name, folds in tasks.items()
    }
    whole: dict[str, Any] = {
        "@module": "matbench.bench",
        "@class": "MatbenchBenchmark",
        "version": VERSION,
        "benchmark_name": BENCHMARK,
        "tasks": described,
        "user_metadata": dict(user_metadata or {}),
        "datestamp": datetime.now(UTC).strftime("%Y.%m.%d %H:%M.%S"),
    }
    return whole | {"hash": _hash(whole)}


def write_record(uri: str, tasks: Mapping[str, Sequence[Fold]], user_metadata: Mapping[str, Any] | None = None) -> None:
    """Write a record as JSON."""
    storage.write_bytes(uri, json.dumps(record(tasks, user_metadata)).encode())


def read_record(uri: str) -> dict[str, list[Fold]]:
    """Read the tasks of a record and check its hash.

    Raises:
        FileFormatError: the file is not a record, or was altered.
    """
    try:
        whole = json.loads(storage.read_bytes(uri))
        stated = whole.pop("hash")
        tasks = {name: _folds(task["results"]) for name, task in whole["tasks"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{uri} holds no record of Matbench: {error!r}", reason="bad-record") from error
    if _hash(whole) != stated:
        raise FileFormatError(f"{uri} is not what its hash says: it was altered", reason="bad-record")
    return tasks


def _folds(results: Mapping[str, Any]) -> list[Fold]:
    ordered = sorted(results, key=lambda name: int(name.removeprefix("fold_")))
    return [Fold(results[name]["data"], results[name]["scores"], results[name]["parameters"]) for name in ordered]


def _hash(values: Mapping[str, Any]) -> str:
    """sha256 of the JSON of a dictionary, keys sorted at every level."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
