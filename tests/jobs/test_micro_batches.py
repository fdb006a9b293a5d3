"""What `micro_batch_size` changes on the way from the dataset to the loss: nothing but memory."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from crystalign.batch import MicroBatches
from crystalign.crystal import Crystal
from crystalign.material import Material, Provenance
from crystalign.modalities.composition import Composition
from crystalign.modalities.text import Text, decode
from crystalign.model import Model, ModelConfig, prepare
from crystalign.objectives.clip import Clip
from crystalign.shards.dataset import Dataset
from crystalign.shards.selection import Selection
from crystalign.shards.splits import SplitRule
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign.training.config import PretrainConfig
from crystalign.training.feed import FeedPlan, feed, steps_per_epoch
from crystalign.training.loop import train
from crystalign_jobs.pretrain import Pretrain, pretrain

BATCH, SIZE = 16, 3
MODEL = ModelConfig(
    embedding_dim=16,
    modalities={
        "composition": {"encoder": "composition-transformer", "options": {"hidden": 16, "layers": 1}},
        "text": {"encoder": "bert", "options": {"hidden": 16, "layers": 1, "vocabulary": 200, "dropout": 0.0}},
    },
    objective=Clip(pairs=(("composition", "text"),)),
)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """Forty-five rock salts, two thirds of which have a text of four sentences."""
    uri = str(tmp_path_factory.mktemp("captioned") / "data")
    materials = []
    for number, (a, b) in enumerate((a, b) for a in (3, 11, 12, 19, 20, 37, 38, 55, 56) for b in (8, 9, 16, 17, 34)):
        crystal = Crystal(np.eye(3) * (3.0 + a / 40), np.array([[0, 0, 0], [0.5] * 3]), np.array([a, b]))
        modalities = {"composition": Composition(np.array([a, b]), np.array([0.5, 0.5]))}
        if number % 3:
            words = f"{crystal.formula} is a salt. It is cubic. Its elements are {a} and {b}. Its number is {number}."
            modalities["text"] = Text(words)
        materials.append(Material(f"m{number:02d}", crystal, Provenance("test", "CC0-1.0", "1"), modalities))
    commit_manifest(uri, [write_shard(uri, "part-0", materials, [], rows_per_group=16)], [])
    return uri


@pytest.fixture(scope="module")
def plan(captioned, tmp_path_factory):
    dataset = Dataset.open(captioned)
    selection = Selection.build(dataset, SplitRule(), "train")
    return FeedPlan(
        data=captioned,
        data_sha256=dataset.manifest.sha256,
        selection=selection.save(str(tmp_path_factory.mktemp("selection"))),
        modalities={"composition": {}, "text": {}},
        seed=3,
        batch_size=BATCH,
        window_rows=32,
        world_size=1,
        epochs=2,
    )


def cut(plan, **changes):
    return plan.model_copy(update={"micro_batch_size": SIZE} | changes)


def sentences(batch):
    """The augmented text of each row that has one."""
    return [words for part in batch.parts if part.present["text"].any() for words in decode(part.inputs["text"])]


def streamed(plan, start_step=0):
    """(step, rank) → (ids, bytes of each micro-batch), as the ranks receive them."""
    import ray

    from crystalign_jobs.pretraining.stream import RankFeed, split, stream

    @ray.remote(num_cpus=0.5)
    def consume(iterator, rank):
        rows = RankFeed(iterator, rank=rank, start_step=start_step)
        return [(fed.step, fed.rank, fed.ids, [part.to_bytes() for part in fed.batch.parts]) for fed in rows]

    iterators = split(stream(plan, start_step=start_step, tasks=2), plan.world_size)
    rows = ray.get([consume.remote(it, rank) for rank, it in enumerate(iterators)])
    return {(step, rank): (ids, packed) for part in rows for step, rank, ids, packed in part}


@pytest.mark.parametrize("world_size", [1, 3])
def test_ids_masks_keys_and_augmented_features_do_not_depend_on_where_rows_are_cut(plan, world_size):
    for rank in range(world_size):
        whole = list(feed(plan.model_copy(update={"world_size": world_size}), rank=rank))
        parts = list(feed(cut(plan, world_size=world_size), rank=rank))
        assert len(whole) == len(parts) == 2 * steps_per_epoch(plan)
        for one, several in zip(whole, parts, strict=True):
            assert (several.step, several.rank, several.ids) == (one.step, one.rank, one.ids)
            assert isinstance(several.batch, MicroBatches)
            assert len(several.batch) == len(one.batch)
            assert max(len(part) for part in several.batch.parts) == SIZE
            assert torch.equal(several.batch.real, one.batch.real)
            for name in plan.modalities:
                assert torch.equal(several.batch.present[name], one.batch.present[name])
                assert torch.equal(several.batch.keys[name], one.batch.keys[name])
            assert sentences(several.batch) == sentences(one.batch)


def test_each_row_of_a_rank_draws_numbers_of_its_own(plan):
    """Rows that drew the same numbers would lose the same sentences."""
    (first, *_), (plain, *_) = (list(feed(p)) for p in (plan, plan.model_copy(update={"augment": False})))
    kept = [
        tuple(sentence in words for sentence in whole.split(". "))
        for words, whole in zip(sentences(first.batch), sentences(plain.batch), strict=True)
    ]
    assert len(set(kept)) > 3
    again = [sentences(fed.batch) for fed in feed(plan.model_copy(update={"seed": 4}))]
    assert again[0] != sentences(first.batch)


@pytest.mark.usefixtures("ray_session")
def test_the_stream_of_micro_batches_is_the_feed_for_each_rank_and_from_the_middle(plan):
    two = cut(plan, world_size=2)
    expected = {
        (fed.step, fed.rank): (fed.ids, [part.to_bytes() for part in fed.batch.parts])
        for rank in range(2)
        for fed in feed(two, rank=rank)
    }
    received = streamed(two)
    assert received == expected
    assert {len(packed) for _, packed in received.values()} == {3}
    middle = steps_per_epoch(plan) + 1
    assert streamed(two, middle) == {place: found for place, found in expected.items() if place[0] >= middle}


def curve(plan, model, size=None):
    """The loss of each step in this process."""
    config = PretrainConfig(
        data=plan.data, out="none", model=MODEL, batch_size=BATCH, micro_batch_size=size, log_every_steps=1
    )
    records: list[dict[str, float]] = []
    batches = (fed.batch for fed in feed(cut(plan, micro_batch_size=size)))
    train(config, model, batches, total_steps=2 * steps_per_epoch(plan), on_log=records.append)
    assert len(records) == 2 * steps_per_epoch(plan)
    return [record["loss"] for record in records]


def test_the_loss_curve_without_dropout_is_that_of_whole_batches(plan):
    dataset = Dataset.open(plan.data)
    files = prepare(MODEL, {"text": [value for m in dataset.materials() if (value := m.value("text")) is not None]})
    curves = []
    for size in (None, SIZE, 5):
        torch.manual_seed(0)
        curves.append(curve(plan, Model(MODEL, files), size))
    assert curves[0][-1] < 0.95 * curves[0][0]
    for found in curves[1:]:
        np.testing.assert_allclose(found, curves[0], rtol=1e-4)


@pytest.mark.usefixtures("ray_session")
def test_two_workers_with_micro_batches_have_the_losses_of_one_with_whole_batches(plan, tmp_path):
    settings = {"data": plan.data, "out": str(tmp_path), "name": "run", "model": MODEL, "batch_size": BATCH}
    settings |= {"epochs": 2, "seed": plan.seed, "augment": False, "num_workers": 2, "micro_batch_size": SIZE}
    settings |= {"rows_per_window": plan.window_rows, "log_every_steps": 1, "loggers": ("csv",)}
    pretrain(Pretrain(**settings))
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    prepared = tmp_path / "run" / "prepared"
    files = {path: (prepared / path).read_bytes() for path in json.loads((prepared / "files.json").read_text())}
    torch.manual_seed(plan.seed)
    expected = curve(plan.model_copy(update={"augment": False}), Model(MODEL, files))
    np.testing.assert_allclose([float(row["loss"]) for row in rows if row["loss"]], expected, rtol=1e-4)
