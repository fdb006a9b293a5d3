from __future__ import annotations

import numpy as np
import pytest

from crystalign.shards.dataset import Dataset
from crystalign.shards.selection import Selection
from crystalign.shards.splits import SplitRule
from crystalign.training.feed import FeedPlan, feed, ranges, steps_per_epoch

BATCH, EPOCHS = 16, 2


@pytest.fixture(scope="module")
def plan(small_dataset, tmp_path_factory):
    dataset = Dataset.open(small_dataset)
    selection = Selection.build(dataset, SplitRule(), "train")
    uri = selection.save(str(tmp_path_factory.mktemp("selection")))
    return FeedPlan(
        data=small_dataset,
        data_sha256=dataset.manifest.sha256,
        selection=uri,
        modalities={"composition": {}, "text": {}},
        seed=3,
        batch_size=BATCH,
        window_rows=32,
        world_size=1,
        epochs=EPOCHS,
    )


def streamed(plan, start_step=0):
    """(step, rank) → (ids, bytes of the batch), as the ranks receive them, in step order."""
    import ray

    from crystalign_jobs.pretraining.stream import RankFeed, split, stream

    @ray.remote(num_cpus=0.5)
    def consume(iterator, rank):
        feed = RankFeed(iterator, rank=rank, start_step=start_step)
        return [(fed.step, fed.rank, fed.ids, fed.batch.to_bytes()) for fed in feed]

    iterators = split(stream(plan, start_step=start_step, tasks=2), plan.world_size)
    rows = ray.get([consume.remote(it, rank) for rank, it in enumerate(iterators)])
    return {(step, rank): (ids, packed) for part in rows for step, rank, ids, packed in part}


def steps_of(received):
    """Step → ids of all ranks in order."""
    steps = {}
    for (step, _), (ids, _packed) in sorted(received.items()):
        steps.setdefault(step, []).extend(ids)
    return steps


@pytest.fixture(scope="module")
def training_ids(plan):
    dataset = Dataset.open(plan.data)
    table = dataset.table(["id", "split_formula"])
    mask = SplitRule().mask(table, "train")
    return sorted(np.array(table.column("id").to_pylist())[mask].tolist())


def test_a_feed_without_ray_delivers_each_training_id_once_per_epoch(plan, training_ids):
    fed = list(feed(plan))
    per_epoch = steps_per_epoch(plan)
    assert per_epoch == -(-len(training_ids) // BATCH)
    assert [f.step for f in fed] == list(range(EPOCHS * per_epoch))
    for epoch in range(EPOCHS):
        ids = [i for f in fed[epoch * per_epoch : (epoch + 1) * per_epoch] for i in f.ids]
        assert sorted(ids) == training_ids
    assert [f.ids for f in fed[:per_epoch]] != [f.ids for f in fed[per_epoch:]]


def test_a_batch_holds_its_ids_and_masks_the_surplus(plan):
    three = plan.model_copy(update={"world_size": 3})
    seen = 0
    for rank in range(3):
        for fed in feed(three, rank=rank):
            assert len(fed.batch) == three.rows_per_rank == 6
            assert int(fed.batch.real.sum()) == len(fed.ids)
            assert not fed.batch.present["composition"][len(fed.ids) :].any()
            seen += len(fed.ids)
    assert seen == sum(len(fed.ids) for fed in feed(plan))


def test_ranges_cover_the_steps_once_from_any_start(plan):
    total = EPOCHS * steps_per_epoch(plan)
    for start in range(total):
        steps = [w.epoch * steps_per_epoch(plan) + s for w in ranges(plan, start) for s in range(w.first, w.last)]
        assert steps == list(range(start, total))


@pytest.mark.usefixtures("ray_session")
def test_the_stream_is_the_feed_for_one_and_for_two_ranks_and_from_the_middle(plan):
    alone = {fed.step: fed.ids for fed in feed(plan)}
    two = plan.model_copy(update={"world_size": 2})
    assert steps_of(streamed(plan)) == alone
    received = streamed(two)
    assert steps_of(received) == alone
    middle = steps_per_epoch(plan) + 1
    resumed = streamed(two, start_step=middle)
    assert resumed == {key: value for key, value in received.items() if key[0] >= middle}  # bytes too


def test_a_plan_for_other_data_is_refused(plan):
    from crystalign.errors import DatasetError

    other = plan.model_copy(update={"data_sha256": "0" * 64})
    with pytest.raises(DatasetError, match="changed since this run was planned"):
        next(feed(other))
