"""`crystalign replay`: run a screening again from its receipt, and compare every row."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError
from crystalign.storage import Uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crystalign_serve.screening.places import Places

ROWS_AT_ONCE = 4096
SHOWN = 5


class Replay(Config):
    """Run a screening again from its receipt, and say whether every row is the same.

    It is refused if the index, its model, dataset or calibration, or the queries have changed. The exit code is 1 if a
    row differs.

    Example: crystalign replay hits.receipt.json
    """

    receipt: Positional[Uri]
    """The receipt, as `crystalign screen` wrote it."""
    out: Uri | None = None
    """The .parquet file of the new hits; default: NAME.replay.parquet beside the receipt NAME.receipt.json."""
    rows_per_task: int = Field(default=1_000_000, ge=1)
    """Rows of the index that one task holds in memory; the hits do not depend on it."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, else this machine."""


class Difference(NamedTuple):
    """A row that is not the same."""

    place: str
    """File and row."""
    before: Any
    """The row of the receipt's screening; None if there was none."""
    now: Any
    """The new row; None if there is none."""


def main(config: Replay) -> list[Difference]:
    """Screen again, and print the rows that differ.

    Raises:
        ConfigError: index, model, dataset, calibration or queries have changed; the message names all that have. Or the
            new hits would replace other files.
        VerificationError: the hits or the outcomes differ from the receipt.
        SystemExit: a row differs (1).
    """
    from crystalign_serve.screening.places import Places
    from crystalign_serve.screening.plan import Receipt, changes
    from crystalign_serve.screening.run import run

    receipt = Receipt.read(config.receipt)
    folder = config.receipt.rpartition("/")[0] or "."
    old = [storage.join(folder, entry.path) for entry in (receipt.hits, receipt.outcomes)]
    for uri, entry in zip(old, (receipt.hits, receipt.outcomes), strict=True):
        storage.verify(uri, entry)
    plan, blocks, changed = changes(receipt)
    if changed:
        raise ConfigError(f"this screening cannot be repeated: {'; '.join(changed)} changed since {receipt.created}")
    out = config.out or f"{config.receipt.removesuffix('.json').removesuffix('.receipt')}.replay.parquet"
    Places(out).check_apart(config.receipt, *old)
    _clear(Places(out), ours=config.out is None)
    print(f"screening {plan.queries.count:,} queries again, as on {receipt.created}\nwriting to {out}")
    again = run(plan, blocks, out, rows_per_task=config.rows_per_task, address=config.address)
    place = out.rpartition("/")[0] or "."
    new = [storage.join(place, entry.path) for entry in (again.hits, again.outcomes)]
    differences = [one for before, now in zip(old, new, strict=True) for one in compared(before, now)]
    for one in differences[:SHOWN]:
        print(f"{one.place}\n  before: {one.before}\n  now:    {one.now}")
    if differences:
        other = {k: v for k, v in again.environment.items() if receipt.environment.get(k) != v}
        print(
            f"{len(differences):,} rows differ. Release {receipt.release} → {again.release}; here: {other or 'alike'}"
        )
        raise SystemExit(1)
    print(f"all {again.rows:,} hits and {plan.queries.count:,} outcomes are the same")
    return differences


def _clear(places: Places, *, ours: bool) -> None:
    """Remove the hits of an earlier replay, so that they are computed again.

    Raises:
        ConfigError: there are hits at an `out` that the user chose.
        DatasetError: the file at the place of the receipt is no receipt.
    """
    from crystalign_serve.screening.plan import Receipt

    if not storage.exists(places.receipt):
        return
    if not ours:
        raise ConfigError(f"there already are hits at {places.hits}; choose another --out")
    Receipt.read(places.receipt)
    for uri in (places.hits, places.outcomes, places.receipt):  # the receipt last: it says that the others are ours
        storage.delete(uri)


def compared(before: str, now: str) -> Iterator[Difference]:
    """The rows of two Parquet files that differ; a difference in the last bit counts."""
    pairs = zip_longest(_rows(before), _rows(now))
    for number, (old, new) in enumerate(pairs):
        if old != new:
            yield Difference(f"{storage.name_of(before)}, row {number}", old, new)


def _rows(uri: str) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with storage.open_input(uri) as source:
        for batch in pq.ParquetFile(source).iter_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()
