"""Whether intervals hold what they promise, on the test materials of a finished campaign.

    python tests/benchmarks/interval_coverage.py campaigns/few-labels

Of every row of the campaign's table: the share of the test values within the 90 % intervals, which come from one
calibration part; and that share over many calibration parts of the same size, drawn formula by formula from the test
part and tested on the rest of it. The latter should be 90 %, and the former one of its draws. Single models and all
seeds together, whose intervals are as wide as the seeds disagree.
"""

from __future__ import annotations

import io
from collections import defaultdict
from typing import Annotated, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import tyro
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console
from rich.table import Table

from crystalign import storage
from crystalign.config import Config
from crystalign.finetuning.prediction.intervals import calibrate, coverage, interval
from crystalign.finetuning.trials.config import TrialResult

Array = NDArray[np.float64]


class Settings(Config):
    """What is looked at."""

    campaign: Annotated[str, tyro.conf.Positional]
    """Folder of a finished campaign of regressions with one target each."""
    draws: int = Field(default=200, ge=2)
    """Calibration parts that are drawn."""
    level: float = 0.9
    """Of the intervals."""


class Part(NamedTuple):
    """What was predicted of a part, on the scale on which errors are measured."""

    wanted: Array
    """(n, 1) labels."""
    said: Array
    """(n, 1) predictions."""
    spread: Array | None
    """(n, 1) standard deviation over seeds, of all together."""
    formulas: NDArray[np.str_]
    """(n,)."""

    def rows(self, chosen: NDArray[np.int64]) -> Part:
        """Some of them."""
        spread = None if self.spread is None else self.spread[chosen]
        return Part(self.wanted[chosen], self.said[chosen], spread, self.formulas[chosen])


def read(run: str, result: TrialResult) -> dict[str, Part]:
    """Calibration and test part of one trial."""
    data = storage.read_bytes(storage.join(run, "trials", result.id, "predictions.parquet"))
    table = pq.read_table(io.BytesIO(data)).to_pydict()
    target, parts = next(iter(result.metrics)), np.array(table["part"])
    values = [np.array(table[name], float)[:, None] for name in (target, f"{target}_predicted")]
    wanted, said = (np.log10(v) for v in values) if result.config.task.transform == "log10" else values
    whole = Part(wanted, said, None, np.array(table["formula"]))
    return {name: whole.rows(np.flatnonzero(parts == name)) for name in ("calibration", "test")}


def together(members: list[Part]) -> Part:
    """Their mean and how far they lie apart."""
    said = np.stack([part.said for part in members])
    return members[0]._replace(said=said.mean(axis=0), spread=said.std(axis=0, ddof=1))


def covered(calibration: Part, test: Part, level: float) -> float:
    """Share of a test part within the intervals of a calibration part."""
    found = calibrate(calibration.said, calibration.wanted, calibration.spread)
    ends = interval(found, test.said, test.spread, level=level)
    return float(coverage(*ends, test.wanted)[0])


def drawn(test: Part, n: int, settings: Settings) -> Array:
    """(draws,) the same for calibration parts of n of the test materials, whole formulas but for the last."""
    rng = np.random.default_rng(0)
    number = np.unique(test.formulas, return_inverse=True)[1]
    found = []
    for _ in range(settings.draws):
        order = np.argsort(rng.permutation(number.max() + 1)[number], kind="stable")
        found.append(covered(test.rows(order[:n]), test.rows(order[n:]), settings.level))
    return np.array(found)


def main(settings: Settings) -> None:
    """Print the table."""
    run = settings.campaign.rstrip("/")
    seeds: dict[str, list[TrialResult]] = defaultdict(list)
    for folder in storage.list_folders(storage.join(run, "trials")):
        place = storage.join(folder, "result.json")
        if storage.exists(place):
            result = TrialResult.model_validate_json(storage.read_bytes(place))
            if result.coverage:
                seeds[result.config.model_copy(update={"seed": 0}).id].append(result)
    rows: dict[tuple[str, int, int, str], list[tuple[float, Array]]] = defaultdict(list)
    for results in seeds.values():
        parts = [read(run, result) for result in results]
        n, size = len(parts[0]["calibration"].wanted), results[0].sizes["train"]
        for kind, chosen in (("single", parts), ("all seeds", [_all(parts)] if len(parts) > 1 else [])):
            for part in chosen:
                real = covered(part["calibration"], part["test"], settings.level)
                key = (next(iter(results[0].metrics)), size, n, kind)
                rows[key].append((real, drawn(part["test"], n, settings)))
    table = Table(title=f"share within the {100 * settings.level:g} % intervals")
    for name in (
        "property",
        "labels",
        "calibration",
        "models",
        "of one part: mean",
        "least",
        "most",
        "of drawn parts",
        "±",
    ):
        table.add_column(name)
    for (target, size, n, kind), found in sorted(rows.items()):
        real, draws = np.array([pair[0] for pair in found]), np.stack([pair[1] for pair in found])
        shares = (real.mean(), real.min(), real.max(), draws.mean(), draws.std(axis=1).mean())
        table.add_row(target, str(size), str(n), f"{len(found)} {kind}", *(f"{100 * share:.1f} %" for share in shares))
    Console(width=180).print(table)


def _all(parts: list[dict[str, Part]]) -> dict[str, Part]:
    return {name: together([part[name] for part in parts]) for name in parts[0]}


if __name__ == "__main__":
    main(tyro.cli(Settings))
