"""Ctrl-C and SIGTERM as something that is asked for, not died of."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

KINDS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """The signals that arrived within the block, in order; empty outside the main thread, which alone hears them."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = [signal.signal(kind, lambda signum, _: asked.append(signum)) for kind in KINDS]
    try:
        yield asked
    finally:
        for kind, handler in zip(KINDS, before, strict=True):
            signal.signal(kind, handler)
