"""`crystalign derive`: add modalities computed from the crystal, and embeddings of its text, to a dataset.

Each shard is rewritten as a new file beside the old one. A receipt marks a complete new shard. Its name depends on the
old shard and on the request, so a restarted job finds the receipts and continues. The manifest is replaced last, and
only if no other job changed it meanwhile. Then the old shards are deleted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.derivation import extended
from crystalign.errors import ConfigError, VerificationError
from crystalign.modalities.text_embedding import TokenPooling
from crystalign.storage import Uri
from crystalign_jobs.descriptions import Descriptions, add_descriptions, are_added
from crystalign_jobs.text_embeddings import NAME, choose_language_model, embed_texts

if TYPE_CHECKING:
    from crystalign.modalities.text_embedding import LanguageModelEntry
    from crystalign.rejects import Reject
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.manifest import Manifest, ShardEntry
    from crystalign.storage import FileEntry
    from crystalign_ray.estimates import Estimate

SECONDS = 0.05
"""Rough time of one modality of one crystal, for the estimate."""
VERSION = 8
"""Increased when a derivation changes, so that a restarted job never mixes old and new results."""
PARTS = ("shards", "quarantine", "derive")
"""Folders to which a derivation writes files."""


class Derive(Config):
    """Add powder patterns, captions, compositions, images or descriptors, computed from the structures.

    Existing values are kept: a generated text never replaces a text from the source. With `text_embedding`, a frozen
    language model embeds every text once.

    Example: crystalign derive s3://bucket/mp --modalities xrd text
    """

    data: Positional[Uri]
    """URI of the dataset, which is extended in place."""
    modalities: tuple[str, ...] = ("xrd", "text", "composition")
    """Modalities to compute: xrd, text, composition, image and tabular from the crystal, or text_embedding."""
    refresh: bool = False
    """With `text`: also write generated captions of earlier releases again, which lack the facts that a search uses."""
    descriptions: Uri | None = None
    """Parquet table with the columns `id` and `description`: further texts about the crystals, such as those of
    robocrystallographer, which training reads with the setting `others` of the text modality."""
    max_seconds: float = Field(default=60.0, gt=0)
    """Time limit for one modality of one crystal; if it is exceeded, the value stays missing and is reported."""
    language_model: Uri | None = None
    """For `text_embedding`: folder of a Hugging Face encoder with safetensors weights, readable by all workers."""
    pooling: TokenPooling = "cls"
    """The embedding of a text: `cls` is the vector of the first token, `mean` the mean over all tokens."""
    max_tokens: int | None = Field(default=None, ge=4)
    """Longer texts are truncated; default: the maximum of the language model, at most 512."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""

    @field_validator("modalities")
    @classmethod
    def _can_be_derived(cls, modalities: tuple[str, ...]) -> tuple[str, ...]:
        from crystalign.modalities import MODALITIES

        derivable = [name for name, modality in MODALITIES.items() if modality.derived_by is not None]
        if unknown := sorted(set(modalities) - {*derivable, NAME}):
            raise ValueError(f"{unknown[0]!r} cannot be derived; there are {', '.join([*derivable, NAME])}")
        return modalities


def main(config: Derive) -> Manifest:
    """Derive, replace the manifest, delete the old files, and return the manifest.

    Raises:
        ConfigError: another job writes to the dataset.
        ConflictError: another job changed the dataset meanwhile; its version is kept.
    """
    from crystalign.shards.manifest import Manifest
    from crystalign_ray.driver_lock import driving

    Manifest.read(config.data)  # fails if there is no dataset to lock
    with driving(config.data) as drives:
        return _derive(config, drives)


def _derive(config: Derive, drives: Callable[[], bool]) -> Manifest:
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.manifest import Manifest
    from crystalign_ray.estimates import announce
    from crystalign_ray.progress import Meter
    from crystalign_ray.session import session
    from crystalign_ray.tasks import map_rows

    version = Manifest.version(config.data)  # read before the manifest, so that a change in between is refused below
    dataset = Dataset.open(config.data)
    dataset.require_current(config.modalities)
    shards = dataset.manifest.shards
    language_model = _language_model(config, dataset.manifest)
    modalities = config.modalities
    descriptions = None if config.descriptions is None else Descriptions.open(config.descriptions)
    without_facts = {n: count for n in range(len(shards)) if (count := _captions_without_facts(config, dataset, n))}
    new_names = {
        n: target(entry, modalities, language_model, descriptions, refresh=config.refresh)
        for n, entry in enumerate(shards)
        if _lacks(entry, modalities)
        or (config.refresh and n in without_facts)
        or (descriptions is not None and _lacks_descriptions(dataset, n, descriptions))
    }
    if without_facts and not config.refresh:
        print(
            f"{sum(without_facts.values()):,} captions of an earlier release lack the facts that a search uses; "
            "`--refresh` writes them again"
        )
    print(f"deriving {', '.join(config.modalities)} of {len(dataset):,} crystals\nwriting {config.data}/shards/")
    receipts = {n: receipt for n, name in new_names.items() if (receipt := _receipt(config.data, name))}
    if receipts:
        print(f"{len(receipts)} of {len(new_names)} shards are already derived")
    todo: list[dict[str, Any]] = [{"number": n, "name": name} for n, name in new_names.items() if n not in receipts]
    announce(_estimate([shards[row["number"]] for row in todo], modalities), config.data)
    with Meter("derive", total=len(dataset), unit="crystals") as meter:
        meter.advance(len(dataset) - sum(shards[row["number"]].rows for row in todo), counted=False)
        if todo:
            with session(config.address):
                for receipt in map_rows(todo, ShardDeriver(config, dataset, language_model, descriptions)):
                    receipts[receipt["number"]] = receipt
                    meter.advance(shards[receipt["number"]].rows)
    manifest = _commit(config, dataset, receipts, version, drives) if receipts else dataset.manifest
    _report(config, manifest, receipts)
    return manifest


def _estimate(shards: Sequence[ShardEntry], modalities: Sequence[str]) -> Estimate:
    """What the derivation of these shards needs; each is written again beside the old one."""
    from crystalign_ray.estimates import Estimate, bytes_of

    rows = sum(shard.rows for shard in shards)
    return Estimate(rows, sum(shard.bytes for shard in shards) + rows * bytes_of(modalities), SECONDS * len(modalities))


def target(
    entry: ShardEntry,
    modalities: Sequence[str],
    language_model: LanguageModelEntry | None = None,
    descriptions: Descriptions | None = None,
    *,
    refresh: bool = False,
) -> str:
    """Name of the new shard, without suffix: stem of the old shard, and a hash of its content and of the request."""
    key = [entry.sha256, sorted(modalities), VERSION, *([language_model.identity] if language_model else [])]
    key += ["refresh"] if refresh else []
    key += [descriptions.sha256] if descriptions is not None else []
    return f"{_stem(entry.path)}.{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:10]}"


def _stem(path: str) -> str:
    """The part of a file name that all versions of a shard share."""
    return path.rpartition("/")[2].partition(".")[0]


def _lacks(entry: ShardEntry, modalities: Sequence[str]) -> bool:
    return any(entry.counts.get(name, 0) < entry.rows for name in modalities)


def _lacks_descriptions(dataset: Dataset, number: int, descriptions: Descriptions) -> bool:
    table = dataset.read(number, columns=["id", "text"])
    return not are_added(table["id"].to_pylist(), table["text"].to_pylist(), descriptions)


def _captions_without_facts(config: Derive, dataset: Dataset, number: int) -> int:
    """The number of generated texts without facts in a shard; reads the file's footer and a column of bits."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    entry = dataset.manifest.shards[number]
    if "text" not in config.modalities or not entry.counts.get("text", 0):
        return 0
    with storage.open_input(storage.join(dataset.uri, entry.path)) as source:
        file = pq.ParquetFile(source)
        generated = pc.struct_field(file.read(columns=["text.generated"])["text"].combine_chunks(), "generated")
        footer = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        columns = [group.column(i) for group in footer for i in range(group.num_columns)]
        with_facts = sum(c.statistics.num_values for c in columns if c.path_in_schema == "text.facts")
    n_generated = int(pc.sum(generated).as_py() or 0)
    return n_generated - int(with_facts)


def _receipt(uri: str, name: str) -> dict[str, Any] | None:
    """The receipt of an earlier run for this target, if its shard is still complete."""
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


def _language_model(config: Derive, manifest: Manifest) -> LanguageModelEntry | None:
    """The language model for `text_embedding`, or None."""
    if (NAME in config.modalities) != (config.language_model is not None):
        raise ConfigError("`--modalities text_embedding` and `--language-model FOLDER` must be used together")
    if config.language_model is None:
        return None
    return choose_language_model(
        manifest, config.data, config.language_model, pooling=config.pooling, max_tokens=config.max_tokens
    )


class ShardDeriver:
    """Rewrites one shard with more columns; runs inside a task."""

    def __init__(
        self,
        config: Derive,
        dataset: Dataset,
        language_model: LanguageModelEntry | None = None,
        descriptions: Descriptions | None = None,
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.language_model = language_model
        self.descriptions = descriptions

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Rewrite the shard with this number under this name; store its receipt, and return it as JSON."""
        from crystalign.shards.schema import table_to_materials
        from crystalign.shards.writer import write_quarantine, write_shard

        uri, number, name = self.config.data, int(row["number"]), str(row["name"])
        old, properties = self.dataset.manifest.shards[number], self.dataset.manifest.properties
        rejects: list[Reject] = []
        materials = [
            extended(material, self.config.modalities, self.config.max_seconds, rejects, refresh=self.config.refresh)
            for material in table_to_materials(self.dataset.read(number), properties)
        ]
        if self.descriptions is not None:
            materials = add_descriptions(materials, self.descriptions, rejects)
        if self.language_model is not None and self.config.language_model is not None:
            materials = embed_texts(materials, self.config.language_model, self.language_model, rejects)
        new = write_shard(uri, name, materials, properties, rows_per_group=max(old.row_groups))
        # heavy modalities stay in their own files, because the rows are the same
        heavy = {modality: old.counts[modality] for modality in old.siblings}
        updates: dict[str, Any] = {"siblings": old.siblings, "counts": new.counts | heavy}
        if new.counts[NAME]:
            updates["language_model"] = self.language_model or old.language_model
        new = new.model_copy(update=updates)
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
    """Replace the manifest, then delete the files that it no longer lists."""
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
    """All files of these shards: current and old versions, and leftovers of killed runs with other requests.

    They are listed before the manifest is replaced, so files of a job that starts from the new one are kept.
    """
    paths = [f"{part}/{name}" for part in PARTS for name in storage.list_names(storage.join(uri, part))]
    return {path for path in paths if _stem(path).removeprefix("derive-") in stems}


def _derived_from(entry: FileEntry) -> str:
    """The stem of the shard to whose derivation a quarantine file belongs; empty if it belongs to none."""
    stem = _stem(entry.path)
    return stem.removeprefix("derive-") if stem.startswith("derive-") else ""


def _rows(uri: str, entry: FileEntry) -> int:
    import pyarrow.parquet as pq

    with storage.open_input(storage.join(uri, entry.path)) as source:
        return int(pq.ParquetFile(source).metadata.num_rows)


def _report(config: Derive, manifest: Manifest, receipts: Mapping[int, dict[str, Any]]) -> None:
    """Print the modalities of the dataset, the failures, and the next command."""
    print(
        f"{manifest.rows:,} crystals at {config.data}: "
        + ", ".join(f"{m} {n:,}" for m, n in manifest.modalities.items())
    )
    reasons: Counter[str] = Counter()
    for receipt in receipts.values():
        reasons.update(receipt["reasons"])
    if NAME in manifest.modalities:
        made_by = manifest.language_model
        print(f"text embeddings by {made_by.label if made_by else 'a language model that is not recorded'}")
    for reason, count in reasons.most_common():
        print(f"  {count:>7,}  {reason}")
    print(f"next: crystalign pretrain --data {config.data} --out RUNS")
