"""Prediction tasks, and the labels that a dataset has for them.

A label belongs to a geometry. If the two come from different releases of a database, the structure may have been
relaxed again, and the label describes another crystal. Such labels are refused unless the user allows them.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from crystalign.config import Config
from crystalign.errors import ConfigError
from crystalign.properties import PropertySpec
from crystalign.shards.dataset import Dataset
from crystalign.shards.splits import GROUP

GROUPS = ("formula", "material", "chemsys", "prototype")
"""Kinds of groups that a split keeps together: the `by` of a `SplitRule`."""

Array = NDArray[np.float64]


class Task(Config):
    """A property to predict, or several that one network predicts together."""

    target: str | tuple[str, ...]
    """A property column of the dataset, or a quantity that has exactly one column, e.g. `band_gap`; a list is
    predicted jointly, and a material needs at least one of them."""
    kind: Literal["regression", "classification"] = "regression"
    """`classification` predicts the probability of the second of `classes`."""
    transform: Literal["linear", "log10"] = "linear"
    """Transform of regression labels before training; moduli are usually learnt as log₁₀. Errors are given in the unit
    of the property and, for `log10`, also on the logarithmic scale."""
    threshold: float | None = None
    """Classification threshold: values above it are the second class. Without it the column must hold 0 and 1."""
    classes: tuple[str, str] = ("no", "yes")
    """Names of the two classes, e.g. `["metal", "insulator"]` for a gap above 0."""
    lower: float | None = None
    """Smaller values are left out, and counted."""
    upper: float | None = None
    """Larger values are left out, and counted."""
    max_sites: int | None = Field(default=None, ge=1)
    """Larger cells are left out, and counted. Use one value for all networks to compare them on the same rows."""
    min_labels: int = Field(default=30, ge=3)
    """Smallest number of labels; with fewer, training and test are not meaningful."""
    allow_other_vintage: bool = False
    """Allow labels of another source or release than their geometry. Databases relax structures again: of the
    Materials Project's entries of 2019, 18 % have a volume that differs by more than 3 % in 2025."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"target: {self.target} names nothing, or something twice")
        if self.kind == "classification" and self.transform != "linear":
            raise ValueError("transform: a classification has none; leave it out")
        if self.kind == "regression" and self.threshold is not None:
            raise ValueError("threshold: of a classification only; set `kind: classification`, or `lower`")
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(f"lower {self.lower} is not below upper {self.upper}: no value is left")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """Names in `target`, in order."""
        return (self.target,) if isinstance(self.target, str) else self.target

    def columns(self, dataset: Dataset) -> tuple[PropertySpec, ...]:
        """Find the property column of each target; only the manifest is read.

        Raises:
            ConfigError: a target matches no column or several, two targets match the same one, or there are too few
                labels.
        """
        specs = tuple(_column(dataset, name) for name in self.targets)
        if len(set(specs)) < len(specs):
            raise ConfigError(f"target: {', '.join(self.targets)} name the same column {specs[0].column} twice")
        for spec in specs:
            self._enough(spec, dataset.manifest.property_counts.get(spec.column, 0), dataset)
        return specs

    def _enough(self, spec: PropertySpec, count: int, dataset: Dataset) -> None:
        if count < self.min_labels:
            counts = dataset.manifest.property_counts
            others = [f"{name} ({n:,})" for name, n in counts.items() if n >= self.min_labels]
            raise ConfigError(
                f"target: {spec.column} has {count} labels, and min_labels is {self.min_labels}; "
                f"enough have {', '.join(others) or 'none of the columns'}"
            )


@dataclass(frozen=True, eq=False)
class Labels:
    """N materials with T known or unknown values each, in the order of the dataset."""

    task: Task
    """Task that the labels belong to."""
    specs: tuple[PropertySpec, ...]
    """The T property columns."""
    ids: tuple[str, ...]
    """Ids of the N materials."""
    places: NDArray[np.int64]
    """(N, 2) shard, and row within it."""
    groups: Mapping[str, tuple[str | None, ...]]
    """Each of `GROUPS` → N keys; None if unknown."""
    n_sites: NDArray[np.int64]
    """(N,) atoms in the cell."""
    values: Array
    """(N, T) in the unit of the property, or classes 0 and 1; NaN if unknown; each row has at least one label."""
    left_out: Mapping[str, int]
    """Reason → number of labelled rows that were left out for it."""

    def __len__(self) -> int:
        """The number of materials N."""
        return len(self.ids)

    def only(self, keep: NDArray[np.bool_], why: str) -> Labels:
        """Keep the rows of a mask (N,); the others are counted under `why`."""
        if keep.all():
            return self
        rows = np.flatnonzero(keep)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            places=self.places[rows],
            groups={name: tuple(keys[row] for row in rows) for name, keys in self.groups.items()},
            n_sites=self.n_sites[rows],
            values=self.values[rows],
            left_out={**self.left_out, why: len(self) - len(rows)},
        )

    def permuted(self, seed: int) -> Labels:
        """Permute the labels among the materials: a control in which any skill indicates a leak."""
        order = np.random.default_rng(seed).permutation(len(self))
        return replace(self, values=self.values[order])


def read_labels(dataset: Dataset, task: Task) -> Labels:
    """Read all materials of a dataset that have a label of the task.

    Args:
        dataset: only its light columns are read.
        task: which property, and its limits.

    Raises:
        ConfigError: there is no such property or too few labels, labels are of another release than their geometry,
            the transform does not apply to a value, or all labels are of one class.
    """
    specs = task.columns(dataset)
    names = [spec.column for spec in specs]
    table = dataset.table(["id", "source", "vintage", "formula", "chemsys", "prototype", "n_sites", GROUP, *names])
    values = np.column_stack([_numbers(table, name) for name in names])  # (rows, T)
    finite = np.isfinite(values)
    if not task.allow_other_vintage:
        _refuse_other_vintage(table, specs, finite)
    inside = finite & ~_outside(task, values)
    small = np.ones(len(values), bool)
    if task.max_sites is not None:
        small = table.column("n_sites").to_numpy() <= task.max_sites
    keep = inside.any(axis=1) & small
    labelled = finite.any(axis=1)
    left_out = {
        "outside the limits": int((labelled & ~inside.any(axis=1)).sum()),
        f"more than {task.max_sites} sites": int((inside.any(axis=1) & ~small).sum()),
    }
    values = np.where(inside, values, np.nan)[keep]
    for number, spec in enumerate(specs):
        task._enough(spec, int(np.isfinite(values[:, number]).sum()), dataset)  # noqa: SLF001
    selected = table.filter(pa.array(keep))
    keys = {name: tuple(selected.column(name).to_pylist()) for name in GROUPS if name != "material"}
    ids = tuple(str(name) for name in selected.column("id").to_pylist())
    same = selected.column(GROUP).to_pylist()
    keys["material"] = tuple(name if group is None else group for name, group in zip(ids, same, strict=True))
    places = np.column_stack([selected.column(name).to_numpy() for name in ("shard", "row")]).astype(np.int64)
    learnt = _learnt(task, specs, ids, values)
    sizes = selected.column("n_sites").to_numpy().astype(np.int64)
    return Labels(task, specs, ids, places, keys, sizes, learnt, {why: n for why, n in left_out.items() if n})


def _column(dataset: Dataset, name: str) -> PropertySpec:
    specs = {spec.column: spec for spec in dataset.manifest.properties}
    if name in specs:
        return specs[name]
    same = [column for column, spec in specs.items() if spec.quantity.value == name]
    if len(same) == 1:
        return specs[same[0]]
    if same:
        raise ConfigError(
            f"target: {name!r} stands in {len(same)} columns, whose methods, sources or releases differ: "
            f"{', '.join(same)}; name one of them"
        )
    valid = sorted({*specs, *(spec.quantity.value for spec in specs.values())})
    near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    hint = f"perhaps {' or '.join(near)}; " if near else ""
    raise ConfigError(f"target: {dataset.uri} has no property {name!r}; {hint}it has {', '.join(specs) or 'none'}")


def _numbers(table: pa.Table, name: str) -> Array:
    return np.asarray(table.column(name).cast(pa.float64()).fill_null(np.nan).to_numpy(), np.float64)


def _outside(task: Task, values: Array) -> NDArray[np.bool_]:
    lower = -np.inf if task.lower is None else task.lower
    upper = np.inf if task.upper is None else task.upper
    return np.asarray((values < lower) | (values > upper))


def _refuse_other_vintage(table: pa.Table, specs: tuple[PropertySpec, ...], is_labelled: NDArray[np.bool_]) -> None:
    sources = [str(name) for name in table.column("source").to_pylist()]
    vintages = [name or "" for name in table.column("vintage").to_pylist()]
    rows = np.array([f"{source} {vintage}".strip() for source, vintage in zip(sources, vintages, strict=True)])
    for number, spec in enumerate(specs):
        own = f"{spec.source} {spec.vintage}".strip()
        other = Counter(rows[is_labelled[:, number] & (rows != own)].tolist())
        if other:
            geometry = ", ".join(f"{name} ({n:,})" for name, n in other.most_common(3))
            raise ConfigError(
                f"target: {sum(other.values()):,} of {int(is_labelled[:, number].sum()):,} labels of {spec.column} are "
                f"of {own} and their geometries of {geometry}; take labels of the same release, or set "
                "allow_other_vintage to learn from structures that may have been relaxed again since"
            )


def _learnt(task: Task, specs: tuple[PropertySpec, ...], ids: tuple[str, ...], values: Array) -> Array:
    """Return the values, for classification 0 and 1; refuse labels that cannot be learnt."""
    if task.kind == "classification":
        return _classes(task, specs, values)
    for number, spec in enumerate(specs):
        wrong = np.flatnonzero(values[:, number] <= 0.0)
        if task.transform == "log10" and len(wrong):
            named = ", ".join(ids[row] for row in wrong[:3])
            raise ConfigError(
                f"transform: log10 of {len(wrong)} labels of {spec.column} that are not positive ({named}, …); set "
                "`lower` to leave them out, or transform: linear"
            )
    return values


def _classes(task: Task, specs: tuple[PropertySpec, ...], values: Array) -> Array:
    is_labelled = np.isfinite(values)
    if task.threshold is None:
        distinct = np.unique(values[is_labelled])
        if not set(distinct.tolist()) <= {0.0, 1.0}:
            raise ConfigError(
                f"threshold: {', '.join(s.column for s in specs)} holds {len(distinct)} different values, from "
                f"{distinct[0]} to {distinct[-1]}, not 0 and 1; set the threshold above which a "
                f"material is {task.classes[1]!r}"
            )
    binary = np.where(is_labelled, values > (0.5 if task.threshold is None else task.threshold), np.nan)
    for number, spec in enumerate(specs):
        share = float(np.nanmean(binary[:, number]))
        if share in {0.0, 1.0}:
            raise ConfigError(
                f"threshold: all {int(is_labelled[:, number].sum()):,} labels of {spec.column} are "
                f"{task.classes[int(share)]!r}; they run from {np.nanmin(values[:, number]):g} to "
                f"{np.nanmax(values[:, number]):g}, choose a threshold between"
            )
    return np.asarray(binary, np.float64)
