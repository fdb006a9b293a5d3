"""`crystalign derive`: modalities that follow from the crystal, and embeddings of its text, added to a dataset.

Each shard becomes a new one beside it. A receipt, whose name the old shard and the request determine, says that it is
complete: a job that was killed finds the receipts and goes on where it was. The manifest is swapped last, and only if
it is still the one that was read; only then are the shards that it named before deleted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.derivation import extended
from crystalign.errors import VerificationError
from crystalign.modalities.text_embedding import TokenPooling
from crystalign.storage import Uri
from crystalign_jobs.text_embeddings import choose_language_model, embed_texts

if TYPE_CHECKING:
    from crystalign.modalities.text_embedding import LanguageModelEntry
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.manifest import Manifest, ShardEntry
    from crystalign.shards.writer import Reject
    from crystalign.storage import FileEntry

Derivable = Literal["xrd", "text", "composition", "image", "tabular", "text_embedding"]
VERSION = 4
"""Raised when a derivation changes, so that an interrupted job never mixes old and new."""
PARTS = ("shards", "quarantine", "derive")
"""Folders in which a derivation leaves files."""


class Derive(Config):
    """Add powder patterns, captions and compositions, or pictures and descriptors, computed from the structures.

    What is there already stays: a text that a person wrote is never replaced by a generated one. With
    `text_embedding`, a language model that is not trained embeds every text, once.

    Example: crystalign derive s3://bucket/mp --modalities xrd text
    """

    data: Positional[Uri]
    """The dataset, any URI; it is extended in place."""
    modalities: tuple[Derivable, ...] = ("xrd", "text", "composition")
    """What to compute."""
    max_seconds: float = Field(default=60.0, gt=0)
    """For one modality of one crystal; what takes longer stays missing and is reported."""
    language_model: Uri | None = None
    """For `text_embedding`: folder of a Hugging Face encoder with safetensors weights, any URI that all workers see."""
    pooling: TokenPooling = "cls"
    """The vector of a text: the language model's for its first token, or the mean over its tokens."""
    max_tokens: int | None = Field(default=None, ge=4)
    """Longer texts are cut; default: as many tokens as the language model reads, at most 512."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""


def main(config: Derive) -> Manifest:
    """Derive, swap the manifest, delete what it superseded, and return it.

    Raises:
        ConfigError: another job writes to the dataset.
        ConflictError: another job changed the dataset meanwhile; it stays as that job left it.
    """
    from crystalign.shards.manifest import Manifest
    from crystalign_jobs.ownership import driving

    Manifest.read(config.data)  # or there is nothing to drive
    with driving(config.data) as drives:
        return _derive(config, drives)


def _derive(config: Derive, drives: Callable[[], bool]) -> Manifest:
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.manifest import Manifest
    from crystalign_jobs.pool import map_rows
    from crystalign_jobs.progress import Meter
    from crystalign_jobs.session import session

    version = Manifest.version(config.data)  # before the manifest: what is read may be newer, and is then refused below
    dataset = Dataset.open(config.data)
    dataset.require_current(config.modalities)
    shards = dataset.manifest.shards
    chosen = choose_language_model(config, dataset.manifest)
    asked = config.modalities
    plan = {n: target(entry, asked, chosen) for n, entry in enumerate(shards) if _lacks(entry, asked)}
    print(f"deriving {', '.join(config.modalities)} of {len(dataset):,} crystals\nwriting {config.data}/shards/")
    receipts = {n: receipt for n, name in plan.items() if (receipt := _receipt(config.data, name))}
    if receipts:
        print(f"{len(receipts)} of {len(plan)} shards were derived before")
    todo: list[dict[str, Any]] = [{"number": n, "name": name} for n, name in plan.items() if n not in receipts]
    with Meter("derive", total=len(dataset), unit="crystals") as meter:
        meter.advance(len(dataset) - sum(shards[row["number"]].rows for row in todo), counted=False)
        if todo:
            with session(config.address):
                for receipt in map_rows(todo, ShardDeriver(config, dataset, chosen)):
                    receipts[receipt["number"]] = receipt
                    meter.advance(shards[receipt["number"]].rows)
    manifest = _commit(config, dataset, receipts, version, drives) if receipts else dataset.manifest
    _report(config, manifest, receipts)
    return manifest


def target(entry: ShardEntry, modalities: Sequence[str], language_model: LanguageModelEntry | None = None) -> str:
    """How the name of the shard that a shard becomes begins: its own, and a hash of its content and of the request."""
    asked = [entry.sha256, sorted(modalities), VERSION, *([language_model.identity] if language_model else [])]
    return f"{_stem(entry.path)}.{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:10]}"


def _stem(path: str) -> str:
    """The part of a file's name that all descendants of a shard share."""
    return path.rpartition("/")[2].partition(".")[0]


def _lacks(entry: ShardEntry, modalities: Sequence[str]) -> bool:
    return any(entry.counts.get(name, 0) < entry.rows for name in modalities)


def _receipt(uri: str, name: str) -> dict[str, Any] | None:
    """What an earlier run wrote for this target, if all of it is still there."""
    from crystalign.shards.manifest import ShardEntry

    path = storage.join(uri, "derive", f"{name}.json")
    if not storage.exists(path):
        return None
    receipt: dict[str, Any] = json.loads(storage.read_bytes(path))
    entry = ShardEntry.model_validate(receipt["shard"])
    try:
        storage.verify(storage.join(uri, entry.path), entry)
    except VerificationError:
        return None
    return receipt


class ShardDeriver:
    """Writes one shard again with more columns; runs inside a task."""

    def __init__(self, config: Derive, dataset: Dataset, language_model: LanguageModelEntry | None = None) -> None:
        self.config = config
        self.dataset = dataset
        self.language_model = language_model

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """A shard's number and its new name in, the JSON of its receipt out; the receipt is stored too."""
        from crystalign.shards.schema import table_to_materials
        from crystalign.shards.writer import write_quarantine, write_shard

        uri, number, name = self.config.data, int(row["number"]), str(row["name"])
        old, properties = self.dataset.manifest.shards[number], self.dataset.manifest.properties
        rejects: list[Reject] = []
        materials = [
            extended(material, self.config.modalities, self.config.max_seconds, rejects)
            for material in table_to_materials(self.dataset.read(number), properties)
        ]
        if self.language_model is not None and self.config.language_model is not None:
            materials = embed_texts(materials, self.config.language_model, self.language_model, rejects)
        new = write_shard(uri, name, materials, properties, rows_per_group=max(old.row_groups))
        # heavy modalities stay in the files they are in: the rows are the same
        heavy = {modality: old.counts[modality] for modality in old.siblings}
        kept: dict[str, Any] = {"siblings": old.siblings, "counts": new.counts | heavy}
        if new.counts["text_embedding"]:
            kept["language_model"] = self.language_model or old.language_model
        new = new.model_copy(update=kept)
        quarantine = write_quarantine(uri, f"derive-{name}", rejects).model_dump(mode="json") if rejects else None
        reasons = dict(Counter(f"{reject.stage}: {reject.reason}" for reject in rejects))
        result = json.dumps(
            {"number": number, "shard": new.model_dump(mode="json"), "quarantine": quarantine, "reasons": reasons}
        )
        storage.write_bytes(storage.join(uri, "derive", f"{name}.json"), result.encode())
        return {"result": result}


def _commit(
    config: Derive,
    dataset: Dataset,
    receipts: Mapping[int, dict[str, Any]],
    version: str | None,
    drives: Callable[[], bool],
) -> Manifest:
    """Swap the manifest, then delete what it no longer names."""
    from crystalign.shards.manifest import Manifest, ShardEntry
    from crystalign.shards.writer import commit_manifest

    Manifest.refuse_changed(config.data, version)
    old = dataset.manifest
    shards = [
        # the rows and their structures stay the same
        ShardEntry.model_validate(receipts[n]["shard"]).model_copy(update={"groups": entry.groups})
        if n in receipts
        else entry
        for n, entry in enumerate(old.shards)
    ]
    renewed = {_stem(old.shards[n].path) for n in receipts}
    quarantine = [q for q in old.quarantine if _derived_from(q) not in renewed]
    quarantine += [storage.FileEntry.model_validate(r["quarantine"]) for r in receipts.values() if r["quarantine"]]
    superseded = _descendants(config.data, renewed)
    new = commit_manifest(
        config.data,
        shards,
        old.properties,
        quarantine=sorted(quarantine, key=lambda entry: entry.path),
        quarantined=sum(_rows(config.data, entry) for entry in quarantine),
        derived=sorted({*old.derived, *config.modalities}),
        structures=old.structures,
        schema_version=old.schema_version,
        expected=version,
    )
    if drives():
        for path in superseded.difference(new.files):
            storage.delete(storage.join(config.data, path))
    return new


def _descendants(uri: str, stems: set[str]) -> set[str]:
    """Files of these shards: what they are, were, and what runs left that were killed and asked for something else.

    It is listed before the manifest is swapped, so that a job which starts from the new one never loses a file.
    """
    paths = [f"{part}/{name}" for part in PARTS for name in storage.list_names(storage.join(uri, part))]
    return {path for path in paths if _stem(path).removeprefix("derive-") in stems}


def _derived_from(entry: FileEntry) -> str:
    """The stem of the shard whose derivation a quarantine file is about, or nothing."""
    stem = _stem(entry.path)
    return stem.removeprefix("derive-") if stem.startswith("derive-") else ""


def _rows(uri: str, entry: FileEntry) -> int:
    import pyarrow.parquet as pq

    with storage.open_input(storage.join(uri, entry.path)) as source:
        return int(pq.ParquetFile(source).metadata.num_rows)


def _report(config: Derive, manifest: Manifest, receipts: Mapping[int, dict[str, Any]]) -> None:
    """What there is now, what could not be computed, and the next command."""
    print(
        f"{manifest.rows:,} crystals at {config.data}: "
        + ", ".join(f"{m} {n:,}" for m, n in manifest.modalities.items())
    )
    reasons: Counter[str] = Counter()
    for receipt in receipts.values():
        reasons.update(receipt["reasons"])
    if "text_embedding" in manifest.modalities:
        made_by = manifest.language_model
        print(f"text embeddings by {made_by.label if made_by else 'a language model that is not recorded'}")
    for reason, count in reasons.most_common():
        print(f"  {count:>7,}  {reason}")
    print(f"next: crystalign pretrain --data {config.data} --out RUNS")
