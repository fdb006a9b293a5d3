"""Loss and every gradient are those of a single process, at any number of workers."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import exactness_mutations as mutations
import exactness_problem as problem
import exactness_rank
import plain_formulas as plain
from forked_ranks import run_ranks

pytestmark = pytest.mark.timeout(900)  # several processes, one after the other: minutes on a busy machine
WORLD_SIZES = (1, 2, 3, 4)
TOLERANCE = 1e-12
TRAJECTORY_TOLERANCE = 1e-11
"""Adam divides by the gradient's size, and so magnifies the rounding of small gradients."""


@functools.cache
def reference(objective: str, name: str) -> dict[str, torch.Tensor]:
    """Loss, its parts and its gradients by the plain formula."""
    step = problem.Step(plain, objective)
    total, pairs = step(*problem.PROBLEMS[name]())
    found = {f"loss of {'-'.join(pair)}": value.detach()[None] for pair, value in pairs.items()}
    return found | {"loss": total.detach()[None]} | gradients(step.net, total)


def gradients(net: torch.nn.Module, total: torch.Tensor) -> dict[str, torch.Tensor]:
    if total.requires_grad:
        total.backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in net.named_parameters()}


@functools.cache
def reference_trajectory(objective: str) -> dict[str, torch.Tensor]:
    """The weights after some steps of AdamW by the plain formula."""
    step = problem.Step(plain, objective)
    optimiser = torch.optim.AdamW(step.parameters(), lr=0.01, weight_decay=0.0)
    for number in range(problem.TRAJECTORY_STEPS):
        optimiser.zero_grad()
        total, _ = step(*problem.rolled(problem.uneven(), number))
        found = gradients(step.net, total)
        for name, parameter in step.net.named_parameters():
            parameter.grad = found[name]
        optimiser.step()
    return {name: parameter.detach() for name, parameter in step.net.named_parameters()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What each number of processes found; one start for all of them and all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(exactness_rank, folder, WORLD_SIZES)
    return folder


@pytest.fixture(scope="module", params=WORLD_SIZES)
def distributed(request, folder) -> dict[str, dict[str, torch.Tensor]]:
    """Case → tensors, of W processes."""
    places = (folder / str(request.param)).glob("*.safetensors")
    return {"W": request.param} | {path.stem: load_file(path) for path in places}


def worst(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest deviation of a tensor, relative to its largest entry (absolute where that is zero)."""
    assert set(found) == set(expected)
    return max(float((found[n] - e).abs().max() / (e.abs().max() if e.any() else 1.0)) for n, e in expected.items())


@pytest.mark.parametrize("name", problem.PROBLEMS)
@pytest.mark.parametrize("objective", problem.OBJECTIVES)
def test_loss_and_gradients_equal_those_of_the_plain_formula(distributed, objective, name):
    assert worst(distributed[f"{objective} on {name}"], reference(objective, name)) < TOLERANCE


@pytest.mark.parametrize("objective", problem.OBJECTIVES)
def test_neither_chunks_nor_the_order_of_ranks_change_anything(distributed, objective):
    expected = reference(objective, "uneven")
    assert worst(distributed[f"{objective} in one chunk"], expected) < TOLERANCE
    assert worst(distributed[f"{objective} reversed"], expected) < TOLERANCE


@pytest.mark.parametrize("objective", problem.OBJECTIVES)
def test_optimiser_trajectories_are_those_of_a_single_process(distributed, objective):
    found, expected = distributed[f"trajectory of {objective}"], reference_trajectory(objective)
    assert worst(found, expected) < TRAJECTORY_TOLERANCE


@pytest.mark.parametrize("mutation", mutations.MUTATIONS)
def test_a_mutation_of_the_formula_is_noticed(distributed, mutation):
    changed = mutations.MUTATIONS[mutation]
    expected = {n: t for n, t in reference(changed.objective, "uneven").items() if not n.startswith("loss of")}
    deviation = worst(distributed[mutation], expected)
    if distributed["W"] == 1 and changed.needs_workers:
        assert deviation < TOLERANCE  # one process has nothing to get wrong here
    else:
        assert deviation > 1e-3


def test_the_problems_are_as_hard_as_they_claim():
    pairs = set(problem.ALL_PAIRS)
    counted = {name.removeprefix("loss of ") for name in reference("clip of all pairs, weighted", "uneven")}
    assert not any("xrd" in name for name in counted if not name.startswith(("scales", "biases", "encoders")))
    _, present, _ = problem.uneven()
    assert not present["charge_density"][: problem.SAMPLES // 2].any(), "half of the ranks have none"
    _, present, _ = problem.sparse()
    counts = {pair: int((present[pair[0]] & present[pair[1]]).sum()) for pair in pairs}
    assert min(count for count in counts.values() if count) == 1
    assert reference("tensorclip", "uneven")["loss"] != 0
    assert reference("barlow of what nobody has", "uneven")["loss"] == 0


def test_every_temperature_of_a_pair_that_someone_has_gets_a_gradient():
    for pair in problem.PAIRS:
        gradient = reference("clip", "uneven")[f"scales.{'/'.join(pair)}"]
        assert bool(gradient.abs() > 1e-6) == ("xrd" not in pair)
