"""Run work that Ctrl-C or SIGTERM stops: the first signal at the next safe point, the second one at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

KINDS = (signal.SIGINT, signal.SIGTERM)
TICK_SECONDS = 0.2
"""Seconds between two checks for signals while work goes on."""


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Collect the signals that arrive within the block, in order; outside the main thread the list stays empty."""
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    handlers = [signal.signal(kind, lambda signum, _: signals.append(signum)) for kind in KINDS]
    try:
        yield signals
    finally:
        for kind, handler in zip(KINDS, handlers, strict=True):
            signal.signal(kind, handler)


def run_in_background(
    work: Callable[[], None],
    asked: Sequence[int],
    *,
    name: str,
    on_stop: Callable[[], None],
    on_tick: Callable[[], None] = lambda: None,
) -> Exception | None:
    """Run `work` in a separate thread, because in the main thread Ray would handle Ctrl-C itself.

    Args:
        work: what to run.
        asked: the signals that arrived, as `asked_to_stop` collects them.
        name: name of the thread.
        on_stop: called once, after the first signal; it must ask the work to end.
        on_tick: called several times a second until the work ends or a signal arrives.

    Returns:
        The exception that the work raised, if any.

    Raises:
        KeyboardInterrupt: a second signal arrived; the thread is not waited for.
    """
    raised: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 (the caller reports it from the main thread)
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True, name=name)
    thread.start()
    stopping = False
    while thread.is_alive():
        thread.join(TICK_SECONDS)
        if asked and not stopping:
            on_stop()
            stopping = True
        if len(asked) > 1:
            raise KeyboardInterrupt
        if not stopping:
            on_tick()
    return raised[0] if raised else None
