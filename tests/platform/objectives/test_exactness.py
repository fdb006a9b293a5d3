"""Loss and every gradient are those of a single process, at any number of workers."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("exactness_worker.py")
spec = importlib.util.spec_from_file_location("exactness_worker", WORKER)
assert spec is not None
assert spec.loader is not None
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

TOLERANCE = 1e-12


def plain_clip(z, present, keys, scales):
    """The formula, row by row, in one process."""
    losses = []
    for a, b in worker.PAIRS:
        rows = [i for i in range(worker.SAMPLES) if present[a][i] and present[b][i]]
        if not rows:
            continue
        total = torch.zeros((), dtype=torch.float64)
        for query, key in ((a, b), (b, a)):
            for i in rows:
                others = [j for j in rows if j == i or not (keys[a][i] == keys[a][j] or keys[b][i] == keys[b][j])]
                logits = torch.stack([scales[a, b] * z[query][i] @ z[key][j] for j in others])
                total = total - 0.5 * logits.log_softmax(0)[others.index(i)]
        losses.append(total / len(rows))
    return sum(losses) / len(losses)


def plain_siglip(z, present, keys, scales, biases):
    """The sigmoid formula, row by row, in one process."""
    losses = []
    for a, b in worker.PAIRS:
        rows = [i for i in range(worker.SAMPLES) if present[a][i] and present[b][i]]
        if not rows:
            continue
        total = torch.zeros((), dtype=torch.float64)
        for i in rows:
            for j in rows:
                if i != j and (keys[a][i] == keys[a][j] or keys[b][i] == keys[b][j]):
                    continue
                logit = scales[a, b] * z[a][i] @ z[b][j] + biases[a, b]
                total = total - torch.nn.functional.logsigmoid(logit if i == j else -logit)
        losses.append(total / len(rows))
    return sum(losses) / len(losses)


@pytest.fixture(scope="module")
def reference() -> dict[str, dict[str, torch.Tensor]]:
    """Loss and gradients of the plain formulas."""
    x, present, keys = worker.problem()
    found = {}
    for objective in ("clip", "siglip"):
        net = worker.Net()
        z = net.embed(x, present)
        if objective == "clip":
            loss = plain_clip(z, present, keys, net.scale())
        else:
            loss = plain_siglip(z, present, keys, net.scale(), net.bias())
        loss.backward()
        grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in net.named_parameters()}
        found[objective] = grads | {"loss": loss.detach()[None]}
    return found


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def distributed(request, tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    """Variant → loss and gradients, of W processes; one start per W for all variants."""
    world_size = request.param
    folder = tmp_path_factory.mktemp(f"world-{world_size}")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, str(WORKER), str(rank), str(world_size), str(folder)], env=environment)
        for rank in range(world_size)
    ]
    assert [rank.wait(timeout=200) for rank in ranks] == [0] * world_size
    return {"W": world_size} | {path.stem: load_file(path) for path in folder.glob("*.safetensors")}


def worst(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest deviation of a tensor, relative to its largest entry (absolute where that is zero)."""
    assert set(found) == set(expected)
    return max(float((found[n] - e).abs().max() / (e.abs().max() if e.any() else 1.0)) for n, e in expected.items())


@pytest.mark.parametrize("objective", ["clip", "siglip"])
def test_loss_and_gradients_equal_those_of_the_plain_formula(distributed, reference, objective):
    assert worst(distributed[objective], reference[objective]) < TOLERANCE


def test_every_temperature_of_a_pair_that_someone_has_gets_a_gradient(reference):
    for pair in worker.PAIRS:
        gradient = reference["clip"][f"scales.{'/'.join(pair)}"]
        assert bool(gradient.abs() > 1e-6) == ("xrd" not in pair)


@pytest.mark.parametrize("mutation", worker.MUTATIONS)
def test_a_mutation_of_the_formula_is_noticed(distributed, reference, mutation):
    deviation = worst(distributed[mutation], reference["clip"])
    needs_workers = mutation not in {"equivalent rows as negatives", "temperature of one direction detached"}
    if distributed["W"] == 1 and needs_workers:
        assert deviation < TOLERANCE  # one process has nothing to get wrong here
    else:
        assert deviation > 1e-3
