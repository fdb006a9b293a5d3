"""Threads that parse and featurise what users send, apart from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from crystalign.errors import QueryError

THREADS = 4
PARSE_SECONDS = 20.0

T = TypeVar("T")


class Readers:
    """Blocking work in a few threads, for a limited time."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="reader")

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
        """What `work(*args)` returns within a time.

        Raises:
            TimeoutError: it took longer.
        """
        job = asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        return await asyncio.wait_for(job, seconds)
