"""Retrieval on a held-out slice: as the evaluation defines it, and without a trace in the training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from crystalign.modalities import stable_hash
from crystalign.model import Model, ModelConfig
from crystalign.shards.dataset import Dataset
from crystalign.shards.selection import Selection
from crystalign.shards.splits import SplitRule
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign.training.held_out import HeldOut, TimeBudget, choose_places

CONFIG = ModelConfig(
    modalities={
        "crystal": {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1, "width": 16}},
        "composition": {"encoder": "composition-transformer", "options": {"hidden": 8, "layers": 1}},
        "xrd": {"encoder": "xrd-resnet", "options": {"channels": (4, 8), "positions": 8, "reduced": 8, "hidden": 16}},
    },
    objective={"kind": "clip", "pairs": (("crystal", "composition"), ("crystal", "xrd"))},
    embedding_dim=8,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, synthetic_materials) -> Dataset:
    uri = str(tmp_path_factory.mktemp("held-out") / "data")
    once = synthetic_materials(48)
    materials = [*once, *(dataclasses.replace(material, id=f"{material.id}-again") for material in once)]
    shards = [
        write_shard(uri, f"part-{n}", materials[start : start + 48], [], rows_per_group=16)
        for n, start in enumerate((0, 48))
    ]
    commit_manifest(uri, shards, [])
    return Dataset.open(uri)


@pytest.fixture(scope="module")
def validation(dataset) -> Selection:
    return Selection.build(dataset, SplitRule(train=0.4, validation=0.5), "validation")


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return Model(CONFIG).train()


def test_the_slice_is_of_the_validation_rows_and_the_same_each_time(validation):
    places = choose_places(validation, 30)
    assert places == choose_places(validation, 30)
    assert sum(len(place.rows) for place in places) == 30
    allowed = {
        (int(s), int(g), int(r)) for place in range(len(validation.groups)) for s, g, r in validation.rows(place)
    }
    chosen = [(place.shard, place.group, row) for place in places for row in place.rows]
    assert set(chosen) <= allowed
    assert len(set(chosen)) == 30
    assert sum(len(place.rows) for place in choose_places(validation, 10_000)) == validation.n


def test_recall_is_that_of_ranking_by_hand(dataset, validation, model):
    places = choose_places(validation, 40)
    found = HeldOut.read(dataset, places, model.modalities).recall(model)
    materials = [dataset.material(p.shard, 16 * p.group + row) for p in places for row in p.rows]
    for query, target in (("crystal", "composition"), ("composition", "crystal"), ("xrd", "crystal")):
        both = [m for m in materials if m.value(query) is not None and m.value(target) is not None]
        a, b = (model.embed(name, [m.value(name) for m in both]) for name in (query, target))
        keys = [np.array([stable_hash(model.modality(name).equivalence(m)) for m in both]) for name in (query, target)]
        hits = []
        for i in range(len(both)):
            rivals = [j for j in range(len(both)) if all(key[j] != key[i] for key in keys)]
            scores = a[i] @ b[rivals].T
            if rivals:
                hits.append(float(a[i] @ b[i] > scores.max()))
        assert found[f"retrieval/{query}-{target}"] == pytest.approx(np.mean(hits), abs=0.03)  # ties of rounding
    parts = [value for key, value in found.items() if key != "retrieval"]
    assert len(parts) == 4
    assert found["retrieval"] == pytest.approx(np.mean(parts))


def test_measuring_leaves_no_trace_in_the_training(dataset, validation, model):
    held_out = HeldOut.read(dataset, choose_places(validation, 20), model.modalities)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = torch.get_rng_state()
    assert held_out.recall(model) == held_out.recall(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_a_slice_too_small_to_rank_says_nothing(dataset, validation, model):
    assert HeldOut.read(dataset, choose_places(validation, 1), model.modalities).recall(model) == {}


def test_a_ration_is_its_share_of_the_time():
    ration = TimeBudget(0.02)
    assert ration.allows(0.0), "the first time tells what it costs"
    ration.took(1.0)
    assert not ration.allows(99.0)
    assert ration.allows(100.0)
    ration.took(3.0)
    assert not ration.allows(349.0)
    assert ration.allows(350.0)
