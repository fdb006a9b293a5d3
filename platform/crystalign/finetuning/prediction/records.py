"""Predictions as plain records for a table, a file or an HTTP response; one model's failure does not stop others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from crystalign.errors import InputError
from crystalign.finetuning.prediction.predictor import Prediction, PredictorGroup
from crystalign.material import Material


def answers_of(
    group: PredictorGroup, materials: Sequence[Material], *, level: float = 0.9, batch_size: int = 64
) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """Return the predictions of all models of a group for each material, and the failures with their reason.

    Args:
        group: at least one predictor.
        materials: n materials, each with an id.
        level: of the intervals.
        batch_size: materials that pass the encoders together.

    Returns:
        (n) `{"id", "formula", "predictions": [{"model", "target", "label", "unit", "value", "lower", "upper", "level",
        "out_of_domain"}, …]}`, with an empty list if no model could read the material, and None for a number that is
        infinite or unknown; and the failures as (index of the material, model and reason).

    Raises:
        ConfigError: the level is not calibrated.
    """
    try:
        return _records(group, materials, group.predict(materials, level=level, batch_size=batch_size), level), []
    except InputError as error:
        if len(materials) == len(group.predictors) == 1:
            return [_record(materials[0], [])], [(0, f"{next(iter(group.predictors))}: {error}")]
    if len(materials) > 1:  # split into halves, so that readable materials still pass the encoders in batches
        half = len(materials) // 2
        first, wrong = answers_of(group, materials[:half], level=level, batch_size=batch_size)
        second, more = answers_of(group, materials[half:], level=level, batch_size=batch_size)
        return first + second, wrong + [(half + number, why) for number, why in more]
    said: list[dict[str, Any]] = []
    failures: list[tuple[int, str]] = []
    for name in group.predictors:
        (one,), why = answers_of(group.only([name]), materials, level=level)
        said += one["predictions"]
        failures += why
    return [_record(materials[0], said)], failures


def _records(
    group: PredictorGroup, materials: Sequence[Material], together: Mapping[str, Prediction], level: float
) -> list[dict[str, Any]]:
    records = []
    for row, material in enumerate(materials):
        said = []
        for name, predictor in group.predictors.items():
            prediction, first = together[name], predictor.members[0].config
            classifies = first.task.kind == "classification"
            for t, spec in enumerate(first.targets):
                said.append(
                    {
                        "model": name,
                        "target": spec.column,
                        "label": f"P({first.task.classes[1]})" if classifies else spec.label,
                        "unit": "" if classifies else spec.quantity.unit,
                        "value": _finite(prediction.mean[row, t]),
                        "lower": _finite(prediction.lower[row, t]),
                        "upper": _finite(prediction.upper[row, t]),
                        "level": level,
                        "out_of_domain": _finite(prediction.out_of_domain[row]),
                    }
                )
        records.append(_record(material, said))
    return records


def _record(material: Material, predictions: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": material.id, "formula": material.crystal.formula, "predictions": predictions}


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
