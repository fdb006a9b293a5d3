"""A batch in micro-batches has the gradient it has in one piece, at any number of workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import gradient_cache_rank as worker
from crystalign.batch import MicroBatches, make_batch
from crystalign.errors import ConfigError
from crystalign.model import Model, ModelConfig
from crystalign.training.config import PretrainConfig
from crystalign.training.gradient_cache import RandomState, refuse_batch_statistics
from crystalign.training.loop import TrainState, train
from forked_ranks import run_ranks

pytestmark = pytest.mark.timeout(900)  # several processes, one after the other: minutes on a busy machine
WORLD_SIZES = (2, 3)

MODEL = ModelConfig(
    modalities={
        "crystal": {"encoder": "gated-graph", "options": {"hidden": 16, "layers": 1, "width": 32}},
        "dos": {"encoder": "dos-transformer", "options": {"hidden": 16, "layers": 1, "patch": 50, "dropout": 0.1}},
    },
    embedding_dim=16,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """World size → what each of its ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(worker, folder, WORLD_SIZES)
    return {w: [load_file(folder / f"{rank}-of-{w}.safetensors") for rank in range(w)] for w in WORLD_SIZES}


def of(found, case):
    """Name → gradient, of one case."""
    return {name.removeprefix(f"{case}/"): tensor for name, tensor in found.items() if name.startswith(f"{case}/")}


def largest_difference(found, expected):
    """Over all parameters, of ‖a − b‖/‖b‖; infinite where one has no gradient.

    A bias before a norm has none but rounding errors, hence the least ‖b‖.
    """
    if found.keys() - {"loss"} != expected.keys():
        return float("inf")
    return max(float((found[n] - g).norm() / max(float(g.norm()), 0.1)) for n, g in expected.items())


@pytest.mark.parametrize(("kind", "parts"), worker.CASES)
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_gradient_is_that_of_one_graph_over_the_same_parts(results, world_size, kind, parts):
    loss, expected = worker.retained(world_size, parts, kind)
    own = {"clip": 4, "siglip": 8, "tensorclip": 1}.get(kind, 0)  # temperatures and biases
    assert len([name for name in expected if name.startswith(("log_scales", "logit_biases"))]) == own
    if world_size == 1:
        found_loss, alone = worker.trained(0, 1, parts, kind)
        found = [alone]
    else:
        found = [of(rank, f"{kind}/{parts}") for rank in results[world_size]]
        found_loss = float(found[0]["loss"])
    assert found_loss == pytest.approx(loss, rel=1e-12)
    assert all(largest_difference(rank, expected) < 1e-12 for rank in found)


@pytest.mark.parametrize("mutation", worker.MUTATIONS)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_a_mistake_in_the_caching_is_found(results, world_size, mutation):
    _, expected = worker.retained(world_size, 4)
    found = [of(rank, f"{mutation}/4") for rank in results[world_size]]
    assert all(largest_difference(rank, expected) > 0.1 for rank in found)


def test_a_temperature_that_enters_with_every_part_is_too_large_by_their_number(results):
    _, expected = worker.retained(2, 4)
    found = of(results[2][0], "temperature in every part/4")
    assert float(found["log_scales.crystal__dos"] / expected["log_scales.crystal__dos"]) == pytest.approx(4.0)
    name = "encoders.dos.norm.weight"
    torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_gradients_cross_the_network_once_whatever_the_number_of_parts(results, world_size):
    for rank in results[world_size]:
        assert int(rank["reductions/4"]) == int(rank["reductions/1"]) > 0
        assert int(rank["reductions/mutated"]) == 4 * int(rank["reductions/1"])


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_several_workers_that_restart_go_on_bit_for_bit(results, world_size):
    assert all(bool(rank["restarted"]) for rank in results[world_size])


# --- in one process ---------------------------------------------------------------------------------------------------


def settings(**changes) -> PretrainConfig:
    values = {"data": "none", "out": "none", "model": MODEL, "batch_size": 32, "log_every_steps": 1}
    return PretrainConfig(**values | {"optimiser": {"lr": 3e-3}} | changes)


def fresh() -> Model:
    torch.manual_seed(0)
    return Model(MODEL)


def cut(materials, size) -> MicroBatches:
    modalities = fresh().modalities
    return MicroBatches(
        tuple(make_batch(materials[start : start + size], modalities) for start in range(0, len(materials), size))
    )


def test_a_resumed_run_with_micro_batches_is_bit_equal_to_an_uninterrupted_one(synthetic_materials):
    materials = synthetic_materials(40)
    batches = [cut(materials[step : step + 16], 5) for step in range(0, 18, 3)]
    config = settings(micro_batch_size=5)
    whole, first, second = fresh(), fresh(), fresh()
    train(config, whole, batches, total_steps=6)
    half = train(config, first, batches[:3], total_steps=6)
    second.load_state_dict({n: t.clone() for n, t in first.state_dict().items()})
    state = TrainState(half.step, half.samples, half.seconds, {}, {n: t.clone() for n, t in half.optimiser.items()})
    torch.manual_seed(99)  # a restart has another random state
    train(config, second, batches[3:], total_steps=6, start_step=3, state=state)
    assert all(torch.equal(second.state_dict()[n], t) for n, t in whole.state_dict().items())


def test_half_precision_trains_every_parameter(synthetic_materials):
    """Within one autocast, the pass without a graph would leave its cast weights to the one with it."""
    materials = synthetic_materials(12)
    found = {}
    for size in (4, 12):
        model = fresh().train()
        config = settings(compute_dtype="bfloat16", micro_batch_size=size, optimiser={"clip": 1e9}, seed=1)
        batch = cut(materials, size)
        train(config, model, [batch if size < 12 else batch.parts[0]], total_steps=2)
        found[size] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found[4].keys() == found[12].keys()
    assert all(bool(grad.any()) for grad in found[4].values())


def test_dropout_draws_the_same_numbers_again():
    dropout, x = nn.Dropout(0.5), torch.ones(1000)
    state = RandomState(torch.device("cpu"))
    first, second = dropout(x), dropout(x)
    state.restore()
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


def test_an_encoder_with_batch_statistics_is_named_and_refused(synthetic_materials):
    model = fresh()
    model.projections["dos"][0] = nn.BatchNorm1d(model.encoders["dos"].width)
    batch = make_batch(synthetic_materials(8), model.modalities)
    with pytest.raises(ConfigError, match=r"projections\.dos\.0 \(BatchNorm1d\).*leave micro_batch_size out"):
        train(settings(micro_batch_size=4), model, [batch], total_steps=1)
    train(settings(), model, [batch], total_steps=1)  # in one piece it is exact


def test_a_norm_whose_statistics_are_constants_is_no_obstacle():
    frozen = nn.Sequential(nn.BatchNorm1d(4)).train()
    frozen[0].eval()
    refuse_batch_statistics(frozen)
    tracking = nn.Sequential(nn.InstanceNorm1d(4, track_running_stats=True)).train()
    with pytest.raises(ConfigError, match="InstanceNorm1d"):
        refuse_batch_statistics(tracking)


@pytest.mark.parametrize(("size", "made"), [(4, 8), (None, 4), (4, None)])
def test_batches_that_are_not_cut_as_the_settings_say_are_refused(synthetic_materials, size, made):
    materials = synthetic_materials(8)
    batch = make_batch(materials, fresh().modalities) if made is None else cut(materials, made)
    with pytest.raises(ConfigError, match=f"micro_batch_size is {size}, but the batch of step 0"):
        train(settings(micro_batch_size=size), fresh(), [batch], total_steps=1)


def test_each_row_draws_from_its_own_generator_wherever_the_rows_are_cut(synthetic_materials):
    materials = [*synthetic_materials(9), None]
    modalities = fresh().modalities

    def generators(start, stop):
        return [np.random.default_rng([7, row]) for row in range(start, stop)]

    whole = make_batch(materials, modalities, generators(0, 10))
    parts = [make_batch(materials[a:b], modalities, generators(a, b)) for a, b in ((0, 4), (4, 8), (8, 10))]
    joined = MicroBatches(tuple(parts))
    assert len(joined) == 10
    assert torch.equal(joined.real, whole.real)
    for name in modalities:
        assert torch.equal(joined.present[name], whole.present[name])
        assert torch.equal(joined.keys[name], whole.keys[name])
    for key, features in whole.inputs["dos"].items():
        assert torch.equal(torch.cat([part.inputs["dos"][key] for part in parts]), features)
