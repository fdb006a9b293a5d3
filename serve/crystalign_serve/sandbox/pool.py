"""Files read for an application: a bounded queue, a few processes at a time, and what their ends mean to the user."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from crystalign.errors import FileFormatError, InputError, QueryError
from crystalign.modalities import Modality
from crystalign.readers.structures.reading import Reading
from crystalign_serve.errors import UnavailableError
from crystalign_serve.files import Upload, check_kind
from crystalign_serve.queries import Part
from crystalign_serve.sandbox.answers import part_of, raise_refusal, reading_of
from crystalign_serve.sandbox.limits import SandboxLimits
from crystalign_serve.sandbox.process import Child, CrashError, LostError, Servers, TooLargeError, TooSlowError, servers
from crystalign_serve.sandbox.tasks import ask_crystal, ask_part
from crystalign_serve.sandbox.wire import Message, WireError

TRIES = 3
"""Children that are asked; another only where one was lost without the file's doing."""
_LOG = logging.getLogger(__name__)


class Sandbox:
    """Reads files in disposable processes; one per application and event loop."""

    def __init__(self, limits: SandboxLimits | None = None) -> None:
        self.limits = limits or SandboxLimits()
        self._servers: Servers = servers(self.limits)
        self._threads = ThreadPoolExecutor(self.limits.processes, thread_name_prefix="sandbox")
        self._free = asyncio.Semaphore(self.limits.processes)
        self._waiting = 0

    async def part(self, upload: Upload, modalities: Mapping[str, Modality[Any]]) -> Part:
        """The part of a query that a file is.

        Raises:
            InputError: the file cannot be used, or reading it took too much time or memory.
            QueryError: the model lacks the modality.
            UnavailableError: too many files wait.
        """
        check_kind(upload)
        try:
            answer = await self._read(upload, ask_part(upload, modalities))
        except QueryError:
            raise
        except InputError as error:  # a query may have several files: say which it is
            told = str(error) if upload.name in str(error) else f"{upload.name}: {error}"
            raise type(error)(told, reason=error.reason) from error
        try:
            return part_of(answer, modalities)
        except WireError as error:
            raise self._nonsense(upload, error) from error

    async def crystal(self, upload: Upload) -> Reading:
        """The crystal of a structure file, and what its user should know.

        Raises:
            InputError: the file cannot be used, or reading it took too much time or memory.
            UnavailableError: too many files wait.
        """
        check_kind(upload)
        answer = await self._read(upload, ask_crystal(upload))
        try:
            return reading_of(answer)
        except WireError as error:
            raise self._nonsense(upload, error) from error

    async def _read(self, upload: Upload, request: Message) -> Message:
        answer = await self._ask(upload.name, request)
        if "trace" in answer.fields:
            _LOG.warning("a reader failed on %r:\n%s", upload.name, str(answer.fields["trace"])[:4000])
        raise_refusal(answer, upload.name)
        return answer

    async def _ask(self, name: str, request: Message) -> Message:
        """Wait for a process, and for its answer; who goes away meanwhile ends it."""
        if self._waiting >= self.limits.waiting:
            raise UnavailableError(f"{self._waiting} files wait to be read; try again in a moment")
        self._waiting += 1
        try:
            async with asyncio.timeout(self.limits.queue_seconds):
                await self._free.acquire()
        except TimeoutError:
            seconds = self.limits.queue_seconds
            raise UnavailableError(
                f"too many files wait to be read, this one for more than {seconds:g} s; try again in a moment"
            ) from None
        finally:
            self._waiting -= 1
        job = _Job(self._servers, request, self.limits.seconds)
        work = asyncio.get_running_loop().run_in_executor(self._threads, job.run)
        work.add_done_callback(self._done)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            job.cancel()
            raise
        except (TooSlowError, TooLargeError, CrashError, LostError) as error:
            raise self._told(name, error) from error

    def _done(self, work: asyncio.Future[Message]) -> None:
        self._free.release()
        if not work.cancelled():
            work.exception()  # nobody may be waiting for it any more

    def _told(self, name: str, error: Exception) -> Exception:
        """What a user is told of the end of a process."""
        limits = self.limits
        if isinstance(error, TooSlowError):
            message = f"reading {name!r} took more than {limits.seconds:g} s; send a smaller file"
            return QueryError(message, reason="too-slow")
        if isinstance(error, TooLargeError):
            message = f"reading {name!r} took more than {limits.memory_mb} MB of memory; send a smaller file"
            return QueryError(message, reason="too-large")
        if isinstance(error, LostError):
            return UnavailableError("the process that reads files ended before it could; try again in a moment")
        _LOG.warning("a reader crashed on %r: %s", name, error)
        return self._crashed(name, str(error))

    def _nonsense(self, upload: Upload, error: WireError) -> InputError:
        _LOG.warning("a reader of %r answered what it should not: %s", upload.name, error)
        return self._crashed(upload.name, "no usable answer")

    def _crashed(self, name: str, told: str) -> InputError:
        message = f"the reader broke down on {name!r} ({told}): the file is damaged or too large; export it again"
        return FileFormatError(message, reason="unreadable-file")


class _Job:
    """One request on its way through a thread."""

    def __init__(self, source: Servers, request: Message, seconds: float) -> None:
        self._servers, self._request, self._seconds = source, request, seconds
        self._child: Child | None = None
        self._cancelled = False

    def run(self) -> Message:
        """Ask a child; another, where it was lost."""
        for attempt in range(TRIES):
            if self._cancelled:
                break
            self._child = self._servers.child()
            if self._cancelled:  # between the last look and now
                self._child.end()
            try:
                return self._child.ask(self._request, self._seconds)
            except LostError:
                if attempt == TRIES - 1:
                    raise
        raise LostError

    def cancel(self) -> None:
        """End the child: nobody waits for it."""
        self._cancelled = True
        if self._child is not None:
            self._child.end()
