"""Health monitoring of deployments.

A call to a deployment without a live replica would wait in Ray's router until one is back. Here such a
deployment is marked *down*: calls fail at once, and a background probe marks it *up* when it answers again.
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
"""Time limit of one probe."""
PROBE_EVERY_SECONDS = 0.2
"""Pause between probes of a deployment that is down."""
SURE_SECONDS = 1.0
"""A deployment with several replicas counts as down when its probes have failed for this long."""
LIFELINE_SECONDS = 2.0
"""Duration of the open call that detects the death of a replica."""
_DEAD = (RayActorError, DeploymentUnavailableError)
_LOG = logging.getLogger(__name__)


class DownError(Error):
    """No replica of a deployment is alive."""


class Replicas:
    """The replicas of one deployment."""

    def __init__(
        self, name: str, handle: DeploymentHandle, probe: tuple[Any, ...] = ("lifeline", 0.0), *, spares: bool = False
    ) -> None:
        """Store the handle; the deployment is not called yet.

        Args:
            name: for messages.
            handle: of the deployment.
            probe: a method that answers at once, and its arguments.
            spares: whether there are several replicas, so that a failed call can be retried on another.
        """
        self.name, self.up = name, True
        self._handle, self._probe, self._spares = handle, probe, spares
        self._down: asyncio.Future[None] | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def call(self, seconds: float, method: str, *args: Any) -> Any:
        """Call a method of the deployment, with one retry if there are several replicas.

        Raises:
            DownError: no replica is alive.
            TimeoutError: no replica answered in time.
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
        raise DownError(f"{self.name} does not answer; it is being restarted")

    def watch(self) -> None:
        """Keep one call open. It fails at the moment its replica dies."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Stop monitoring."""
        for task in (self._watching, self._recovering):
            if task is not None:
                task.cancel()

    async def _raced(self, until: float, method: str, args: tuple[Any, ...]) -> Any:
        """Call the method, and stop waiting as soon as the deployment is known to be down."""
        loop = asyncio.get_running_loop()
        if self._down is None or self._down.done() or self._down.get_loop() is not loop:
            self._down = loop.create_future()
        call = asyncio.ensure_future(ask(self._handle, method, *args))
        try:
            remaining = max(0.0, until - loop.time())
            await asyncio.wait({call, self._down}, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
            if call.done():
                return call.result()
            if self._down.done():
                raise DownError(f"{self.name} does not answer; it is being restarted")
            raise TimeoutError(f"{self.name} did not answer in time")
        finally:
            if not call.done():
                call.cancel()

    def _set(self, *, up: bool) -> None:
        if up != self.up:
            _LOG.warning("%s %s", self.name, "answers again" if up else "is down and will be skipped until it answers")
        self.up = up
        if not up and self._down is not None and not self._down.done():
            self._down.set_result(None)

    def _recover(self) -> None:
        """Probe in the background until the deployment answers."""
        if self._recovering is None or self._recovering.done():
            self._recovering = asyncio.create_task(self._until_it_answers())

    async def _until_it_answers(self) -> None:
        """Probe until the deployment answers.

        With several replicas it is marked down only after `SURE_SECONDS`, because Ray may still route a probe
        to the dead one.
        """
        loop, failing_since = asyncio.get_running_loop(), 0.0
        while True:
            try:
                await asyncio.wait_for(ask(self._handle, *self._probe), PROBE_SECONDS)
            except (Exception, asyncio.CancelledError):  # Ray reports a death by many exceptions, also cancellation
                if _is_ended():
                    raise
                failing_since = failing_since or loop.time()
                if not self._spares or loop.time() - failing_since >= SURE_SECONDS:
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
            except (Exception, asyncio.CancelledError) as error:  # keep watching after any failure
                if _is_ended():
                    raise
                _LOG.warning("%s: the monitoring call failed with %r", self.name, error)
                self._recover()
            if self._recovering is not None:
                await asyncio.wait({self._recovering})


def _is_ended() -> bool:
    """Whether this task itself is cancelled, and not only the Ray call that it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def ask(handle: DeploymentHandle, method: str, *args: Any) -> Any:
    """Call a method of a deployment. Its exceptions are raised without Ray's wrapper."""
    try:
        return await getattr(handle, method).remote(*args)
    except RayTaskError as error:
        raise error.as_instanceof_cause() if not isinstance(error.cause, Error) else error.cause from None
