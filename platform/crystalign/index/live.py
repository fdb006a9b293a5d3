"""Change an index while it is searched: add rows, remove rows, go back to an earlier version.

Every change writes new files only, and then makes a new version current (`versions`). A process that has opened a
version keeps it. What ends a job before that leaves the index as it was, and the same command can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from crystalign import storage
from crystalign.errors import ConfigError, VerificationError
from crystalign.index.build import ROWS_PER_SEGMENT, embedding_rows, write_lexicon
from crystalign.index.embeddings import EmbeddingManifest
from crystalign.index.id_runs import PlacedId, save_run
from crystalign.index.lexical import LexiconBuilder
from crystalign.index.manifest import AddedDataset, Change, IndexManifest
from crystalign.index.predictions import PredictionColumns
from crystalign.index.removal import (
    SHOWN,
    ByFilter,
    ByIds,
    Choice,
    Marked,
    MarkRows,
    mark_rows,
    subtract_words,
    without,
)
from crystalign.index.segment_files import word_counts
from crystalign.index.segment_writer import BUILDING, DIGITS, Run, SegmentWriter, Written, run_here, write_segments
from crystalign.index.vector_store import DEFAULT_KIND, VECTOR_STORES
from crystalign.index.versions import Opened, commit, open_current, read_version
from crystalign.properties import PropertySpec

IDS_PER_RUN = 100_000
"""Ids of a removal that are sorted at a time."""
OnRows = Callable[[int], None] | None


class Changed(NamedTuple):
    """The result of a command."""

    manifest: IndexManifest
    """The current version."""
    made: bool
    """Whether the command made it; False if there was nothing to do."""


def add(
    uri: str,
    embeddings_uri: str,
    *,
    replace: bool = False,
    rows_per_segment: int = ROWS_PER_SEGMENT,
    run: Run = run_here,
    on_rows: OnRows = None,
) -> Changed:
    """Add the rows of an embedding dataset to an index. They are searched exactly, also in an approximate index.

    Args:
        uri: URI of the index.
        embeddings_uri: URI of embeddings by the model of the index, of the same modality.
        replace: remove rows that have one of the new ids, in the same version; otherwise such ids are refused.
        rows_per_segment: rows of each new segment; the last one may have fewer.
        run: runs the tasks.
        on_rows: called with the number of rows of each segment that was written or looked through.

    Raises:
        ConfigError: the embeddings are of another model, modality or dimension, or hold ids that the index has.
        DatasetError: there is no index, there are no embeddings, an id occurs twice, or a vector cannot be used.
        ConflictError: another job has changed the index meanwhile.
    """
    opened, source = open_current(uri), EmbeddingManifest.read(embeddings_uri)
    old = opened.manifest
    _require_same_origin(old, source, embeddings_uri)
    rows = embedding_rows(embeddings_uri, source, PredictionColumns((), source.dataset_sha256))
    if old.change is not None and old.change.source_sha256 == rows.key:
        return Changed(old, made=False)
    kind = old.kind if VECTOR_STORES[old.kind].is_exact else DEFAULT_KIND
    writer = SegmentWriter(rows, uri, kind, rows_per_segment, first=next_number(old), apart=True)
    written = write_segments(writer, run, on_rows)
    marks = mark_rows(MarkRows(uri, old, ByIds(uri, written.ids, names_ids=False), write=replace), run, on_rows)
    if not replace and any(mark.count for mark in marks):
        raise ConfigError(
            f"{uri} already has {_listed(marks)} of the ids in {embeddings_uri}; remove them first, or replace them "
            "with --replace"
        )
    kept = without(old, marks)
    content = _with_segments(kept, source, written, None if kind == old.kind else kind)
    content = content.model_copy(update={"lexicon": _lexicon(uri, old, content)})
    replaced = sum(mark.count for mark in marks)
    note = f"added {source.rows:,} rows of {embeddings_uri}"
    note += f", of which {replaced:,} replace others" if replaced else ""
    note += ", without predicted properties" if old.predictions else ""
    change = Change(what="add", note=note, rows_added=source.rows, rows_removed=replaced, source_sha256=rows.key)
    made = commit(uri, opened, content, change)
    storage.delete(writer.folder)
    return Changed(made, made=True)


def remove(
    uri: str,
    *,
    ids: Iterable[str] = (),
    filter_text: str | None = None,
    run: Run = run_here,
    on_rows: OnRows = None,
) -> Changed:
    """Remove rows from an index, by their ids or by a filter. No search finds them any more.

    Args:
        uri: URI of the index.
        ids: ids of the rows. Those that were removed before are passed over.
        filter_text: OPTIMADE filter, instead of ids.
        run: runs the tasks.
        on_rows: called with the number of rows of each segment that was looked through.

    Raises:
        ConfigError: the index has none of some ids, or no row would remain.
        QueryError: the filter cannot be read.
        DatasetError: there is no index.
        ConflictError: another job has changed the index meanwhile.
    """
    opened = open_current(uri)
    names = sorted(set(ids))
    if bool(names) == (filter_text is not None):
        raise ConfigError("name the rows to remove either by ids or by a filter")
    runs = _sorted_runs(uri, names)
    choice: Choice = ByIds(uri, runs) if filter_text is None else ByFilter(opened.manifest, filter_text)
    marks = mark_rows(MarkRows(uri, opened.manifest, choice, write=True), run, on_rows)
    for entry in runs:
        storage.delete(storage.join(uri, *entry.path.split("/")))
    _require_known(uri, names, marks)
    return _commit_removal(uri, opened, marks, "by their ids" if filter_text is None else f"that satisfy {filter_text}")


def rollback(uri: str, number: int) -> Changed:
    """Make the content of an earlier version current again, as a new version.

    Raises:
        ConfigError: there is no such version, or it was pruned.
        VerificationError: a file of that version is missing or has another size.
        DatasetError: there is no index.
        ConflictError: another job has changed the index meanwhile.
    """
    opened = open_current(uri)
    earlier = read_version(uri, number)
    if earlier.version == opened.manifest.version:
        return Changed(opened.manifest, made=False)
    for entry in earlier.files():
        _require_file(uri, entry)
    change = Change(
        what="rollback",
        note=f"back to version {number}",
        rows_added=max(0, earlier.rows - opened.manifest.rows),
        rows_removed=max(0, opened.manifest.rows - earlier.rows),
    )
    return Changed(commit(uri, opened, earlier, change), made=True)


def next_number(manifest: IndexManifest) -> int:
    """The number for the name of the next segment."""
    stems = [entry.path.rpartition("/")[2].split(".")[0].removeprefix("segment-") for entry in manifest.segments]
    return 1 + max([len(stems) - 1, *(int(stem) for stem in stems if stem.isdecimal())])


# --- adding -----------------------------------------------------------------------------------------------------------


def _require_same_origin(manifest: IndexManifest, source: EmbeddingManifest, uri: str) -> None:
    """Check that new vectors can be compared with those of an index."""
    for what, new, old in (
        ("model", source.model_sha256[:12], manifest.model_sha256[:12]),
        ("modality", source.modality, manifest.modality),
        ("dimension", source.dimension, manifest.dimension),
    ):
        if new != old:
            raise ConfigError(f"the embeddings at {uri} are of {what} {new}, the index is of {what} {old}; embed again")
    columns = {spec.column: spec for spec in manifest.properties}
    for spec in source.properties:
        if columns.get(spec.column, spec) != spec:
            raise ConfigError(
                f"the embeddings at {uri} spell a property differently from the index: {_spelled(spec)} and "
                f"{_spelled(columns[spec.column])} would both be the column {spec.column}; spell them alike"
            )


def _spelled(spec: PropertySpec) -> str:
    return f"{spec.method!r} of {spec.source!r} {spec.vintage!r}"


def _with_segments(
    manifest: IndexManifest, source: EmbeddingManifest, written: Written, kind: str | None
) -> IndexManifest:
    """The manifest with further segments, of the dataset of `source`."""
    known = [manifest.dataset_sha256, *(dataset.sha256 for dataset in manifest.added_datasets)]
    datasets = manifest.added_datasets
    if source.dataset_sha256 not in known:
        datasets = (*datasets, AddedDataset(uri=source.dataset_uri, sha256=source.dataset_sha256))
        known.append(source.dataset_sha256)
    number = known.index(source.dataset_sha256)
    added = tuple(entry.model_copy(update={"kind": kind, "dataset": number}) for entry in written.entries)
    return manifest.model_copy(
        update={
            "segments": (*manifest.segments, *added),
            "rows": manifest.rows + sum(entry.rows for entry in added),
            "properties": tuple(dict.fromkeys((*manifest.properties, *source.properties))),
            "licences": tuple(sorted({*manifest.licences, *source.licences})),
            "has_facts": manifest.has_facts or written.has_facts,
            "has_hypothetical": manifest.has_hypothetical or written.has_hypothetical,
            "added_datasets": datasets,
        }
    )


def _lexicon(uri: str, before: IndexManifest, after: IndexManifest) -> storage.FileEntry | None:
    """Write the statistics of words of the rows that are searched in a new version."""
    builder = LexiconBuilder(before.read_lexicon(uri))
    subtract_words(uri, builder, before, after)
    for entry in after.segments[len(before.segments) :]:
        if entry.words is not None:
            builder.add(word_counts(uri, entry))
    return write_lexicon(uri, builder)


# --- removing ---------------------------------------------------------------------------------------------------------


def _sorted_runs(uri: str, names: list[str]) -> tuple[storage.FileEntry, ...]:
    """Write sorted ids where the tasks find them."""
    entries = []
    for start in range(0, len(names), IDS_PER_RUN):
        data = save_run(PlacedId(name, "") for name in names[start : start + IDS_PER_RUN])
        path = f"{BUILDING}/removed-{storage.entry_of('ids', data).sha256[:DIGITS]}.ids"
        storage.write_bytes(storage.join(uri, *path.split("/")), data)
        entries.append(storage.entry_of(path, data))
    return tuple(entries)


def _require_known(uri: str, names: list[str], marks: list[Marked]) -> None:
    if not names:
        return
    unknown = sorted(set(names) - {name for mark in marks for name in mark.shown})
    if unknown:
        more = f" and {len(unknown) - SHOWN:,} more" if len(unknown) > SHOWN else ""
        raise ConfigError(
            f"{uri} does not have {', '.join(map(repr, unknown[:SHOWN]))}{more}; nothing was removed. Correct the list"
        )


def _commit_removal(uri: str, opened: Opened, marks: list[Marked], how: str) -> Changed:
    old, count = opened.manifest, sum(mark.count for mark in marks)
    if not count:
        return Changed(old, made=False)
    content = without(old, marks)
    if not content.rows:
        raise ConfigError(f"this would remove all {old.rows:,} rows of {uri}; delete the index instead")
    content = content.model_copy(update={"lexicon": _lexicon(uri, old, content)})
    change = Change(what="remove", note=f"removed {count:,} rows {how}", rows_removed=count)
    return Changed(commit(uri, opened, content, change), made=True)


def _listed(marks: list[Marked]) -> str:
    """How many rows, and some of their ids."""
    names = [name for mark in marks for name in mark.shown][:SHOWN]
    return f"{sum(mark.count for mark in marks):,} ({', '.join(names)}, …)"


def _require_file(uri: str, entry: storage.FileEntry) -> None:
    """Check that a file exists and has its size; `crystalign index verify` checks the content."""
    target = storage.join(uri, *entry.path.split("/"))
    if not storage.exists(target):
        raise VerificationError(f"{entry.path} of {uri} is missing")
    with storage.open_input(target) as file:
        if file.size() != entry.bytes:
            raise VerificationError(f"{entry.path} of {uri} has {file.size()} bytes instead of {entry.bytes}")
