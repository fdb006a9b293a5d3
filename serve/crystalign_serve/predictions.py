"""Properties predicted by fine-tuned models: what the models are, and their answers in this process."""

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
"""For all that the models read and a request does not hold; looked at between two modalities of a crystal."""


class PredictJob(NamedTuple):
    """What one request asks of the models."""

    materials: tuple[Material, ...]
    """At least one, each with an id."""
    models: tuple[str, ...]
    """At least one, by name."""
    level: float
    """Of the intervals."""


class CompleteJob(NamedTuple):
    """A job with what follows from its structures."""

    job: PredictJob
    """Its materials have what could be derived."""
    problems: list[list[str]]
    """Of each material, what could not be, and why."""


class Predicted(NamedTuple):
    """What the models say of one material."""

    predictions: list[dict[str, Any]]
    """Of each model and target: `crystalign.finetuning.prediction.records`."""
    problems: list[str]
    """What could not be computed or read, and why."""


class Predictors(Protocol):
    """Fine-tuned models, wherever they run."""

    async def predict(self, job: PredictJob) -> list[Predicted]:
        """One answer per material."""


def find_models(uri: str) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Name → place of the fine-tuned models at a URI, and what the service says of each.

    Raises:
        ModelError: there is none, or one is of a version that is not known.
    """
    places = find_predictors(uri)
    return places, [_described(name, place) for name, place in places.items()]


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


def load_group(places: Mapping[str, str], device: str = "cpu") -> PredictorGroup:
    """The models, each of their different encoders once in memory.

    Raises:
        ModelError: one is broken.
    """
    from crystalign.finetuning.prediction.predictor import PredictorGroup

    group = PredictorGroup({name: load_predictor(uri) for name, uri in places.items()})
    group.share_encoders()
    for predictor in group.predictors.values():
        for member in predictor.members:
            cast("nn.Module", member).to(device)
    return group


def complete(group: PredictorGroup, job: PredictJob) -> CompleteJob:
    """Derive what the models of a job read and its materials lack, within a limited time."""
    from crystalign.rejects import Reject

    until = time.monotonic() + DERIVE_SECONDS
    wanted, materials, problems = group.only(job.models).modalities, list[Material](), list[list[str]]()
    for material in job.materials:
        rejects: list[Reject] = []
        late = [name for name in wanted if derivation_of(name) is not None and material.value(name) is None]
        while late and time.monotonic() < until:
            material = extended(material, [late.pop(0)], DERIVE_SECONDS, rejects)  # noqa: PLW2901 (it grows)
        materials.append(material)
        told = [f"{reject.stage}: {reject.message}" for reject in rejects]
        told += [f"{name}: not computed within {DERIVE_SECONDS:g} s; send fewer structures at a time" for name in late]
        problems.append(told)
    return CompleteJob(job._replace(materials=tuple(materials)), problems)


def predict_jobs(group: PredictorGroup, jobs: Sequence[CompleteJob]) -> list[list[Predicted]]:
    """Answers to several requests; those that ask the same of the same models pass the encoders together."""
    from crystalign.finetuning.prediction.records import answers_of

    answers: list[list[Predicted]] = [[] for _ in jobs]
    kinds: dict[tuple[tuple[str, ...], float], list[int]] = {}
    for number, (job, _) in enumerate(jobs):
        kinds.setdefault((job.models, job.level), []).append(number)
    for (models, level), numbers in kinds.items():
        materials = [material for number in numbers for material in jobs[number].job.materials]
        problems = [list(told) for number in numbers for told in jobs[number].problems]
        records, wrong = answers_of(group.only(models), materials, level=level)
        for place, why in wrong:
            problems[place].append(why)
        told = zip(records, problems, strict=True)
        found = iter([Predicted(record["predictions"], said) for record, said in told])
        for number in numbers:
            answers[number] = [next(found) for _ in jobs[number].job.materials]
    return answers


class LocalPredictors:
    """Fine-tuned models in this process."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._group = load_group(places)

    async def predict(self, job: PredictJob) -> list[Predicted]:
        """One answer per material."""
        ready = await asyncio.to_thread(complete, self._group, job)
        (answers,) = await asyncio.to_thread(predict_jobs, self._group, [ready])
        return answers


def listed(material: Material | None, name: str, predicted: Predicted) -> dict[str, Any]:
    """One entry of an answer; `name` is what the request calls a structure that could not be read."""
    return {
        "id": name if material is None else material.id,
        "formula": None if material is None else pretty_formula(material.crystal.formula),
        "predictions": predicted.predictions,
        "problems": predicted.problems,
        "remarks": [] if material is None else list(material.remarks),
    }
