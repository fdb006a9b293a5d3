"""The retrieval report: recall for every ordered pair of modalities, compared with chance and with shortcuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalign.evaluation.retrieval import Recall, median_rank, recalls, retrieve, score_by_embedding
from crystalign.evaluation.shortcuts import SHORTCUTS, shortcut_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crystalign.crystal import Crystal


@dataclass(frozen=True, slots=True)
class View:
    """One modality of a pool of n materials, embedded."""

    modality: str
    """Name of the modality in tables, e.g. `text` or `text-masked`."""
    present: NDArray[np.bool_]
    """(n,) which materials have it."""
    vectors: NDArray[np.float32]
    """(n, D) unit vectors, zero where absent."""
    keys: NDArray[np.int64]
    """(n, K) equivalence keys: materials that agree in any column are equivalent."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One row of the report."""

    query: str
    """Modality of the queries."""
    target: str
    """Modality of the candidates."""
    trained: bool
    """Whether the two were aligned directly in training; otherwise their alignment is emergent."""
    queries: int
    """Number of queries."""
    pool: float
    """Mean number of candidates per query."""
    median_rank: float
    """Median over queries of the expected rank; 1 is best."""
    recalls: list[Recall]
    """Recall at each k."""
    shortcuts: dict[str, list[Recall]]
    """Recall of each shortcut for the same queries in the same pool."""
    same_composition: list[Recall]
    """Recall when only materials of the query's own formula are candidates, so that composition does not help."""
    same_composition_queries: int
    """Number of queries with at least two materials of their formula."""


@dataclass(frozen=True, slots=True)
class Report:
    """The results of `crystalign evaluate`; can be written as JSON and Markdown."""

    pool: dict[str, Any]
    """Description of the pool: dataset, split, sizes, number of materials the model was trained on."""
    pairs: list[Pair] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def evaluate_pairs(
    views: Sequence[View],
    crystals: Sequence[Crystal],
    formulas: NDArray[np.int64],
    trained: set[frozenset[str]],
    *,
    seed: int = 0,
) -> list[Pair]:
    """Evaluate every ordered pair of views that at least two materials have in common.

    Args:
        views: embeddings of the same n materials, in the same order.
        crystals: the n crystals, for the shortcuts.
        formulas: (n,) formula of each material, as integers.
        trained: pairs of modalities that were aligned in training.
        seed: seed of the bootstrap.
    """
    pairs = []
    for a in views:
        for b in views:
            both = np.flatnonzero(a.present & b.present)
            if a.modality.split("-")[0] == b.modality.split("-")[0] or len(both) < 2:
                continue
            pool = [crystals[int(i)] for i in both]
            link = frozenset((a.modality.split("-")[0], b.modality.split("-")[0]))
            pairs.append(
                _pair(_only(a, both), _only(b, both), pool, formulas[both], trained=link in trained, seed=seed)
            )
    return pairs


def _only(view: View, rows: NDArray[np.int64]) -> View:
    return View(view.modality, view.present[rows], view.vectors[rows], view.keys[rows])


def _pair(a: View, b: View, pool: Sequence[Crystal], groups: NDArray[np.int64], *, trained: bool, seed: int) -> Pair:
    keys, scores = [a.keys, b.keys], score_by_embedding(a.vectors, b.vectors)
    outcome = retrieve(scores, keys, groups)
    inside = retrieve(scores, keys, groups, within=groups)
    shortcuts = {s: recalls(retrieve(shortcut_scores(s, pool), keys, groups), seed=seed) for s in SHORTCUTS}
    return Pair(
        query=a.modality,
        target=b.modality,
        trained=trained,
        queries=len(outcome.pool),
        pool=float(outcome.pool.mean()) if len(outcome.pool) else 0.0,
        median_rank=median_rank(outcome),
        recalls=recalls(outcome, seed=seed),
        shortcuts=shortcuts,
        same_composition=recalls(inside, ks=(1,), seed=seed),
        same_composition_queries=len(inside.pool),
    )


def to_markdown(report: Report) -> str:
    """The report as a Markdown table: recall in per cent with 95 % intervals, chance and shortcuts at k = 1 and 10."""
    lines = [f"{key}: {value}" for key, value in report.pool.items()]
    head = "| query → target | link | queries | pool | R@1 | R@5 | R@10 | R@25 | median rank | chance R@1 / R@10 |"
    head += "".join(f" {s} alone R@1 / R@10 |" for s in SHORTCUTS) + " equal composition: R@1 (chance), queries |"
    lines += ["", head, "|" + "---|" * (head.count("|") - 1)]
    lines += [_row(pair) for pair in report.pairs]
    return "\n".join(lines) + "\n"


def _row(pair: Pair) -> str:
    by_k = {r.k: r for r in pair.recalls}
    cells = [f"{pair.query} → {pair.target}", "trained" if pair.trained else "emergent", str(pair.queries)]
    cells += [f"{pair.pool:.0f}"] + [_interval(by_k.get(k)) for k in (1, 5, 10, 25)] + [f"{pair.median_rank:.1f}"]
    cells.append(" / ".join(f"{100 * by_k[k].chance:.2f}" if k in by_k else "–" for k in (1, 10)))
    for shortcut in pair.shortcuts.values():
        at = {r.k: r for r in shortcut}
        cells.append(" / ".join(f"{100 * at[k].value:.1f}" if k in at else "–" for k in (1, 10)))
    inside = pair.same_composition[0] if pair.same_composition else None
    chance = f" ({100 * inside.chance:.0f}), {pair.same_composition_queries}" if inside else ""
    cells.append(_interval(inside) + chance)
    return "| " + " | ".join(cells) + " |"


def _interval(recall: Recall | None) -> str:
    if recall is None:
        return "–"
    return f"{100 * recall.value:.1f} [{100 * recall.low:.1f}, {100 * recall.high:.1f}]"


def plot(report: Report) -> Figure:
    """Plot recall at 10 of every pair with its interval, chance (▏) and the best shortcut (◦)."""
    from matplotlib.figure import Figure

    pairs = [p for p in report.pairs if any(r.k == 10 for r in p.recalls)]
    figure = Figure(figsize=(7, 0.32 * max(len(pairs), 3) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for y, pair in enumerate(reversed(pairs)):
        ten = next(r for r in pair.recalls if r.k == 10)
        colour = "#1f5fbf" if pair.trained else "#c46a12"
        axes.barh(y, ten.value, color=colour, alpha=0.85, height=0.6)
        axes.plot([ten.low, ten.high], [y, y], color="black", linewidth=1)
        axes.plot(ten.chance, y, marker="|", color="black", markersize=10)
        best = max((_at(shortcut, 10) for shortcut in pair.shortcuts.values()), default=0.0)
        axes.plot(best, y, marker="o", fillstyle="none", color="black", markersize=5)
    axes.set_yticks(range(len(pairs)), [f"{p.query} → {p.target}" for p in reversed(pairs)])
    axes.set(xlim=(0, 1), xlabel="Recall at 10 (blue: trained, orange: emergent; | chance, ◦ best shortcut)")
    return figure


def _at(recalls: Sequence[Recall], k: int) -> float:
    return next((r.value for r in recalls if r.k == k), 0.0)
