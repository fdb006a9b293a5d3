"""`crystalign evaluate`: retrieval between every ordered pair of modalities, on unseen queries."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import DatasetError, ModelError
from crystalign.storage import Uri

if TYPE_CHECKING:
    from crystalign.evaluation.report import Report, View
    from crystalign.material import Material
    from crystalign.model import Model
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.splits import SplitRule


class Evaluate(Config):
    """Measure retrieval between every ordered pair of modalities that a model knows.

    Queries are crystals the model has not trained on: the split that the model carries decides, by
    a hash of the formula, so polymorphs, and the same compound in another database, never straddle it.

    Example: crystalign evaluate s3://bucket/runs/first/model --data s3://bucket/mp
    """

    model: Positional[Uri]
    """Model directory, any URI."""
    data: Uri
    """Dataset to evaluate on, any URI."""
    out: Uri | None = None
    """Folder for retrieval.json, .md and .png; default: `evaluation` inside the model directory's parent."""
    split: Literal["test", "validation", "train"] = "test"
    """Which part of the model's split asks and answers; `train` is refused, for the model has seen it."""
    limit: int = 20_000
    """At most this many materials; the hash of the id decides which."""
    masked_text: bool = True
    """Also ask with texts without formula, elements, class, structure type, space group and crystal system."""
    seed: int = 0
    """Of the bootstrap."""


def main(config: Evaluate) -> Report:
    """Embed the pool, rank, print and write the report."""
    from crystalign.evaluation.report import Report, evaluate_pairs, plot, to_markdown
    from crystalign.evaluation.seen import trained_on
    from crystalign.model import load
    from crystalign.shards.dataset import Dataset
    from crystalign_jobs.text_embeddings import same_language_model

    out = config.out or storage.join(config.model.rstrip("/").rpartition("/")[0] or ".", "evaluation")
    print(f"evaluating {config.model} on the {config.split} split of {config.data}\nwriting to {out}/retrieval.*")
    model, dataset = load(config.model), Dataset.open(config.data)
    if "text_embedding" in model.config.modalities:
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
    """The split rule that a model carries.

    Raises:
        ModelError: it carries none, so nothing can be known to be unseen.
    """
    from crystalign.shards.splits import SplitRule

    if not model.card.split:
        raise ModelError("the model's card names no split, so nothing can be known to be unseen; train with `pretrain`")
    return SplitRule.from_mapping(dict(model.card.split), origin="the split in the model's card")


def pool_of(model: Model, dataset: Dataset, config: Evaluate, rule: SplitRule) -> list[Material]:
    """The materials that ask and answer, in order of their id's hash.

    Raises:
        DatasetError: the split is the training part, would mean something else here, or is empty.
    """
    from crystalign.shards.schema import table_to_materials
    from crystalign.shards.splits import fraction

    if config.split == "train":
        raise DatasetError("the model has trained on the 'train' split; evaluate on 'test' or 'validation'")
    if rule.by == "material" and dataset.manifest.sha256 != model.card.dataset_sha256:
        raise DatasetError(
            f"the model was split by material, which says nothing about {config.data}: a crystal there may be one it "
            "trained on under another id. Evaluate on its own dataset, or train with split.by=formula"
        )
    light = dataset.table(list(dict.fromkeys(["id", "n_sites", *rule.columns])))
    rows = np.flatnonzero(rule.mask(light, config.split) & model.modality("crystal").fits(light))
    if len(rows) < 2:
        raise DatasetError(f"the {config.split} split of {config.data} holds {len(rows)} materials; nothing to rank")
    ids = light.column("id").to_pylist()
    kept = sorted(rows.tolist(), key=lambda row: fraction(ids[row], "evaluation"))[: config.limit]
    wanted: dict[int, list[int]] = {}
    shards, positions = light.column("shard").to_pylist(), light.column("row").to_pylist()
    for row in kept:
        wanted.setdefault(shards[row], []).append(positions[row])
    modalities = [m for m in model.config.modalities if m != "crystal"]
    materials: list[Material] = []
    for shard, chosen in wanted.items():
        table = dataset.read(shard, modalities=["crystal", *modalities]).take(chosen)
        materials += table_to_materials(table, dataset.manifest.properties, modalities=modalities)
    return materials


def embed_views(model: Model, materials: list[Material], *, masked_text: bool) -> list[View]:
    """Every modality of the model over the same materials; captions a second time, masked."""
    from rich.progress import track

    from crystalign.evaluation.masked_text import masked_texts
    from crystalign.modalities import key_columns, modality_class

    values: dict[str, list[Any]] = {name: [m.value(name) for m in materials] for name in model.config.modalities}
    keys = {name: key_columns(modality_class(name), materials) for name in values}
    if masked_text and "text" in values:
        values["text-masked"], keys["text-masked"] = masked_texts(materials)
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
    """The table for people: the wide columns of the Markdown file are left to it."""
    from rich.console import Console
    from rich.table import Table

    pool = report.pool
    title = f"{pool['materials']} unseen materials of {pool['formulas']} formulas ({pool['split']})"
    table = Table(title=title, caption="R@k in % [95 % interval]; a shortcut is told that fact of the query exactly")
    for column in ("query → target", "link", "queries", "R@1", "R@10", "chance@10", "median rank"):
        table.add_column(column, justify="left" if column in {"query → target", "link"} else "right", no_wrap=True)
    for column in ("composition@10", "electrons@10", "volume@10", "equal composition R@1 (chance)"):
        table.add_column(column, justify="right")
    for pair in report.pairs:
        by_k = {r.k: r for r in pair.recalls}
        cells = [f"{pair.query} → {pair.target}", "trained" if pair.trained else "emergent", str(pair.queries)]
        cells += [_percent(by_k.get(1)), _percent(by_k.get(10))]
        cells += [f"{100 * by_k[10].chance:.1f}" if 10 in by_k else "–", f"{pair.median_rank:.1f}"]
        for found in pair.shortcuts.values():
            cells.append(next((f"{100 * r.value:.1f}" for r in found if r.k == 10), "–"))
        inside = pair.same_composition[0] if pair.same_composition else None
        cells.append(f"{_percent(inside)} ({100 * inside.chance:.0f})" if inside else "–")
        table.add_row(*cells)
    Console(width=max(Console().width, 170)).print(table)


def _percent(recall: Any) -> str:
    return "–" if recall is None else f"{100 * recall.value:.1f} [{100 * recall.low:.0f}, {100 * recall.high:.0f}]"
