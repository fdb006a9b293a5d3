"""A screening that is interrupted and continued with other groups of segments loses and doubles no row."""

from __future__ import annotations

import contextlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crystalign import storage
from crystalign.errors import ConfigError
from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Segment
from crystalign_serve.replay import Replay
from crystalign_serve.replay import main as replay
from crystalign_serve.requests import SearchOptions
from crystalign_serve.screening.plan import BLOCK, Plan, Receipt, folder_name, groups_of
from crystalign_serve.screening.run import run
from crystalign_serve.screening.source import open_queries
from crystalign_serve.screening.steps import FindIds, group_row


def found_ids(plan, blocks, parts, rows):
    """The first step, as a run with `rows` per task does it: ids in the files, and whether each was there before."""
    groups = groups_of(IndexManifest.read(plan.index), rows)
    step = FindIds(plan, str(parts / folder_name(plan, groups)), blocks)
    work = [group_row(number, entries) for number, entries in enumerate(groups)]
    found = [json.loads(step(row)["result"])["found"] for row in work]
    return [name for row in work for name in step.read(step.names(row)[0]).column("id").to_pylist()], found


@pytest.fixture
def plan_and_blocks(places):
    queries, blocks = open_queries(places.dataset, BLOCK)
    return Plan.of(places.index, None, places.dataset, queries, SearchOptions()), blocks


@pytest.mark.parametrize(("before", "after"), [(11, 20), (20, 11), (11, 1000), (1000, 11)])
def test_other_groups_lose_and_double_no_row(plan_and_blocks, places, tmp_path, before, after):
    plan, blocks = plan_and_blocks
    manifest = IndexManifest.read(places.index)
    every = Segment.load(places.index, manifest, manifest.segments).table.column("id").to_pylist()
    assert len(groups_of(manifest, before)) != len(groups_of(manifest, after))
    for rows in (before, after, before):
        ids, _ = found_ids(plan, blocks, tmp_path, rows)
        assert sorted(ids) == sorted(every)


def test_the_same_groups_are_continued(plan_and_blocks, tmp_path):
    plan, blocks = plan_and_blocks
    assert not any(found_ids(plan, blocks, tmp_path, 11)[1])
    assert all(found_ids(plan, blocks, tmp_path, 11)[1])


def test_a_file_of_other_groups_is_not_used_even_under_the_right_name(plan_and_blocks, tmp_path):
    plan, blocks = plan_and_blocks
    found_ids(plan, blocks, tmp_path, 1000)
    (whole,) = tmp_path.rglob("ids-00000.parquet")
    groups = groups_of(IndexManifest.read(plan.index), 11)
    other = tmp_path / folder_name(plan, groups) / whole.name
    other.parent.mkdir()
    other.write_bytes(whole.read_bytes())
    ids, found = found_ids(plan, blocks, tmp_path, 11)
    assert not any(found)
    assert len(ids) == len(set(ids)) == len(pq.read_table(whole))


@pytest.mark.parametrize("same", [True, False])
def test_a_run_that_waited_for_another_uses_its_hits(plan_and_blocks, tmp_path, monkeypatch, same):
    from crystalign_ray import driver_lock

    plan, blocks = plan_and_blocks
    other = plan if same else plan.model_copy(update={"index_version": "f" * 64})
    waited, claimed = driver_lock.driving, []

    @contextlib.contextmanager
    def driving(folder):
        with waited(folder) as held:
            claimed.append(ended(other, tmp_path))
            yield held

    monkeypatch.setattr(driver_lock, "driving", driving)
    out = str(tmp_path / "hits.parquet")
    if same:
        assert run(plan, blocks, out, rows_per_task=11, address="nowhere:1") == claimed[0]
        assert not (tmp_path / "hits.parts").exists()
    else:
        with pytest.raises(ConfigError, match="another index, model, queries or settings"):
            run(plan, blocks, out, rows_per_task=11, address="nowhere:1")
    assert pq.read_table(out).to_pydict() == {"a": [1]}


def ended(plan, folder):
    """The receipt of a screening that has ended, with its files."""
    table = pa.table({"a": [1]})
    for name in ("hits.parquet", "hits.queries.parquet"):
        pq.write_table(table, folder / name)
    hits, outcomes = (
        storage.entry_of(name, (folder / name).read_bytes()) for name in ("hits.parquet", "hits.queries.parquet")
    )
    receipt = Receipt(
        created="", release="", environment={}, plan=plan, hits=hits, outcomes=outcomes, rows=1, refused=0
    )
    (folder / "hits.receipt.json").write_text(receipt.model_dump_json())
    return receipt


def test_a_replay_does_not_compare_hits_with_themselves(plan_and_blocks, places, tmp_path):
    ended(plan_and_blocks[0], tmp_path)
    before = (tmp_path / "hits.parquet").read_bytes()
    (tmp_path / "hits.receipt.json").rename(tmp_path / "renamed.json")
    for out in ("hits.parquet", "hits.queries.parquet"):
        with pytest.raises(ConfigError, match="which is read"):
            replay(Replay(receipt=str(tmp_path / "renamed.json"), out=str(tmp_path / out)))
    assert (tmp_path / "hits.parquet").read_bytes() == before


def test_a_replay_keeps_files_of_others(plan_and_blocks, tmp_path):
    ended(plan_and_blocks[0], tmp_path)
    (tmp_path / "hits.replay.parquet").write_text("mine")
    with pytest.raises(ConfigError, match="without a receipt"):
        replay(Replay(receipt=str(tmp_path / "hits.receipt.json")))
    assert (tmp_path / "hits.replay.parquet").read_text() == "mine"
