"""`crystalign index`: build a search index from embeddings."""

from __future__ import annotations

from pydantic import Field
from tyro.conf import Positional

from crystalign.config import Config
from crystalign.index.kinds import AUTO, choose_kind
from crystalign.index.manifest import IndexManifest
from crystalign.index.recall import TARGET
from crystalign.index.vector_store import DEFAULT_KIND
from crystalign.storage import Uri

ROWS_PER_SEGMENT = 16_384
SECONDS = 0.0001
"""Rough time of one row, for the estimate."""


class BuildIndex(Config):
    """Build a search index from embeddings: immutable segments, and a manifest with their checksums.

    Segments are written in parallel. If the job is stopped, the same command continues with what is missing.

    Example: crystalign index s3://bucket/embeddings --out s3://bucket/index
    """

    embeddings: Positional[Uri]
    """URI of the embeddings, as written by `crystalign embed`."""
    out: Uri
    """URI of the new index; an existing index is never changed."""
    rows_per_segment: int = Field(default=ROWS_PER_SEGMENT, ge=1)
    """Rows of each segment file; a service can have at most as many shards as there are segments."""
    kind: str = DEFAULT_KIND
    """Vector store: how vectors are stored and searched. `exact-fp16` compares every vector with the query; `ivf-fp16`,
    `ivf-sq8` and `ivf-rabitq` visit a part of them. `auto` chooses from rows, memory and recall, and says why."""
    queries: tuple[Uri, ...] = ()
    """Embeddings of other modalities by the same model, on which the recall of an approximate kind is measured.
    Queries of modalities that are not measured are searched exactly."""
    predictions: tuple[Uri, ...] = ()
    """Predictions for the same dataset, by `crystalign predict --data`. They become fields of their own, such as
    `_crystalign_predicted_band_gap`, with `_lower`, `_upper` and `_out_of_domain`."""
    target_recall: float = Field(default=TARGET, gt=0, le=1)
    """Part of the best rows that an approximate kind is to find."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Total memory in GB of the machines that will hold the index, for `--kind auto`; default: that of this machine."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""


def main(config: BuildIndex) -> IndexManifest:
    """Build the index, and print the command that serves it.

    Raises:
        ConfigError: another job is writing there, or the folder already holds another index.
        DatasetError: an id occurs twice, or a vector cannot be used.
    """
    from crystalign.index.approximate import recall_table
    from crystalign.index.build import build_index
    from crystalign.index.embeddings import EmbeddingManifest
    from crystalign_jobs.index.cluster import tasks
    from crystalign_ray.driver_lock import driving
    from crystalign_ray.estimates import Estimate, announce
    from crystalign_ray.progress import Meter

    source = EmbeddingManifest.read(config.embeddings)
    kind = _kind(config, source.rows, source.dimension)
    print(f"writing to {config.out}/\n├─ segments/\n└─ manifest.json  written last")
    announce(Estimate(source.rows, sum(file.bytes for file in source.files), SECONDS), config.out)
    segments = -(-source.rows // config.rows_per_segment)
    with (
        driving(config.out),
        tasks(segments, config.address) as run,
        Meter("index", total=source.rows, unit="rows") as meter,
    ):
        manifest = build_index(
            config.embeddings,
            config.out,
            rows_per_segment=config.rows_per_segment,
            kind=kind,
            queries=config.queries,
            predictions=config.predictions,
            target_recall=config.target_recall,
            on_rows=meter.advance,
            run=run,
        )
    print(
        f"index {manifest.version[:12]} at {config.out}: {manifest.rows:,} {manifest.modality} vectors of "
        f"{manifest.dimension} dimensions in {len(manifest.segments)} segments"
    )
    if manifest.recall:
        print("\n".join(recall_table(manifest)))
    print(f"next: crystalign calibrate {config.out}   so that searches say how sure they are")
    print(f"  or: crystalign serve --index {config.out} --model {manifest.model_uri}")
    return manifest


def _kind(config: BuildIndex, rows: int, dimension: int) -> str:
    """The kind to build; says why if it was chosen here."""
    if config.kind != AUTO:
        return config.kind
    import psutil

    memory = psutil.virtual_memory().total if config.memory_gb is None else int(config.memory_gb * 1e9)
    choice = choose_kind(rows, dimension, memory, config.target_recall)
    print(f"--kind {choice.kind}: {choice.reason}")
    return choice.kind
