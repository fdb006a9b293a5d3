"""What is screened: index, model, dataset, queries and settings, and the receipt that records them."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, DatasetError, ModelError, StorageError
from crystalign.index.calibration import Calibration
from crystalign.index.manifest import IndexManifest, SegmentEntry
from crystalign_serve.requests import SearchOptions
from crystalign_serve.screening.source import Block, Queries, open_queries
from crystalign_serve.service import Service, open_service

SCHEMA_VERSION = 1
BLOCK = 128
"""Queries of one task, and of one file between two steps."""
RECEIPT_BYTES = 4 * 2**20
"""Largest size of a receipt (bytes)."""


class Plan(Config):
    """Everything that determines the hits of a screening."""

    index: str
    """URI of the index."""
    index_version: str
    """Version of the index."""
    model: str
    """URI of the model that encodes the queries."""
    model_sha256: str
    """SHA-256 of the model."""
    dataset: str
    """URI of the dataset of the index."""
    dataset_sha256: str
    """SHA-256 of its manifest."""
    calibration_sha256: str | None
    """SHA-256 of the calibration of the index; None if it has none."""
    queries: Queries
    """The queries."""
    options: SearchOptions
    """Number of results, filter and reranking."""

    @classmethod
    def of(
        cls,
        index: str,
        model: str | None,
        dataset: str | None,
        queries: Queries,
        options: SearchOptions,
    ) -> Self:
        """The plan of a screening; `model` and `dataset` default to the URIs in the index.

        Raises:
            DatasetError: there is no index.
        """
        manifest = IndexManifest.read(index)
        calibration = Calibration.read(index, manifest)
        return cls(
            index=index,
            index_version=manifest.version,
            model=model or manifest.model_uri,
            model_sha256=manifest.model_sha256,
            dataset=dataset or manifest.dataset_uri,
            dataset_sha256=manifest.dataset_sha256,
            calibration_sha256=None if calibration is None else calibration.sha256,
            queries=queries,
            options=options,
        )

    @functools.cached_property
    def stamp(self) -> bytes:
        """Identity of the hits: everything except URIs, and the release."""
        import crystalign

        content = self.model_dump(mode="json", exclude={"index": True, "model": True, "dataset": True})
        del content["queries"]["uri"]
        return json.dumps({"release": crystalign.__version__, **content}, sort_keys=True).encode()

    @property
    def digest(self) -> str:
        """Short hash of `stamp`."""
        return hashlib.sha256(self.stamp).hexdigest()[:16]


class Receipt(Config):
    """Record of a screening, from which `crystalign replay` runs it again."""

    schema_version: int = SCHEMA_VERSION
    """Version of this layout."""
    created: str
    """Time at which the screening ended, UTC, ISO 8601."""
    release: str
    """Release of Crystalign."""
    environment: dict[str, str]
    """Machine and libraries on which the encoding of queries depends in its last bits."""
    plan: Plan
    """What was screened."""
    hits: storage.FileEntry
    """The file of hits, relative to the receipt."""
    outcomes: storage.FileEntry
    """The file with one row per query, relative to the receipt."""
    rows: int
    """Number of hits."""
    refused: int
    """Number of queries that could not be used."""

    @classmethod
    def read(cls, uri: str) -> Self:
        """The receipt at a URI.

        Raises:
            DatasetError: there is none, it is damaged, or it has another schema version.
        """
        try:
            values = json.loads(storage.read_bytes(uri, limit=RECEIPT_BYTES))
        except (StorageError, ValueError, RecursionError) as error:
            raise DatasetError(f"no receipt of a screening at {uri}: {str(error)[:200]}") from error
        version = values.get("schema_version") if isinstance(values, dict) else None
        if version != SCHEMA_VERSION:
            raise DatasetError(f"{uri} has schema version {version}; this release reads {SCHEMA_VERSION}")
        return cls.from_mapping(values, origin=uri)


class Opened(NamedTuple):
    """What every step needs, opened once per process."""

    manifest: IndexManifest
    """Manifest of the index."""
    service: Service
    """Its fixed state, as in a service."""


@functools.lru_cache(1)
def opened(stamp: bytes, index: str, model: str, dataset: str) -> Opened:  # noqa: ARG001 (a change opens it again)
    """Open index, dataset and the description of the model.

    Raises:
        DatasetError: the dataset is not the one of the index.
        ModelError: there is no model.
    """
    from crystalign.model_description import read_description

    manifest = IndexManifest.read(index)
    described = read_description(model)
    service = open_service(
        manifest,
        described.config,
        described.card,
        dataset_uri=dataset,
        shards=len(manifest.segments),
        lexicon=manifest.read_lexicon(index),
        calibration=Calibration.read(index, manifest),
    )
    return Opened(manifest, service)


def open_plan(plan: Plan) -> Opened:
    """What every step of a plan needs.

    Raises:
        ConfigError: the index has changed since the plan was made.
    """
    found = opened(plan.stamp, plan.index, plan.model, plan.dataset)
    if found.manifest.version != plan.index_version:
        raise ConfigError(
            f"the index {plan.index} has changed since the screening began: it has version "
            f"{found.manifest.version[:12]}, not {plan.index_version[:12]}; start the screening again"
        )
    return found


@functools.lru_cache(1)
def open_model(uri: str, sha256: str) -> Any:
    """The model at a URI.

    Raises:
        ModelError: it is not the one with this checksum.
    """
    from crystalign.model import load

    model = load(uri)
    if model.sha256 != sha256:
        raise ModelError(
            f"model {model.sha256[:12]} at {uri} is not the one that made the index, {sha256[:12]}; give that one with "
            "--model"
        )
    return model


def groups_of(manifest: IndexManifest, rows: int) -> list[tuple[SegmentEntry, ...]]:
    """Consecutive segments in groups of about equally many rows, at most `rows` or one segment."""
    count = max(1, -(-manifest.rows // rows))
    share, groups, own = manifest.rows / count, list[tuple[SegmentEntry, ...]](), list[SegmentEntry]()
    for entry in manifest.segments:
        if own and sum(e.rows for e in own) + entry.rows > max(share, entry.rows) * 1.001:
            groups.append(tuple(own))
            own = []
        own.append(entry)
    return [*groups, tuple(own)] if own else groups


def folder_name(plan: Plan, groups: Sequence[Sequence[SegmentEntry]]) -> str:
    """Name of the folder of the files between the steps.

    It identifies the segments of every group: the files are numbered by group, and those of other groups must not be
    used when a run continues with another number of rows per task.
    """
    listed = [[entry.model_dump(mode="json") for entry in group] for group in groups]
    return hashlib.sha256(json.dumps([plan.digest, listed], sort_keys=True).encode()).hexdigest()[:16]


def changes(receipt: Receipt) -> tuple[Plan, list[Block], list[str]]:
    """The plan of a receipt with what is there today, its blocks, and what has changed since, in words.

    Raises:
        ConfigError: the queries are gone.
        DatasetError: the index is gone.
    """
    old = receipt.plan
    queries, blocks = open_queries(old.queries.uri, BLOCK, old.queries.kind, old.queries.wavelength)
    plan = Plan.of(old.index, old.model, old.dataset, queries, old.options)
    found = []
    for what, before, now in (
        (f"the index {old.index}", old.index_version, plan.index_version),
        (f"the model of {old.index}", old.model_sha256, plan.model_sha256),
        (f"the dataset of {old.index}", old.dataset_sha256, plan.dataset_sha256),
        (f"the calibration of {old.index}", old.calibration_sha256, plan.calibration_sha256),
        (f"the queries {old.queries.uri}", old.queries.sha256, queries.sha256),
    ):
        if before != now:
            found.append(f"{what} (was {_short(before)}, is {_short(now)})")
    return plan, blocks, found


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]
