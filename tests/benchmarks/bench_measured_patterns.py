"""Measured powder patterns against a pool of computed crystals: at which rank does the measured phase come?

    python tests/benchmarks/bench_measured_patterns.py MODEL --data URI --patterns FOLDER

FOLDER holds `index.csv` (name, …), and for each name a pattern `.xy` and its structure `.cif`. A hit is
a crystal of the pool that pymatgen's `StructureMatcher` finds to be the same phase; a polymorph is a
miss. Only patterns whose phase is in the pool are counted, and they are listed. Beside the rank stands
whether the model has trained on the formula.
"""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tyro.conf import Positional

from crystalign.config import Config
from crystalign.crystal import Crystal
from crystalign.errors import InputError
from crystalign.modalities.xrd import parse_xrd
from crystalign.model import Model, load
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


def main(config: MeasuredPatterns) -> None:
    """Embed the pool, ask with each pattern, print a row each and the summary."""
    warnings.simplefilter("ignore")  # pymatgen warns of each quirk of a CIF
    model, dataset = load(config.model), Dataset.open(config.data)
    rule = SplitRule.from_mapping(dict(model.card.split), origin="the model's card")
    pool, crystals = embed_pool(model, dataset)
    by_formula: dict[str, list[int]] = {}
    for row, crystal in enumerate(crystals):
        by_formula.setdefault(crystal.formula, []).append(row)
    table = Table("pattern", "formula", "rank", "best true id", "trained on", "best guess", title=f"pool {len(pool)}")
    ranks, unseen = [], []
    ids = dataset.table(["id"]).column("id").to_pylist()
    for name in names(config.patterns):
        truth = Crystal.from_cif((Path(config.patterns) / f"{name}.cif").read_text())
        true = same_phase(truth, crystals, by_formula.get(truth.formula, []))
        if not true:
            continue
        try:
            query = model.embed("xrd", [parse_xrd(Path(config.patterns) / f"{name}.xy", wavelength=config.wavelength)])
        except InputError as error:
            table.add_row(name, truth.formula, "–", "", "", str(error))
            continue
        scores = pool @ query[0]
        best = max(true, key=lambda row: scores[row])
        rank = 1 + int((scores > scores[best]).sum())
        seen = rule.name_of(fraction(truth.formula, rule.salt)) == "train"
        ranks.append(rank)
        unseen += [] if seen else [rank]
        guess = int(scores.argmax())
        table.add_row(name, truth.formula, str(rank), ids[best], "yes" if seen else "no", crystals[guess].formula)
    console = Console(width=130)
    console.print(table)
    for label, found in (("all", ranks), ("formula not trained on", unseen)):
        if found:
            shares = "  ".join(f"top-{k} {np.mean(np.array(found) <= k):.3f}" for k in (1, 5, 10, 50, 200))
            console.print(f"{label}: n = {len(found)}  {shares}  median rank {np.median(found):.0f}")


def embed_pool(model: Model, dataset: Dataset) -> tuple[np.ndarray[Any, Any], list[Crystal]]:
    """(n, D) embeddings of every crystal of a dataset, and the crystals."""
    parts, crystals = [], []
    groups = [(s, g) for s, shard in enumerate(dataset.manifest.shards) for g in range(len(shard.row_groups))]
    for shard, group in track(groups, description="embedding the pool", transient=True):
        found = [m.crystal for m in table_to_materials(dataset.read(shard, group, modalities=[]), modalities=[])]
        parts.append(model.embed("crystal", found))
        crystals += found
    return np.concatenate(parts), crystals


def names(folder: str) -> list[str]:
    """The patterns that `index.csv` lists."""
    with (Path(folder) / "index.csv").open(encoding="utf-8") as source:
        return [row["name"] for row in csv.DictReader(source)]


def same_phase(truth: Crystal, crystals: list[Crystal], candidates: list[int]) -> list[int]:
    """Which candidates are the same phase: same lattice up to scale, same sites."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher, structure = StructureMatcher(), truth.to_pymatgen()
    return [row for row in candidates if matcher.fit(structure, crystals[row].to_pymatgen())]


if __name__ == "__main__":
    main(tyro.cli(MeasuredPatterns, description=__doc__))
