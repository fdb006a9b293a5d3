"""Property prediction by fine-tuned models: find and describe the models, derive missing inputs, predict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from crystalign.crystal import pretty_formula
from crystalign.derivation import derivation_of, extended
from crystalign.finetuning.trials.ensemble import describe_predictor, find_predictors, load_predictor
from crystalign.material import Material

if TYPE_CHECKING:
    from torch import nn

    from crystalign.finetuning.prediction.predictor import PredictorGroup

DERIVE_SECONDS = 20.0
"""Time limit for deriving all missing inputs of a request; checked after each modality of each crystal."""


class PredictJob(NamedTuple):
    """One prediction request."""

    materials: tuple[Material, ...]
    """Materials, at least one; each has an id."""
    models: tuple[str, ...]
    """Names of the models, at least one."""
    level: float
    """Nominal coverage of the intervals."""


class CompleteJob(NamedTuple):
    """A request after the missing inputs were derived."""

    job: PredictJob
    """The request; its materials include the derived modalities."""
    problems: list[list[str]]
    """For each material, messages about inputs that could not be derived."""


class Predicted(NamedTuple):
    """Predictions for one material."""

    predictions: list[dict[str, Any]]
    """One record per model and target, as in `crystalign.finetuning.prediction.records`."""
    problems: list[str]
    """Messages about what could not be read, derived or predicted."""


class Predictors(Protocol):
    """Interface to the fine-tuned models, local or remote."""

    async def predict(self, job: PredictJob) -> list[Predicted]:
        """One answer per material."""


def find_models(uri: str) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Find the fine-tuned models at a URI.

    Returns:
        Name → URI of each model, and the descriptions that `/api/info` lists.

    Raises:
        ModelError: there is no model, or one has an unknown version.
    """
    uris = find_predictors(uri)
    return uris, [_described(name, model_uri) for name, model_uri in uris.items()]


def _described(name: str, uri: str) -> dict[str, Any]:
    described = describe_predictor(uri)
    config, card = described.config, described.card
    classifies = config.task.kind == "classification"
    return {
        "name": name,
        "targets": [
            {
                "key": spec.column,
                "label": f"P({config.task.classes[1]})" if classifies else spec.label,
                "unit": "" if classifies else spec.quantity.unit,
            }
            for spec in config.targets
        ],
        "reads": list(config.modalities),
        "trained_on": card.sizes.get("train"),
        "licences": list(card.licences),
    }


def load_group(uris: Mapping[str, str], device: str = "cpu") -> PredictorGroup:
    """Load the models. Encoders that several models share are in memory once.

    Raises:
        ModelError: a model is damaged.
    """
    from crystalign.finetuning.prediction.predictor import PredictorGroup

    group = PredictorGroup({name: load_predictor(uri) for name, uri in uris.items()})
    group.share_encoders()
    for predictor in group.predictors.values():
        for member in predictor.members:
            cast("nn.Module", member).to(device)
    return group


def complete(group: PredictorGroup, job: PredictJob) -> CompleteJob:
    """Derive the modalities that the models read and the materials lack, within `DERIVE_SECONDS`."""
    from crystalign.rejects import Reject

    until = time.monotonic() + DERIVE_SECONDS
    modalities, materials, problems = group.only(job.models).modalities, list[Material](), list[list[str]]()
    for material in job.materials:
        rejects: list[Reject] = []
        missing = [name for name in modalities if derivation_of(name) is not None and material.value(name) is None]
        while missing and time.monotonic() < until:
            material = extended(material, [missing.pop(0)], DERIVE_SECONDS, rejects)  # noqa: PLW2901 (one at a time)
        materials.append(material)
        messages = [f"{reject.stage}: {reject.message}" for reject in rejects]
        messages += [
            f"{name}: not computed within {DERIVE_SECONDS:g} s; send fewer structures at a time" for name in missing
        ]
        problems.append(messages)
    return CompleteJob(job._replace(materials=tuple(materials)), problems)


def predict_jobs(group: PredictorGroup, jobs: Sequence[CompleteJob]) -> list[list[Predicted]]:
    """Predict for several requests. Requests with the same models and level form one batch."""
    from crystalign.finetuning.prediction.records import answers_of

    answers: list[list[Predicted]] = [[] for _ in jobs]
    kinds: dict[tuple[tuple[str, ...], float], list[int]] = {}
    for number, (job, _) in enumerate(jobs):
        kinds.setdefault((job.models, job.level), []).append(number)
    for (models, level), numbers in kinds.items():
        materials = [material for number in numbers for material in jobs[number].job.materials]
        problems = [list(messages) for number in numbers for messages in jobs[number].problems]
        records, failures = answers_of(group.only(models), materials, level=level)
        for position, message in failures:
            problems[position].append(message)
        pairs = zip(records, problems, strict=True)
        predicted = iter([Predicted(record["predictions"], messages) for record, messages in pairs])
        for number in numbers:
            answers[number] = [next(predicted) for _ in jobs[number].job.materials]
    return answers


class LocalPredictors:
    """Fine-tuned models in this process."""

    def __init__(self, uris: Mapping[str, str]) -> None:
        self._group = load_group(uris)

    async def predict(self, job: PredictJob) -> list[Predicted]:
        """One answer per material."""
        ready = await asyncio.to_thread(complete, self._group, job)
        (answers,) = await asyncio.to_thread(predict_jobs, self._group, [ready])
        return answers


def listed(material: Material | None, name: str, predicted: Predicted) -> dict[str, Any]:
    """One result of a prediction response; `name` identifies a structure that could not be read."""
    return {
        "id": name if material is None else material.id,
        "formula": None if material is None else pretty_formula(material.crystal.formula),
        "predictions": predicted.predictions,
        "problems": predicted.problems,
        "remarks": [] if material is None else list(material.remarks),
    }
