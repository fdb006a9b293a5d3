"""A fit on W processes is the fit of one: the same weights, the same history, one result."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import fit_rank as worker
from crystalign.finetuning.trials.config import TrialResult
from crystalign.finetuning.trials.trial import finished
from forked_ranks import run_ranks

pytestmark = pytest.mark.timeout(900)  # several processes, one after the other: minutes on a busy machine
WORLD_SIZES = (2, 3)

TABLE = {"encoder": "tabular-mlp", "options": {"inputs": 4, "layers": [16]}, "features": {"width": 4}}
FORMULA = {"encoder": "composition-transformer", "options": {"hidden": 8, "layers": 1}}
RECIPE = {"max_epochs": 3, "warmup_epochs": 1, "batch_size": 32, "save_seconds": 0.0}
TOLERANCE = 1e-11
"""Sums in another order, magnified by Adam; a mistake changes more than 1e-6."""


@pytest.fixture(scope="module")
def trials(trial):
    """Two modalities of which one is often missing, met early and late, and a classification of two targets' labels.

    129 rows train in batches of 32: the last batch has one row, so that other ranks have none.
    """
    common = {"encoders": {"composition": FORMULA, "tabular": TABLE}, "recipe": RECIPE, "fusion": {"hide": 0.0}}
    late = {"kind": "late", "hide": 0.0}
    return {
        "early": trial(**common, n_labels=97),
        "late": trial(**common | {"fusion": late}, n_labels=97),
        "classes": trial(
            **common | {"fusion": late}, task={"target": "total_magnetization_per_atom", "kind": "classification"}
        ),
    }


@pytest.fixture(scope="module")
def folder(trials, tmp_path_factory):
    """What each number of processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    described = {name: config.model_dump(mode="json") for name, config in trials.items()}
    (folder / "trials.json").write_text(json.dumps(described))
    run_ranks(worker, folder, WORLD_SIZES)
    return folder


@pytest.fixture(params=WORLD_SIZES)
def together(request, folder):
    return request.param, folder


@pytest.fixture(scope="module")
def alone(trials):
    """Weights of one process with two threads of torch; the ranks have one thread each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    try:
        found = {name: worker.fitted(config) for name, config in trials.items()}
        late = trials["late"].model_copy(update={"recipe": worker.BRIEF})
        return found | {"late, brief": worker.fitted(late)}
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)


def worst(found, expected) -> float:
    assert set(found) == set(expected)
    return max(float((found[n] - e).abs().max() / e.abs().max().clamp(min=1e-3)) for n, e in expected.items())


@pytest.mark.parametrize("name", ["early", "late", "classes"])
def test_weights_and_history_are_those_of_one_process(together, alone, name):
    world, folder = together
    assert worst(load_file(folder / f"{name}-{world}.safetensors"), alone[name]) < TOLERANCE


@pytest.mark.parametrize("name", worker.MUTATIONS)
def test_a_mutation_is_noticed(together, alone, name):
    world, folder = together
    found, expected = load_file(folder / f"{name}-{world}.safetensors"), alone["late, brief"]
    weights = {key: value for key, value in expected.items() if key != "history"}
    assert worst({key: found[key] for key in weights}, weights) > 1e-6


def test_all_ranks_return_the_result_that_one_wrote(together, trials):
    world, folder = together
    results = [
        TrialResult.model_validate_json((folder / f"result-{world}-{rank}.json").read_text()) for rank in range(world)
    ]
    assert all(result == results[0] for result in results)
    assert finished(trials["early"], str(folder / f"run-{world}")) == results[0]
    assert not (folder / f"run-{world}" / "state").exists()
