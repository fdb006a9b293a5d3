"""What the commands that change an index share: the lock, the tasks, the progress, and what they print."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from crystalign.index.manifest import IndexManifest
from crystalign.index.segment_writer import Run
from crystalign_jobs.index.cluster import tasks

if TYPE_CHECKING:
    from crystalign.index.live import Changed

SECONDS = 0.00005
"""Rough time to look through one row, for the estimate."""


class Changing(NamedTuple):
    """What a command needs while it changes an index."""

    manifest: IndexManifest
    """The current version at the start."""
    run: Run
    """Runs the tasks."""
    on_rows: Callable[[int], None]
    """Called with the number of rows of each segment that is done."""


@contextmanager
def changing(uri: str, label: str, address: str | None, *, new_rows: int = 0, new_bytes: int = 0) -> Iterator[Changing]:
    """Hold the lock of an index, and show the progress through its rows.

    Args:
        uri: URI of the index.
        label: name of the command.
        address: Ray cluster; None means RAY_ADDRESS, or this machine.
        new_rows: number of rows to write, in addition to those to look through.
        new_bytes: rough size of the new files.

    Raises:
        ConfigError: another job is changing the index, or the disk is too small.
        DatasetError: there is no index.
    """
    from crystalign_ray.driver_lock import driving
    from crystalign_ray.estimates import Estimate, announce
    from crystalign_ray.progress import Meter

    manifest = IndexManifest.read(uri)
    rows = new_rows + sum(entry.rows for entry in manifest.segments)
    print(f"changing {uri}/\n├─ segments/\n├─ versions/\n└─ manifest.json  replaced last")
    announce(Estimate(rows, new_bytes, SECONDS), uri)
    with (
        driving(uri),
        tasks(len(manifest.segments), address) as run,
        Meter(label, total=rows, unit="rows") as meter,
    ):
        yield Changing(manifest, run, meter.advance)


def report(uri: str, changed: Changed) -> IndexManifest:
    """Print the version that a command made, and what to do next; returns its manifest."""
    manifest = changed.manifest
    if not changed.made:
        print(f"nothing to do: version {manifest.number} of {uri} stays as it is")
        return manifest
    note = "" if manifest.change is None else f" {manifest.change.note}"
    print(f"version {manifest.number} of {uri}:{note}; {manifest.rows:,} rows are searched")
    print("A running service keeps the version that it opened. Restart it to serve this one.")
    removed = sum(entry.removed_rows for entry in manifest.segments)
    exact = sum(entry.rows for entry in manifest.segments if manifest.kind_of(entry) != manifest.kind)
    if removed or exact:
        print(f"next: crystalign index compact {uri}   ({removed:,} removed rows, {exact:,} rows of another kind)")
    print(f"  or: crystalign index versions {uri}")
    return manifest
