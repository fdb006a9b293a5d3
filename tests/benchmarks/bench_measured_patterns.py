"""Measured powder patterns against a pool of computed crystals: at which rank does the measured phase come?

    python tests/benchmarks/bench_measured_patterns.py MODEL --data URI --patterns FOLDER

FOLDER holds `index.csv` (name, …), and for each name a pattern `.xy` and its structure `.cif`. A hit is
a crystal of the pool that pymatgen's `StructureMatcher` finds to be the same phase; a polymorph is a
miss. Only patterns whose phase is in the pool are counted, and they are listed. Three ranks stand side
by side: of the embedding alone, of its best `--rerank` candidates ordered as the service does, by the
fusion of the embedding's ranks with those of a strain-scanned profile match, and of that classical
match alone over the whole pool.
"""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tyro.conf import Positional

from crystalign.config import Config
from crystalign.crystal import Crystal
from crystalign.errors import InputError
from crystalign.index.fusion import reciprocal_rank_fusion
from crystalign.material import Material
from crystalign.modalities.profile_match import ProfileMatcher
from crystalign.modalities.xrd import parse_xrd
from crystalign.model import Model, load
from crystalign.readers.structures.structure_file import crystal_from_cif
from crystalign.shards.dataset import Dataset
from crystalign.shards.schema import table_to_materials
from crystalign.shards.splits import SplitRule, fraction


class MeasuredPatterns(Config):
    """Rank the phases of measured powder patterns in a pool."""

    model: Positional[str]
    """Model directory."""
    data: str
    """Dataset that is the pool."""
    patterns: str
    """Folder with index.csv, .xy and .cif files."""
    wavelength: str = "CuKa"
    """Of the instrument."""
    rerank: int = 200
    """Candidates of the embedding that are looked at again."""


class Outcome(NamedTuple):
    """Ranks of the best true entry, from 1."""

    embedding: int
    reranked: int
    classical: int
    unseen: bool


def main(config: MeasuredPatterns) -> None:
    """Embed the pool, ask with each pattern, print a row each and the summary."""
    warnings.simplefilter("ignore")  # pymatgen warns of each quirk of a CIF
    model, dataset = load(config.model), Dataset.open(config.data)
    rule = SplitRule.from_mapping(dict(model.card.split), origin="the model's card")
    pool, materials = embed_pool(model, dataset)
    matcher = ProfileMatcher()
    profiles = matcher.profiles([m.value("xrd") for m in track(materials, "drawing the pool", transient=True)])
    by_formula: dict[str, list[int]] = {}
    for row, material in enumerate(materials):
        by_formula.setdefault(material.crystal.formula, []).append(row)
    table = Table(
        *["pattern", "formula", "true id", "embedding", "re-ranked", "classical", "trained on"],
        title=f"pool {len(pool)}",
    )
    outcomes: list[Outcome] = []
    for name in names(config.patterns):
        truth = crystal_from_cif((Path(config.patterns) / f"{name}.cif").read_text())
        true = same_phase(truth, materials, by_formula.get(truth.formula, []))
        if not true:
            continue
        try:
            pattern = parse_xrd(Path(config.patterns) / f"{name}.xy", wavelength=config.wavelength)
            scores = pool @ model.embed("xrd", [pattern])[0]
            measured, covered = matcher.measured(pattern)
        except InputError as error:
            table.add_row(name, truth.formula, "", str(error))
            continue
        matched = matcher.match(measured, covered, profiles).scores
        first = np.argsort(-scores, kind="stable")
        reordered = first.copy()
        top = first[: config.rerank]
        fused = reciprocal_rank_fusion(scores[top], matched[top])
        reordered[: config.rerank] = top[np.lexsort((-matched[top], -fused))]
        found = Outcome(
            min(best_rank(first, row) for row in true),
            min(best_rank(reordered, row) for row in true),
            1 + int((matched > matched[true].max()).sum()),
            rule.name_of(fraction(truth.formula, rule.salt)) != "train",
        )
        outcomes.append(found)
        best = min(true, key=lambda row: best_rank(first, row))
        ranks = (str(rank) for rank in found[:3])
        table.add_row(name, truth.formula, materials[best].id, *ranks, "no" if found.unseen else "yes")
    console = Console(width=130)
    console.print(table)
    for label, chosen in (("all", outcomes), ("formula not trained on", [o for o in outcomes if o.unseen])):
        for kind, ranks_of in zip(Outcome._fields[:3], np.array([o[:3] for o in chosen]).reshape(-1, 3).T, strict=True):
            shares = "  ".join(f"top-{k} {np.mean(ranks_of <= k):.3f}" for k in (1, 5, 10, 50, 200))
            console.print(f"{label}, {kind}: n = {len(chosen)}  {shares}  median rank {np.median(ranks_of):.0f}")


def best_rank(order: np.ndarray[Any, Any], row: int) -> int:
    """Place of a row in an order, from 1."""
    return 1 + int(np.flatnonzero(order == row)[0])


def embed_pool(model: Model, dataset: Dataset) -> tuple[np.ndarray[Any, Any], list[Material]]:
    """(n, D) embeddings of every crystal of a dataset, and the materials with their powder patterns."""
    parts, materials = [], []
    groups = [(s, g) for s, shard in enumerate(dataset.manifest.shards) for g in range(len(shard.row_groups))]
    for shard, group in track(groups, description="embedding the pool", transient=True):
        found = table_to_materials(dataset.read(shard, group, modalities=["xrd"]), modalities=["xrd"])
        found = [m for m in found if m.value("xrd") is not None]
        parts.append(model.embed("crystal", [m.crystal for m in found]))
        materials += found
    return np.concatenate(parts), materials


def names(folder: str) -> list[str]:
    """The patterns that `index.csv` lists."""
    with (Path(folder) / "index.csv").open(encoding="utf-8") as source:
        return [row["name"] for row in csv.DictReader(source)]


def same_phase(truth: Crystal, materials: list[Material], candidates: list[int]) -> list[int]:
    """Which candidates are the same phase: same lattice up to scale, same sites."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher, structure = StructureMatcher(), truth.to_pymatgen()
    return [row for row in candidates if matcher.fit(structure, materials[row].crystal.to_pymatgen())]


if __name__ == "__main__":
    main(tyro.cli(MeasuredPatterns, description=__doc__))
