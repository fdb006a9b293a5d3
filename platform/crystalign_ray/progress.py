"""The progress display of all jobs: a progress bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LINES = 10.0


class Meter:
    """Counts finished units, and shows the rate and the remaining time.

    Example:
        with Meter("embed", total=1200, unit="rows") as meter:
            meter.advance(512)
    """

    def __init__(self, label: str, *, total: int, unit: str) -> None:
        self.total = total
        self.done = 0
        self._label, self._unit = label, unit
        self._began = time.monotonic()
        self._counted_from = 0
        self._last_line = self._began
        self._note = ""
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"))
            self._task = self._bar.add_task(self._label, total=self.total, note="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._line()

    def advance(self, n: int = 1, note: str = "", *, counted: bool = True) -> None:
        """Count `n` more.

        Args:
            n: how many.
            note: text to show behind the rate, e.g. losses.
            counted: False for units finished by an earlier run, which are left out of the rate.
        """
        self.done += n
        self._counted_from += 0 if counted else n
        self._show(note)

    def reach(self, done: int, *, total: int | None = None, note: str = "") -> None:
        """Set the count, and the total if it has changed."""
        self.done = done
        self.total = total if total is not None else self.total
        self._show(note)

    def start_from(self, done: int) -> None:
        """Set the count that an earlier run reached; it is left out of the rate."""
        self.done = self._counted_from = done
        self._began = time.monotonic()

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return (self.done - self._counted_from) / max(time.monotonic() - self._began, 1e-9)

    def _show(self, note: str) -> None:
        self._note = note
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, total=self.total, note=self._tail())
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._line()

    def _tail(self) -> str:
        left = (self.total - self.done) / self.rate if self.rate > 0 else float("inf")
        eta = "" if self.done >= self.total or left == float("inf") else f"  {_clock(left)} left"
        return f"{self.rate:,.1f} {self._unit}/s{eta}  {self._note}".rstrip()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        print(f"{self._label}: {self.done:,}/{self.total:,} {self._unit}  {self._tail()}", flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
