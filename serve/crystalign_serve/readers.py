"""Threads that parse and featurise what users send, apart from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from crystalign.errors import QueryError
from crystalign_serve.errors import UnavailableError

THREADS = 4
PARSE_SECONDS = 20.0
QUEUE_SECONDS = 30.0
"""How long work waits for a thread, before its own time begins."""

T = TypeVar("T")


class Readers:
    """Blocking work in a few threads, for a limited time."""

    def __init__(self, threads: int = THREADS) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._free = asyncio.Semaphore(threads)

    async def __call__(self, work: Callable[..., T], *args: Any) -> T:
        """What `work(*args)` returns.

        Raises:
            QueryError: it took too long.
        """
        try:
            return await self.within(PARSE_SECONDS, work, *args)
        except TimeoutError:
            message = f"reading the query took more than {PARSE_SECONDS:g} s; send a smaller structure or spectrum"
            raise QueryError(message, reason="too-slow") from None

    async def within(self, seconds: float, work: Callable[..., T], *args: Any) -> T:
        """What `work(*args)` returns within a time, which begins when a thread is free.

        Raises:
            TimeoutError: it took longer.
            UnavailableError: no thread became free.
        """
        try:
            await asyncio.wait_for(self._free.acquire(), QUEUE_SECONDS)
        except TimeoutError:
            message = f"too many structures wait to be read, for more than {QUEUE_SECONDS:g} s; try again in a moment"
            raise UnavailableError(message) from None
        job = asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        job.add_done_callback(lambda _: self._free.release())  # work that took too long keeps its thread until it ends
        return await asyncio.wait_for(asyncio.shield(job), seconds)
