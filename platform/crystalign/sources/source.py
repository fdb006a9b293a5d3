"""What a source is: a cheap list of work items, and a way to read one of them anywhere.

The driver lists, tasks read. An item that cannot be used is still an item: it carries its
`Reject`, so that whatever a source was asked for ends either in the dataset or in quarantine.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Self

from crystalign.config import Config
from crystalign.errors import Error, FileFormatError, InputError, StorageError
from crystalign.material import Material
from crystalign.properties import PropertySpec
from crystalign.shards.writer import Reject
from crystalign.sources.compression import without_suffix
from crystalign.sources.limits import Limits

MAX_ID_LENGTH = 200


class Item(Config):
    """One unit of work: a file, some rows of a table, a slice of a JSON file."""

    key: str
    """What to read, in the source's own terms: a member's name, a part of the source."""
    id: str = ""
    """The material's id, where the item is one material."""
    start: int = 0
    """First character or offset, where the source counts them."""
    stop: int = 0
    """One past the last."""
    first: int = 0
    """Number of the first row of the slice that `start` and `stop` bound."""
    rows: tuple[int, ...] = ()
    """Row numbers, where the source has rows."""
    files: tuple[str, ...] = ()
    """Where several files make one material: all of them."""
    rejected: tuple[str, str] | None = None
    """(reason, message) of what was refused on sight, before reading."""

    @property
    def count(self) -> int:
        """How many materials to expect, for sharing the work out."""
        return len(self.rows) or 1

    def take(self, positions: Sequence[int]) -> Self:
        """The same item with some of its rows only."""
        return self.model_copy(update={"rows": tuple(self.rows[i] for i in positions)})


class Source(ABC):
    """One place that crystals come from. Small, picklable, stateless between items but for caches."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()

    @abstractmethod
    def items(self) -> list[Item]:
        """Everything there is, in a fixed order, without reading it.

        Raises:
            StorageError: nothing there.
            FileFormatError: the source as a whole cannot be opened.
        """

    @abstractmethod
    def load(self, item: Item) -> Iterator[Material | Reject]:
        """The materials of an item.

        Raises:
            InputError: the item as a whole cannot be read.
        """

    def properties(self) -> tuple[PropertySpec, ...]:
        """The property columns that its materials may fill."""
        return ()

    def origin(self, item: Item) -> str:
        """Where to look when an item is refused."""
        return item.key

    def read(self, item: Item) -> Iterator[Material | Reject]:
        """`load`, with everything that goes wrong turned into a `Reject`; only a vanished store is raised.

        Raises:
            StorageError: the source itself cannot be read any more.
        """
        if item.rejected:
            yield Reject(item.id or item.key, "list", *item.rejected, self.origin(item))
            return
        found = self.load(item)
        while True:
            try:
                # the clock runs only here: never while the reader of this generator is at work
                with time_limit(self.limits.max_seconds, item.key):
                    material = next(found)
            except StopIteration:
                return
            except InputError as error:
                yield Reject(item.id or item.key, "read", error.reason, str(error), self.origin(item))
                return
            except StorageError:
                raise
            except Exception as error:  # noqa: BLE001 (whatever a parser met in a stranger's file)
                yield Reject(item.id or item.key, "read", *unforeseen(error), self.origin(item))
                return
            yield material if isinstance(material, Reject) else self._checked(material)

    def _checked(self, material: Material) -> Material | Reject:
        """A material that may enter a dataset, with its symmetry; otherwise why it may not."""
        from crystalign.physics.symmetry import symmetry

        crystal, where = material.crystal, material.provenance.reference
        try:
            with time_limit(self.limits.max_seconds, material.id):
                check_id(material.id)
                crystal.check(max_sites=self.limits.max_sites, min_distance=self.limits.min_distance)
                known = symmetry(crystal)
        except InputError as error:
            return Reject(material.id[:MAX_ID_LENGTH], "check", error.reason, str(error), where)
        except Exception as error:  # noqa: BLE001 (one crystal must not stop the others)
            return Reject(material.id[:MAX_ID_LENGTH], "check", *unforeseen(error), where)
        return replace(material, spacegroup_number=known.number, prototype=known.prototype)


def unforeseen(error: Exception) -> tuple[str, str]:
    """(reason, message) of an exception that no rule names: still a reject, never a silent loss."""
    kind = type(error).__name__
    reason = "too-nested" if isinstance(error, RecursionError) else f"unforeseen-{kind}"
    return reason, f"{kind}: {str(error)[:300]}"


def check_id(identifier: str) -> None:
    """Refuse an id that cannot be a row's name.

    Raises:
        InputError: empty, too long, with control characters, or a step between folders, which no address can hold.
    """
    if identifier in {".", ".."}:
        raise InputError(f"id {identifier!r} means a folder; give the material a name", reason="bad-id")
    if not identifier or len(identifier) > MAX_ID_LENGTH or not identifier.isprintable():
        message = f"id {identifier[:80]!r} is empty, longer than {MAX_ID_LENGTH} characters or not printable"
        raise InputError(message, reason="bad-id")


class _Overtime(BaseException):
    """Not an `Exception`, so that no parser's broad `except` swallows it."""


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Stop pure-Python work after `seconds`; compiled code is stopped when it returns.

    Works on the main thread, where Ray runs its tasks; elsewhere signals do not exist and there is no limit.

    Raises:
        FileFormatError: the time is up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise _Overtime

    began = time.monotonic()
    previous = signal.signal(signal.SIGALRM, stop)
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _Overtime:
        message = f"{what} was not read within {seconds:g} s; it is malformed, or too large for this limit"
        raise FileFormatError(message, reason="too-slow") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if outer:  # somebody else's clock, which goes on; at once if it has run out meanwhile
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - began), 1e-3))


def sample(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """A uniform random sample of at most `limit` materials, in the order of the source.

    Args:
        items: everything the source listed.
        limit: how many materials to keep; None keeps all.
        seed: of the choice; the same seed chooses the same materials.
    """
    import numpy as np

    total = sum(item.count for item in items)
    if limit is None or limit >= total:
        return list(items)
    chosen = np.sort(np.random.default_rng(seed).choice(total, size=limit, replace=False))
    kept, first = [], 0
    for item in items:
        low, high = np.searchsorted(chosen, (first, first + item.count))
        if high > low:
            kept.append(item.take((chosen[low:high] - first).tolist()) if item.rows else item)
        first += item.count
    return kept


def file_id(name: str) -> str:
    """The id of a material that is one file: its path without the ending and without `#`, which numbers blocks."""
    endings = r"\.(cif|mcif|cif\.txt|vasp|poscar|contcar|xyz|extxyz|json|jsonl)$"
    stem = re.sub(endings, "", without_suffix(name), flags=re.IGNORECASE)
    return stem.replace("#", "_") or name


def without_duplicates(items: Sequence[Item]) -> list[Item]:
    """Items whose id another one had before become rejects."""
    seen: set[str] = set()
    result = []
    for item in items:
        if item.id and item.id in seen and not item.rejected:
            reason = ("duplicate-id", f"the id {item.id!r} stands for an earlier entry of this source")
            result.append(item.model_copy(update={"rejected": reason}))
        else:
            result.append(item)
        seen.add(item.id)
    return result


def reject_of(error: Error, identifier: str, origin: str) -> Reject:
    """The reject that an error of ours means, for one entry among many."""
    reason = error.reason if isinstance(error, InputError) else type(error).__name__
    return Reject(identifier, "read", reason, str(error), origin)
