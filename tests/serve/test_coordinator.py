from __future__ import annotations

import asyncio
import socket
import threading

import numpy as np
import pytest

from crystalign.errors import ConfigError, QueryError
from crystalign_serve import deployments
from crystalign_serve.backend import IndexSearch, find_in_shard, search_shard, spread
from crystalign_serve.coordinator import RayBackend
from crystalign_serve.errors import UnavailableError
from crystalign_serve.predictions import CompleteJob, PredictJob, find_models, load_group, predict_jobs


class Method:
    def __init__(self, call):
        self.remote = call


class FakeShard:
    """Looks like a Ray Serve handle; answers from a segment, late, or never."""

    def __init__(self, segment, *, delay=0.0, error=None):
        self.segment, self.delay, self.error = segment, delay, error

    async def answer(self, function, *args):
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        return function(self.segment, *args)

    def __getattr__(self, name):
        work = {"search": search_shard, "find": find_in_shard, "rows": len}[name]
        return Method(lambda *args: self.answer(work, *args))


def ask(shards, k=40, text=None, deadline=2.0):
    search = IndexSearch(np.ones(16, np.float32) / 4, k, text)
    return asyncio.run(RayBackend({}, shards, deadline).search(search))


def test_a_shard_that_is_late_or_broken_is_left_out_and_counted(segments):
    whole = ask([FakeShard(s) for s in segments])
    assert (whole.shards_ok, whole.shards_total, whole.allowed) == (4, 4, 40)
    for bad in (FakeShard(segments[0], delay=60), FakeShard(segments[0], error=OSError("gone"))):
        part = ask([bad, *(FakeShard(s) for s in segments[1:])])
        assert (part.shards_ok, part.shards_total, part.allowed) == (3, 4, 30)
        kept = {r["id"] for s in segments[1:] for r in s.table.to_pylist()}
        assert [r["id"] for r in part.records] == [r["id"] for r in whole.records if r["id"] in kept]


def test_no_shard_at_all_is_no_answer(segments):
    assert ask([FakeShard(segments[0], error=OSError("gone"))]).shards_ok == 0


def test_a_mistake_of_the_user_is_not_an_absent_shard(segments):
    with pytest.raises(QueryError, match="nelements"):
        ask([FakeShard(s) for s in segments], text="colour>3")


def test_an_id_is_not_called_unknown_while_a_shard_is_away(segments, materials):
    shards = [FakeShard(segments[0]), *(FakeShard(s, error=OSError("gone")) for s in segments[1:])]
    backend = RayBackend({}, shards, 2.0)
    here = segments[0].table["id"][0].as_py()
    assert asyncio.run(backend.find(here)).record["id"] == here
    with pytest.raises(UnavailableError, match="3 shards"):
        asyncio.run(backend.find("nowhere"))
    assert asyncio.run(backend.shards()) == (1, 4)


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 9])
def test_every_segment_is_in_one_shard_and_no_shard_is_empty(places, shards):
    from crystalign.index.manifest import IndexManifest

    manifest = IndexManifest.read(places.index)
    held = spread(manifest, shards)
    assert len(held) == min(shards, len(manifest.segments))
    assert all(held)
    assert sorted(e.path for part in held for e in part) == sorted(e.path for e in manifest.segments)


def test_a_taken_port_is_refused_before_anything_starts(places):
    from crystalign_serve.launch import Serve, running

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)), running(Serve(index=places.index, port=port)):
            pass


def test_an_index_that_is_not_there_is_refused_before_anything_starts(tmp_path):
    from crystalign.errors import DatasetError
    from crystalign_serve.launch import Serve, running

    with pytest.raises(DatasetError, match="crystalign index"), running(Serve(index=str(tmp_path), port=0)):
        pass


def test_the_application_is_built_from_the_words_of_a_command_line(places, monkeypatch):
    from pathlib import Path

    from crystalign_serve.launch import app

    monkeypatch.chdir(Path(places.index).parent)
    assert app({"index": "index", "model": "model", "shards": "3", "encoders": "separate"}) is not None
    with pytest.raises(ConfigError, match="colour"):
        app({"index": "index", "colour": "red"})


def test_who_hangs_up_makes_no_room_for_more_work_at_a_time(models, materials, monkeypatch):
    places, _ = find_models(models)
    service, begun, go = deployments.Models(places), [], threading.Event()

    def slow(group, job):
        begun.append(job)
        go.wait()
        return CompleteJob(job, [[]])

    async def predict(ready):  # batches are made within a deployment alone
        return predict_jobs(load_group(places), [ready])[0]

    monkeypatch.setattr(deployments, "complete", slow)
    monkeypatch.setattr(service, "_predict", predict)

    async def scenario():
        job = PredictJob((materials[0],), ("by-formula",), 0.9)
        for _ in range(3):
            asked = [asyncio.create_task(service.predict(job)) for _ in range(4)]
            await asyncio.sleep(0.1)
            for task in asked:
                task.cancel()
        last = asyncio.create_task(service.predict(job))
        await asyncio.sleep(0.1)
        assert len(begun) == deployments.DERIVE_THREADS
        go.set()
        return await last

    (answer,) = asyncio.run(scenario())
    assert answer.predictions
    assert len(begun) == deployments.DERIVE_THREADS + 1
