"""`crystalign index remove`: remove rows from an index."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from crystalign.config import Config
from crystalign.index.manifest import IndexManifest
from crystalign.storage import Uri

MAX_IDS = 5_000_000
"""Largest number of ids in a file."""


class Remove(Config):
    """Remove rows from an index, as a new version: by ids, by a file of ids, or by a filter.

    Example: crystalign index remove s3://bucket/index mp-149 mp-2534
    """

    index: Positional[Uri]
    """URI of the index."""
    ids: Positional[tuple[str, ...]] = ()
    """Ids of the rows."""
    file: Path | None = None
    """File of ids, one per line."""
    filter: str | None = None
    """OPTIMADE filter; all rows that satisfy it are removed."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""


def main(config: Remove) -> IndexManifest:
    """Remove the rows, and print the new version.

    Raises:
        ConfigError: another job is changing the index, it lacks some of the ids, or no row would remain.
        QueryError: the filter cannot be read.
        ConflictError: another job has changed the index meanwhile.
    """
    from crystalign.index.live import remove
    from crystalign_jobs.index.changing import changing, report

    ids = (*config.ids, *([] if config.file is None else read_ids(config.file)))
    with changing(config.index, "remove", config.address) as work:
        changed = remove(config.index, ids=ids, filter_text=config.filter, run=work.run, on_rows=work.on_rows)
    return report(config.index, changed)


def read_ids(path: Path) -> list[str]:
    """The ids in a file, one per line; empty lines are passed over.

    Raises:
        ConfigError: the file cannot be read, is no text, or has too many lines.
    """
    from crystalign.errors import ConfigError

    ids: list[str] = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                ids += [line.strip()] * bool(line.strip())
                if len(ids) > MAX_IDS:
                    raise ConfigError(f"{path} has more than {MAX_IDS:,} ids; remove rows by a --filter, or in parts")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the ids in {path}: {error}") from error
    return ids
