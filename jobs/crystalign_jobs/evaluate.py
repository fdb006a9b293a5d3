"""`crystalign evaluate`: measure retrieval between all ordered pairs of modalities on held-out materials."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import DatasetError
from crystalign.storage import Uri

if TYPE_CHECKING:
    from crystalign.evaluation.report import Report, View
    from crystalign.material import Material
    from crystalign.model import Model
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.splits import SplitRule


class Evaluate(Config):
    """Measure retrieval between all ordered pairs of modalities of a model.

    Queries are crystals that the model was not trained on, according to the split stored with the model. The split uses
    a hash of the formula, so polymorphs, and entries of a compound in different databases, are in the same part.

    Example: crystalign evaluate s3://bucket/runs/first/model --data s3://bucket/mp
    """

    model: Positional[Uri]
    """URI of the model directory."""
    data: Uri
    """URI of the dataset to evaluate on."""
    out: Uri | None = None
    """Folder for retrieval.json, .md and .png; default: `evaluation` beside the model directory."""
    split: Literal["test", "validation", "train"] = "test"
    """Part of the split that provides queries and candidates; `train` is refused, because it is not held out."""
    limit: int = 20_000
    """Most materials to use, chosen by the hash of the id."""
    masked_text: bool = True
    """Also query with texts without formula, elements, class, structure type, space group and crystal system:
    `text-masked` without volumes and bond lengths, `text-numbers` with them."""
    seed: int = 0
    """Seed of the bootstrap."""


def main(config: Evaluate) -> Report:
    """Embed the materials, rank them, and print and write the report."""
    from crystalign.evaluation.report import Report, evaluate_pairs, plot, to_markdown
    from crystalign.evaluation.seen import trained_on
    from crystalign.model import load
    from crystalign.shards.dataset import Dataset
    from crystalign_jobs.text_embeddings import same_language_model

    out = config.out or storage.join(config.model.rstrip("/").rpartition("/")[0] or ".", "evaluation")
    print(f"evaluating {config.model} on the {config.split} split of {config.data}\nwriting to {out}/retrieval.*")
    model, dataset = load(config.model), Dataset.open(config.data)
    same_language_model(model, dataset)
    dataset.require_current(model.config.modalities)
    if (notice := dataset.manifest.uncompared(config.data)) is not None:
        print(notice)
    rule = split_of(model)
    materials = pool_of(model, dataset, config, rule)
    views = embed_views(model, materials, masked_text=config.masked_text)
    names, formulas = np.unique([m.crystal.formula for m in materials], return_inverse=True)
    trained = trained_on([m.crystal.formula for m in materials], model.card, rule)
    report = Report(
        pool={
            "dataset": config.data,
            "split": f"{config.split}, by {rule.by}, salt {rule.salt!r}",
            "materials": len(materials),
            "formulas": len(names),
            "structures": len({m.structure for m in materials}),
            "of these materials, with a formula that was trained on": "not known" if trained is None else trained,
        },
        pairs=evaluate_pairs(
            views,
            [m.crystal for m in materials],
            formulas.astype(np.int64),
            {frozenset(pair) for pair in model.config.aligned},
            seed=config.seed,
        ),
    )
    storage.write_bytes(storage.join(out, "retrieval.json"), json.dumps(report.to_dict(), indent=1).encode())
    storage.write_bytes(storage.join(out, "retrieval.md"), to_markdown(report).encode())
    figure = io.BytesIO()
    plot(report).savefig(figure, format="png", dpi=150)
    storage.write_bytes(storage.join(out, "retrieval.png"), figure.getvalue())
    show(report)
    print(
        f"wrote {out}/retrieval.json, .md, .png\nnext: crystalign embed {config.model} --data {config.data} --out URI"
    )
    return report


def split_of(model: Model) -> SplitRule:
    """The split rule stored with a model.

    Raises:
        ModelError: there is none, so it is not known which materials are held out.
    """
    from crystalign.evaluation.seen import split_of_card

    return split_of_card(model.card)


def pool_of(model: Model, dataset: Dataset, config: Evaluate, rule: SplitRule) -> list[Material]:
    """The materials that serve as queries and candidates, in order of the hash of their id.

    Raises:
        DatasetError: the split is the training part, does not apply to this dataset, or is empty.
    """
    from crystalign.evaluation.seen import require_same_ids
    from crystalign.shards.schema import table_to_materials
    from crystalign.shards.splits import fraction

    if config.split == "train":
        raise DatasetError("the model was trained on the 'train' split; evaluate on 'test' or 'validation'")
    require_same_ids(rule, model.card, dataset)
    metadata = dataset.table(list(dict.fromkeys(["id", "n_sites", *rule.columns])))
    rows = np.flatnonzero(rule.mask(metadata, config.split) & model.modality("crystal").fits(metadata))
    if len(rows) < 2:
        raise DatasetError(
            f"the {config.split} split of {config.data} holds {len(rows)} materials; at least 2 are needed"
        )
    ids = metadata.column("id").to_pylist()
    selected = sorted(rows.tolist(), key=lambda row: fraction(ids[row], "evaluation"))[: config.limit]
    rows_of_shard: dict[int, list[int]] = {}
    shards, positions = metadata.column("shard").to_pylist(), metadata.column("row").to_pylist()
    for row in selected:
        rows_of_shard.setdefault(shards[row], []).append(positions[row])
    modalities = [m for m in model.config.modalities if m != "crystal"]
    materials: list[Material] = []
    for shard, chosen in rows_of_shard.items():
        table = dataset.read(shard, modalities=["crystal", *modalities]).take(chosen)
        materials += table_to_materials(table, dataset.manifest.properties, modalities=modalities)
    return materials


def embed_views(model: Model, materials: list[Material], *, masked_text: bool) -> list[View]:
    """Embeddings of the materials in every modality of the model, and of the masked texts."""
    from rich.progress import track

    from crystalign.modalities import key_columns, modality_class
    from crystalign.modalities.query import resolved

    values: dict[str, list[Any]] = {name: [m.value(name) for m in materials] for name in model.config.modalities}
    keys = {name: key_columns(modality_class(name), materials) for name in values}
    for name in model.config.modalities if masked_text else ():
        if (target := modality_class(name).masked_by) is not None:
            for version, (masked, own_keys) in resolved(target)(materials).items():
                values[f"{name}-{version}"], keys[f"{name}-{version}"] = masked, own_keys
    views = []
    for name, column in track(values.items(), description="embedding", transient=True):
        views.append(_view(model, name, column, keys[name]))
    return views


def _view(model: Model, name: str, column: list[Any], keys: Any) -> View:
    from crystalign.evaluation.report import View

    present = np.array([value is not None for value in column])
    vectors = np.zeros((len(column), model.config.embedding_dim), dtype=np.float32)
    if present.any():
        vectors[present] = model.embed(name.partition("-")[0], [v for v in column if v is not None])
    return View(name, present, vectors, keys)


def show(report: Report) -> None:
    """Print a table with the main columns; `retrieval.md` has all of them."""
    from rich.console import Console
    from rich.table import Table

    pool = report.pool
    title = f"{pool['materials']} unseen materials of {pool['formulas']} formulas ({pool['split']})"
    table = Table(
        title=title, caption="R@k in % [95 % interval]; shortcut columns rank by that property of the query alone"
    )
    for column in ("query → target", "link", "queries", "R@1", "R@10", "chance@10", "median rank"):
        table.add_column(column, justify="left" if column in {"query → target", "link"} else "right", no_wrap=True)
    for column in ("composition@10", "electrons@10", "volume@10", "equal composition R@1 (chance)"):
        table.add_column(column, justify="right")
    for pair in report.pairs:
        by_k = {r.k: r for r in pair.recalls}
        cells = [f"{pair.query} → {pair.target}", "trained" if pair.trained else "emergent", str(pair.queries)]
        cells += [_percent(by_k.get(1)), _percent(by_k.get(10))]
        cells += [f"{100 * by_k[10].chance:.1f}" if 10 in by_k else "–", f"{pair.median_rank:.1f}"]
        for recalls in pair.shortcuts.values():
            cells.append(next((f"{100 * r.value:.1f}" for r in recalls if r.k == 10), "–"))
        inside = pair.same_composition[0] if pair.same_composition else None
        cells.append(f"{_percent(inside)} ({100 * inside.chance:.0f})" if inside else "–")
        table.add_row(*cells)
    Console(width=max(Console().width, 170)).print(table)


def _percent(recall: Any) -> str:
    return "–" if recall is None else f"{100 * recall.value:.1f} [{100 * recall.low:.0f}, {100 * recall.high:.0f}]"
