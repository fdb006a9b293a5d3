"""A thread pool with a bounded queue for short blocking work: parsing filters and formulas, reading the dataset."""

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
"""Longest wait for a thread. It does not count towards the time limit of the work itself."""
MAX_WAITING = 64
"""Number of calls that may wait for a thread; further calls are refused at once."""

T = TypeVar("T")


class Readers:
    """A thread pool for blocking work, with a time limit and a bounded queue.

    Args:
        name: name of the threads.
        threads: their number.
        seconds: time limit and longest wait of a job without waiting users; None for those of a service.
    """

    def __init__(self, name: str = "reader", threads: int = THREADS, *, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = asyncio.Semaphore(threads)
        self._waiting = 0

    async def __call__(self, work: Callable[..., T], *args: Any) -> T:
        """Run `work(*args)` in a thread and return its result.

        Raises:
            QueryError: it took longer than `PARSE_SECONDS`, or `seconds` where they are given.
            UnavailableError: no thread became free in time.
        """
        limit = self._seconds or PARSE_SECONDS
        try:
            return await self.within(limit, work, *args)
        except TimeoutError:
            raise QueryError(
                f"reading the query took more than {limit:g} s; send a smaller query", reason="too-slow"
            ) from None

    async def within(self, seconds: float, work: Callable[..., T], *args: Any) -> T:
        """Run `work(*args)` in a thread and return its result. The time limit starts when a thread is free.

        Raises:
            TimeoutError: it took longer than `seconds`.
            UnavailableError: no thread became free in time.
        """
        if self._waiting >= MAX_WAITING:
            raise UnavailableError("too many queries are waiting to be read; try again in a moment")
        self._waiting += 1
        limit = self._seconds or QUEUE_SECONDS
        try:
            async with asyncio.timeout(limit):
                await self._free.acquire()
        except TimeoutError:
            raise UnavailableError(f"too many queries: this one waited {limit:g} s to be read; try again") from None
        finally:
            self._waiting -= 1
        job = asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        job.add_done_callback(self._done)  # work that exceeds its limit occupies its thread until it ends
        return await asyncio.wait_for(asyncio.shield(job), seconds)

    def _done(self, job: asyncio.Future[Any]) -> None:
        self._free.release()
        if not job.cancelled():
            job.exception()  # mark it as retrieved: after a timeout nobody awaits the job
