"""The sandbox of an application: a bounded queue, a few processes at a time, and error messages for the user."""

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
from crystalign_serve.queries import QueryPart
from crystalign_serve.sandbox.answers import part_of, raise_refusal, reading_of
from crystalign_serve.sandbox.limits import SandboxLimits
from crystalign_serve.sandbox.process import Child, CrashError, LostError, Servers, TooLargeError, TooSlowError, servers
from crystalign_serve.sandbox.tasks import ask_crystal, ask_part
from crystalign_serve.sandbox.wire import Message, WireError

TRIES = 3
"""Attempts per file. A retry happens only if the child was lost for reasons other than the file."""
_LOG = logging.getLogger(__name__)


class Sandbox:
    """Parses files in disposable processes; one instance per application and event loop."""

    def __init__(self, limits: SandboxLimits | None = None) -> None:
        self.limits = limits or SandboxLimits()
        self._servers: Servers = servers(self.limits)
        self._threads = ThreadPoolExecutor(self.limits.processes, thread_name_prefix="sandbox")
        self._free = asyncio.Semaphore(self.limits.processes)
        self._waiting = 0

    async def part(self, upload: Upload, modalities: Mapping[str, Modality[Any]]) -> QueryPart:
        """Parse a file into a query part.

        Raises:
            InputError: the file cannot be used, or parsing it took too much time or memory.
            QueryError: the model does not read the modality of the file.
            UnavailableError: too many files are waiting.
        """
        check_kind(upload)
        try:
            answer = await self._read(upload, ask_part(upload, modalities))
        except QueryError:
            raise
        except InputError as error:  # name the file, because a query may have several
            message = str(error) if upload.name in str(error) else f"{upload.name}: {error}"
            raise type(error)(message, reason=error.reason) from error
        try:
            return part_of(answer, modalities)
        except WireError as error:
            raise self._invalid_answer(upload, error) from error

    async def crystal(self, upload: Upload) -> Reading:
        """Parse a structure file into a crystal and remarks.

        Raises:
            InputError: the file cannot be used, or parsing it took too much time or memory.
            UnavailableError: too many files are waiting.
        """
        check_kind(upload)
        answer = await self._read(upload, ask_crystal(upload))
        try:
            return reading_of(answer)
        except WireError as error:
            raise self._invalid_answer(upload, error) from error

    async def _read(self, upload: Upload, request: Message) -> Message:
        answer = await self._ask(upload.name, request)
        if "trace" in answer.fields:
            _LOG.warning("the parser failed on %r:\n%s", upload.name, str(answer.fields["trace"])[:4000])
        raise_refusal(answer, upload.name)
        return answer

    async def _ask(self, name: str, request: Message) -> Message:
        """Wait for a process and its answer. Cancelling the request ends the process."""
        if self._waiting >= self.limits.waiting:
            raise UnavailableError(f"{self._waiting} files are waiting to be read; try again in a moment")
        self._waiting += 1
        try:
            async with asyncio.timeout(self.limits.queue_seconds):
                await self._free.acquire()
        except TimeoutError:
            seconds = self.limits.queue_seconds
            raise UnavailableError(
                f"too many files: this one waited {seconds:g} s to be read; try again in a moment"
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
            raise self._user_error(name, error) from error

    def _done(self, work: asyncio.Future[Message]) -> None:
        self._free.release()
        if not work.cancelled():
            work.exception()  # mark it as retrieved: after a cancellation nobody awaits it

    def _user_error(self, name: str, error: Exception) -> Exception:
        """The error for the user when a process ended without an answer."""
        limits = self.limits
        if isinstance(error, TooSlowError):
            message = f"reading {name!r} took more than {limits.seconds:g} s; send a smaller file"
            return QueryError(message, reason="too-slow")
        if isinstance(error, TooLargeError):
            message = f"reading {name!r} took more than {limits.memory_mb} MB of memory; send a smaller file"
            return QueryError(message, reason="too-large")
        if isinstance(error, LostError):
            return UnavailableError("the process that reads files ended unexpectedly; try again in a moment")
        _LOG.warning("the parser crashed on %r: %s", name, error)
        return self._crashed(name, str(error))

    def _invalid_answer(self, upload: Upload, error: WireError) -> InputError:
        _LOG.warning("invalid answer from the parser of %r: %s", upload.name, error)
        return self._crashed(upload.name, "no usable answer")

    def _crashed(self, name: str, cause: str) -> InputError:
        message = f"the parser crashed on {name!r} ({cause}): the file is damaged or too large; export it again"
        return FileFormatError(message, reason="unreadable-file")


class _Job:
    """One request, run in a thread."""

    def __init__(self, source: Servers, request: Message, seconds: float) -> None:
        self._servers, self._request, self._seconds = source, request, seconds
        self._child: Child | None = None
        self._cancelled = False

    def run(self) -> Message:
        """Send the request to a child process; retry with another if the child is lost."""
        for attempt in range(TRIES):
            if self._cancelled:
                break
            self._child = self._servers.child()
            if self._cancelled:  # `cancel` may have run since the check above
                self._child.end()
            try:
                return self._child.ask(self._request, self._seconds)
            except LostError:
                if attempt == TRIES - 1:
                    raise
        raise LostError

    def cancel(self) -> None:
        """End the child process, because nobody waits for its answer."""
        self._cancelled = True
        if self._child is not None:
            self._child.end()
