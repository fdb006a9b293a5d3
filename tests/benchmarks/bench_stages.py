"""Samples per second of every stage of the path, each beside its floor in the same run.

    python tests/benchmarks/bench_stages.py --rows 2000

Without `--source` the crystals are the embedded demonstration corpus. A ratio of 1 means that the
stage costs what its floor costs; the floor of a stage on Ray uses one process, the stage all cores.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import tyro
from rich.console import Console
from rich.table import Table

from crystalign import storage
from crystalign.config import Config
from crystalign.model import Model, load
from crystalign.shards.dataset import Dataset
from crystalign.shards.selection import Selection
from crystalign.shards.splits import SplitRule
from crystalign.training.config import OptimiserConfig
from crystalign.training.feed import FeedPlan, feed
from crystalign.training.loop import Step
from crystalign.training.presets import default_model
from crystalign.training.schedule import make_optimiser
from crystalign_jobs import derive, embed, ingest, pretrain
from crystalign_jobs.index import build as index
from crystalign_ray.session import session

Rows = list[tuple[str, float, str, float]]


class BenchStages(Config):
    """Measure every stage beside its floor."""

    source: str = "demo"
    """What `crystalign ingest` reads."""
    mapping: str | None = None
    """For a Parquet table."""
    rows: int = 1200
    """Crystals."""
    steps: int = 12
    """Training steps that are timed."""
    batch_size: int = 128
    """Global batch."""
    queries: int = 200
    """Searches that are timed."""


def main(config: BenchStages) -> None:
    """Run the path once in a temporary folder and print the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="crystalign-bench-") as folder:
        rows: Rows = []
        with session("local"):
            data, model = prepare(config, folder, rows)
            rows += reading(config, data, model)
            rows += training(config, data, model)
            rows += embedding(data, model, folder)
        rows += searching(config, folder)
    table = Table("stage", "samples/s", "floor", "floor samples/s", "stage / floor")
    for stage, rate, floor, floor_rate in rows:
        table.add_row(stage, f"{rate:,.0f}", floor, f"{floor_rate:,.0f}", f"{rate / floor_rate:.2f}")
    console = Console(width=120)
    console.print(table)
    console.print(f"{len(os.sched_getaffinity(0))} cores, {config.rows} crystals of {config.source}")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    began = time.perf_counter()
    made = work()
    return time.perf_counter() - began, made


def prepare(config: BenchStages, folder: str, rows: Rows) -> tuple[str, str]:
    """Ingest, derive and train for two steps; adds the rows of the first two."""
    data, runs = storage.join(folder, "data"), storage.join(folder, "runs")
    options = {"source": config.source, "mapping": config.mapping, "limit": config.rows}
    ingesting, _ = timed(lambda: ingest.main(ingest.Ingest(out=data, **options)))
    deriving, _ = timed(lambda: derive.main(derive.Derive(data=data)))
    dataset = Dataset.open(data)
    scanning, _ = timed(lambda: scan(dataset))
    computing, count = timed(lambda: compute_in_process(dataset))
    rows.append(("ingest", len(dataset) / ingesting, "plain Arrow scan of the result", len(dataset) / scanning))
    rows.append(("derive", len(dataset) / deriving, "peaks and captions, 1 process", count / computing))
    settings = {"model": default_model(), "batch_size": config.batch_size, "epochs": 1, "loggers": ("csv",)}
    pretrain.main(pretrain.Pretrain(data=data, out=runs, name="bench", **settings))
    return data, storage.join(runs, "bench", "model")


def scan(dataset: Dataset) -> int:
    """Every byte of every shard through Arrow."""
    return sum(pq.read_table(storage.join(dataset.uri, s.path)).num_rows for s in dataset.manifest.shards)


def compute_in_process(dataset: Dataset, most: int = 200) -> int:
    """What `derive` computes, for some crystals, here."""
    from crystalign.physics.caption import caption
    from crystalign.physics.diffraction import powder_peaks
    from crystalign.physics.symmetry import symmetry

    crystals = [m.crystal for m in islice(dataset.materials(modalities=[]), most)]
    for crystal in crystals:
        powder_peaks(crystal)
        caption(crystal, symmetry(crystal))
    return len(crystals)


def plan_of(config: BenchStages, data: str, model: Model) -> FeedPlan:
    """The training split, as `pretrain` feeds it."""
    dataset = Dataset.open(data)
    selection = Selection.build(dataset, SplitRule(), "train")
    return FeedPlan(
        data=data,
        data_sha256=dataset.manifest.sha256,
        selection=selection.save(storage.join(data, "..", "bench")),
        modalities={name: spec.features for name, spec in model.config.modalities.items()},
        seed=0,
        batch_size=config.batch_size,
        window_rows=16384,
        world_size=1,
        epochs=4,
    )


def reading(config: BenchStages, data: str, model_uri: str) -> Rows:
    """The stream through Ray, in steady state, beside one process that does the same, and a plain scan."""
    from crystalign_jobs.pretraining.stream import RankFeed, split, stream

    plan, dataset = plan_of(config, data, load(model_uri)), Dataset.open(data)
    fed = RankFeed(split(stream(plan), 1)[0], rank=0, start_step=0)
    fed.start()
    seconds, count = timed(lambda: sum(int(f.batch.real.sum()) for f in fed))
    alone, here = timed(lambda: sum(int(f.batch.real.sum()) for f in islice(feed(plan), config.steps)))
    scanning, _ = timed(lambda: scan(dataset))
    return [
        ("stream + collate, Ray", count / seconds, "the same in 1 process", here / alone),
        ("stream + collate, 1 process", here / alone, "plain Arrow scan", len(dataset) / scanning),
    ]


def training(config: BenchStages, data: str, model_uri: str) -> Rows:
    """A step with its feed in one process beside the bare step on one batch that never changes."""
    model = load(model_uri).train()
    plan, optimiser = plan_of(config, data, model), make_optimiser(model, OptimiserConfig())
    module = Step(model)

    def step(batch: Any) -> int:
        optimiser.zero_grad(set_to_none=True)
        module(batch)[0].backward()
        optimiser.step()
        return int(batch.real.sum())

    fixed = next(feed(plan)).batch
    step(fixed)
    bare, n_bare = timed(lambda: sum(step(fixed) for _ in range(config.steps)))
    fed, n_fed = timed(lambda: sum(step(f.batch) for f in islice(feed(plan), config.steps)))
    return [("train step with its feed, 1 process", n_fed / fed, "bare step, 1 thread", n_bare / bare)]


def embedding(data: str, model_uri: str, folder: str) -> Rows:
    """The job beside the bare encoder on batches that are ready."""
    dataset, model = Dataset.open(data), load(model_uri)
    out = storage.join(folder, "embeddings")
    seconds, _ = timed(lambda: embed.main(embed.Embed(model=model_uri, data=data, out=out)))
    index.main(index.BuildIndex(embeddings=out, out=storage.join(folder, "index")))
    crystals = [m.crystal for m in islice(dataset.materials(modalities=[]), 512)]
    modality = model.modality("crystal")
    batches = [
        modality.collate([modality.featurise(c) for c in crystals[i : i + 64]]) for i in range(0, len(crystals), 64)
    ]
    with torch.no_grad():
        bare, _ = timed(lambda: [model.encode("crystal", batch) for batch in batches])
    return [("embed, Ray", len(dataset) / seconds, "bare encoder, 1 thread", len(crystals) / bare)]


def searching(config: BenchStages, folder: str) -> Rows:
    """Exact search of a segment beside bare FAISS over the same vectors."""
    import faiss

    from crystalign.index.manifest import IndexManifest
    from crystalign.index.search import Segment

    uri = storage.join(folder, "index")
    manifest = IndexManifest.read(uri)
    segment = Segment.load(uri, manifest)
    vectors = segment.vectors(np.arange(len(segment))).astype(np.float32)
    flat = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    flat.add(vectors)
    faiss.omp_set_num_threads(1)
    queries = vectors[np.random.default_rng(0).integers(0, len(vectors), config.queries)]
    ours, _ = timed(lambda: [segment.search(q[None], 10) for q in queries])
    filtered, _ = timed(lambda: [segment.search(q[None], 10, 'elements HAS "O"') for q in queries])
    bare, _ = timed(lambda: [flat.search(q[None], 10) for q in queries])
    return [
        ("search", len(queries) / ours, "bare FAISS, fp16 flat", len(queries) / bare),
        ("search with a filter", len(queries) / filtered, "bare FAISS, no filter", len(queries) / bare),
    ]


if __name__ == "__main__":
    main(tyro.cli(BenchStages, description=__doc__))
