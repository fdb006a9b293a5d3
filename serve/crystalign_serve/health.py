"""Whether a deployment answers, known before it is asked.

A request to a deployment without a living replica waits in Ray's router until one comes back. Here
such a deployment is *down*: it is left out at once, and asked in the background until it answers.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from crystalign.errors import Error

PROBE_SECONDS = 1.0
PROBE_EVERY_SECONDS = 0.2
SURE_SECONDS = 1.0
"""Of several replicas none lives if probes fail for so long."""
LIFELINE_SECONDS = 2.0
"""Of one call that is kept open; its end without an answer is a sign, too."""
_DEAD = (RayActorError, DeploymentUnavailableError)
_LOG = logging.getLogger(__name__)


class DownError(Error):
    """No replica of a deployment answers."""


class Replicas:
    """The replicas of one deployment."""

    def __init__(
        self, name: str, handle: DeploymentHandle, probe: tuple[Any, ...] = ("lifeline", 0.0), *, spares: bool = False
    ) -> None:
        """Nothing is asked yet.

        Args:
            name: for messages.
            handle: of the deployment.
            probe: a method that answers at once, and its arguments.
            spares: whether there are several, so that another is asked where one has died.
        """
        self.name, self.up = name, True
        self._handle, self._probe, self._spares = handle, probe, spares
        self._gone: asyncio.Future[None] | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def call(self, seconds: float, method: str, *args: Any) -> Any:
        """What a method returns.

        Raises:
            DownError: no replica lives.
            TimeoutError: none answered in time.
        """
        until = asyncio.get_running_loop().time() + seconds
        for last in (False, True) if self._spares else (True,):
            if not self.up:
                self._recover()
                break
            try:
                return await self._raced(until, method, args)
            except _DEAD as error:
                _LOG.warning("%s: a replica has died (%s)", self.name, type(error).__name__)
                if last and not self._spares:
                    self._set(up=False)
                self._recover()
            except TimeoutError:
                self._recover()
                raise
        raise DownError(f"{self.name} does not answer; it is being started again")

    def watch(self) -> None:
        """Keep one call open, which fails at the moment its replica dies."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Ask nothing any more."""
        for task in (self._watching, self._recovering):
            if task is not None:
                task.cancel()

    async def _raced(self, until: float, method: str, args: tuple[Any, ...]) -> Any:
        """The answer, or the news that there will be none, whichever comes first."""
        loop = asyncio.get_running_loop()
        if self._gone is None or self._gone.done() or self._gone.get_loop() is not loop:
            self._gone = loop.create_future()
        asked = asyncio.ensure_future(ask(self._handle, method, *args))
        try:
            waited = max(0.0, until - loop.time())
            await asyncio.wait({asked, self._gone}, timeout=waited, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
            if self._gone.done():
                raise DownError(f"{self.name} does not answer; it is being started again")
            raise TimeoutError(f"{self.name} did not answer in time")
        finally:
            if not asked.done():
                asked.cancel()

    def _set(self, *, up: bool) -> None:
        if up != self.up:
            _LOG.warning("%s %s", self.name, "answers again" if up else "is down: it is left out until it answers")
        self.up = up
        if not up and self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def _recover(self) -> None:
        """Find out, in the background, whether it answers, and ask until it does."""
        if self._recovering is None or self._recovering.done():
            self._recovering = asyncio.create_task(self._until_it_answers())

    async def _until_it_answers(self) -> None:
        """Probe until an answer comes; where there are spares, one that has died may be asked a few times more."""
        loop, failing = asyncio.get_running_loop(), 0.0
        while True:
            try:
                await asyncio.wait_for(ask(self._handle, *self._probe), PROBE_SECONDS)
            except (Exception, asyncio.CancelledError):  # a death has many names, cancellation is one of Ray's
                if _is_ended():
                    raise
                failing = failing or loop.time()
                if not self._spares or loop.time() - failing >= SURE_SECONDS:
                    self._set(up=False)
            else:
                self._set(up=True)
                return
            await asyncio.sleep(PROBE_EVERY_SECONDS)

    async def _watch(self) -> None:
        while True:
            try:
                call = ask(self._handle, "lifeline", LIFELINE_SECONDS)
                await asyncio.wait_for(call, LIFELINE_SECONDS + PROBE_SECONDS)
            except _DEAD:
                if not self._spares:
                    self._set(up=False)
                self._recover()
            except (Exception, asyncio.CancelledError) as error:  # whatever it is, the watch goes on
                if _is_ended():
                    raise
                _LOG.warning("%s: the watch ended with %r", self.name, error)
                self._recover()
            if self._recovering is not None:
                await asyncio.wait({self._recovering})


def _is_ended() -> bool:
    """Whether somebody cancels this task, rather than Ray the call that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def ask(handle: DeploymentHandle, method: str, *args: Any) -> Any:
    """What a method of a deployment returned; its exceptions without Ray's wrapping."""
    try:
        return await getattr(handle, method).remote(*args)
    except RayTaskError as error:
        raise error.as_instanceof_cause() if not isinstance(error.cause, Error) else error.cause from None
