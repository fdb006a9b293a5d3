"""A deployment whose replica has died is left out at once, and comes back by itself."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from crystalign_serve import health
from crystalign_serve.coordinator import RayBackend, RayPredictors
from crystalign_serve.errors import UnavailableError
from crystalign_serve.health import DownError, Replicas


class Handle:
    """Looks like a Ray Serve handle of a deployment that can die; a dead one keeps whoever asks waiting, as in Ray."""

    def __init__(self, answer=7):
        self.answer, self.alive, self.asked = answer, True, 0
        self.errors: list[Exception] = []
        self._died: asyncio.Event | None = None

    def die(self):
        self.alive = False
        if self._died is not None:
            self._died.set()

    async def _answer(self, name, args):
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        if name == "lifeline" and args and args[0] > 0:
            self._died = asyncio.Event()
            await self._died.wait()
            raise ActorDiedError
        while not self.alive:  # noqa: ASYNC110 (as in Ray's router)
            await asyncio.sleep(0.01)
        return self.answer

    def __getattr__(self, name):
        class Method:
            remote = staticmethod(lambda *args: self._answer(name, args))

        return Method


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch):
    monkeypatch.setattr(health, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(health, "PROBE_EVERY_SECONDS", 0.02)


async def until(true):
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 (any condition)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("error", [ActorDiedError, lambda: ActorUnavailableError("gone", None)])
def test_after_a_death_nobody_waits_and_the_next_life_is_noticed(error):
    async def scenario():
        handle = Handle()
        replicas = Replicas("shard 0", handle)
        assert await replicas.call(5.0, "search") == 7
        handle.alive = False
        handle.errors.append(error())
        with pytest.raises(DownError, match="shard 0"):
            await replicas.call(5.0, "search")
        asked, began = handle.asked, time.monotonic()
        for _ in range(100):
            with pytest.raises(DownError):
                await replicas.call(5.0, "search")
        assert time.monotonic() - began < 1.0
        assert handle.asked <= asked + 1, "only the probe asks"
        handle.alive = True
        await until(lambda: replicas.up)
        assert await replicas.call(5.0, "search") == 7

    asyncio.run(scenario())


def test_a_death_is_noticed_before_anybody_asks_and_ends_the_wait_of_those_who_did():
    async def scenario():
        handle = Handle()
        replicas = Replicas("shard 0", handle)
        replicas.watch()
        await until(lambda: handle._died is not None)
        handle.alive = False
        waiting = asyncio.create_task(replicas.call(30.0, "search"))
        await asyncio.sleep(0.05)
        handle.die()
        with pytest.raises(DownError):
            await asyncio.wait_for(waiting, 1.0)
        handle.alive = True
        await until(lambda: replicas.up)
        await until(lambda: not handle._died.is_set())
        replicas.stop()

    asyncio.run(scenario())


def test_where_there_are_several_another_replica_is_asked_at_once():
    async def scenario():
        handle = Handle()
        replicas = Replicas("shard 0", handle, spares=True)
        handle.errors.append(ActorDiedError())
        assert await replicas.call(5.0, "search") == 7
        assert replicas.up
        handle.errors += [ActorDiedError(), ActorDiedError()]
        with pytest.raises(DownError):
            await replicas.call(5.0, "search")

    asyncio.run(scenario())


def test_one_slow_answer_excludes_nobody_but_silence_does():
    async def scenario():
        handle = Handle()
        replicas = Replicas("shard 0", handle)
        handle.alive = False
        with pytest.raises(TimeoutError):
            await replicas.call(0.02, "search")
        handle.alive = True
        await asyncio.sleep(0.05)
        assert replicas.up
        handle.alive = False
        with pytest.raises(TimeoutError):
            await replicas.call(0.02, "search")
        await until(lambda: not replicas.up)
        with pytest.raises(DownError):
            await replicas.call(5.0, "search")

    asyncio.run(scenario())


def test_encoders_and_models_that_are_down_are_told_at_once():
    async def scenario():
        handle, models = Handle(np.ones(3)), Handle([])
        backend, predictors = RayBackend({"text": handle, "dos": handle}, [], 5.0), RayPredictors(models)
        for dead in (handle, models):
            dead.alive = False
            dead.errors.append(ActorDiedError())
        began = time.monotonic()
        for modality in ("text", "dos"):  # one deployment holds both
            with pytest.raises(UnavailableError, match=r"text encoder|dos encoder"):
                await backend.encode(modality, {})
        with pytest.raises(UnavailableError, match="fine-tuned models"):
            await predictors.predict(None)
        assert time.monotonic() - began < 1.0

    asyncio.run(scenario())


def test_an_answer_leaves_a_dead_shard_out_and_says_so(segments):
    from crystalign_serve.backend import IndexSearch, search_shard

    async def scenario():
        search = IndexSearch(np.ones(16, np.float32) / 4, 40)
        handles = [Handle(search_shard(segment, search)) for segment in segments]
        backend = RayBackend({}, handles, 5.0)
        whole = await backend.search(search)
        handles[1].alive = False
        handles[1].errors.append(ActorDiedError())
        began = time.monotonic()
        for _ in range(3):
            part = await backend.search(search)
            assert (part.shards_ok, part.shards_total) == (3, 4)
            assert set(part.scores) < set(whole.scores)
        assert time.monotonic() - began < 1.0

    asyncio.run(scenario())


def test_where_there_are_several_a_dead_one_does_not_end_the_work_of_the_living():
    async def scenario():
        handle = Handle()
        replicas = Replicas("shard 0", handle, spares=True)
        slow = asyncio.Event()
        ask, handle._answer = handle._answer, None

        async def answer(name, args):
            if name == "search":
                await slow.wait()
            return await ask(name, args)

        handle._answer = answer
        working = asyncio.create_task(replicas.call(5.0, "search"))
        await asyncio.sleep(0.02)
        handle.errors += [ActorDiedError(), ActorDiedError()]  # of another replica, and of the probe that reaches it
        replicas._recover()
        await asyncio.sleep(0.1)
        assert replicas.up
        slow.set()
        assert await working == 7

    asyncio.run(scenario())


def test_a_call_that_ray_cancels_does_not_end_the_recovery():
    async def scenario():
        handle = Handle()
        replicas = Replicas("shard 0", handle)
        handle.errors += [ActorDiedError(), asyncio.CancelledError(), asyncio.CancelledError()]
        with pytest.raises(DownError):
            await replicas.call(5.0, "search")
        await until(lambda: replicas.up)
        assert await replicas.call(5.0, "search") == 7

    asyncio.run(scenario())
