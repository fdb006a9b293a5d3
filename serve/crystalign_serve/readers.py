"""Threads for short blocking work, apart from the event loop: filters and formulas, looks into the dataset."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from crystalign.errors import QueryError
from crystalign_serve.errors import UnavailableError

THREADS = 4
PARSE_SECONDS = 10.0
QUEUE_SECONDS = 5.0
"""How long work waits for a thread, before its own time begins."""
MAX_WAITING = 64
"""Work that may wait for a thread; more is refused at once."""

T = TypeVar("T")


class Readers:
    """Blocking work in a few threads, for a limited time, behind a short queue."""

    def __init__(self, name: str = "reader", threads: int = THREADS) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = asyncio.Semaphore(threads)
        self._waiting = 0

    async def __call__(self, work: Callable[..., T], *args: Any) -> T:
        """What `work(*args)` returns.

        Raises:
            QueryError: it took too long.
            UnavailableError: no thread became free.
        """
        try:
            return await self.within(PARSE_SECONDS, work, *args)
        except TimeoutError:
            raise QueryError(
                f"reading the query took more than {PARSE_SECONDS:g} s; send a smaller one", reason="too-slow"
            ) from None

    async def within(self, seconds: float, work: Callable[..., T], *args: Any) -> T:
        """What `work(*args)` returns within a time, which begins when a thread is free.

        Raises:
            TimeoutError: it took longer.
            UnavailableError: no thread became free.
        """
        if self._waiting >= MAX_WAITING:
            raise UnavailableError("too many queries wait to be read; try again in a moment")
        self._waiting += 1
        try:
            async with asyncio.timeout(QUEUE_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise UnavailableError(
                f"too many queries wait to be read, this one for more than {QUEUE_SECONDS:g} s; try again"
            ) from None
        finally:
            self._waiting -= 1
        job = asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        job.add_done_callback(self._done)  # work that took too long keeps its thread until it ends
        return await asyncio.wait_for(asyncio.shield(job), seconds)

    def _done(self, job: asyncio.Future[Any]) -> None:
        self._free.release()
        if not job.cancelled():
            job.exception()  # nobody may be waiting for it any more
