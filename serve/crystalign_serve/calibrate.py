"""`crystalign calibrate`: measure how often the answers of a search are right, and store it with the index."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING

from pydantic import Field
from tyro.conf import Positional

from crystalign.config import Config
from crystalign.errors import DatasetError
from crystalign.storage import Uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crystalign.index.calibration import Calibration, ModalityCalibration
    from crystalign_serve.known_answers import Asked


class Calibrate(Config):
    """Measure how sure the answers of an index are, and store it beside the index.

    Queries with known answers are made from crystals that the model was not trained on. Half of them decide how the
    probability follows from an answer, the other half tests it. A service then says when nothing matches well.

    Example: crystalign calibrate s3://bucket/index
    """

    index: Positional[Uri]
    """URI of the index, as written by `crystalign index`."""
    model: Uri | None = None
    """URI of the model that made the index; default: the URI recorded in the index."""
    dataset: Uri | None = None
    """URI of the dataset that was embedded; default: the URI recorded in the index."""
    modalities: tuple[str, ...] = ()
    """Modalities of the queries; default: all that the model reads and that a search can ask for."""
    queries: int = Field(default=600, ge=80, le=100_000)
    """Most materials per modality from which queries are made."""
    seed: int = 0
    """Seed of the queries."""


def main(config: Calibrate) -> Calibration:
    """Ask the queries, fit the probabilities, print how reliable they are, and write them.

    Raises:
        ConfigError: a modality is not searchable, or not read by the model.
        ModelError: the model is not the one of the index, or has no split.
        DatasetError: the dataset is not the one of the index, or holds too few materials that the model has not seen.
    """
    import crystalign
    from crystalign.index.calibration import CALIBRATION, Calibration
    from crystalign_serve.known_answers import Examiner

    examiner = Examiner.open(config.index, config.model, config.dataset)
    asked = config.modalities or examiner.modalities
    print(f"calibrating {', '.join(asked)} queries of {config.index}\nwriting to {config.index}/{CALIBRATION}")
    calibrated = {}
    for modality in asked:
        try:
            outcomes = asyncio.run(examiner.ask(modality, config.queries, config.seed))
            calibrated[modality] = calibrate(outcomes)
        except DatasetError as error:
            if config.modalities:
                raise
            print(f"{modality}: not calibrated: {error}")
        else:
            show(modality, calibrated[modality])
    if not calibrated:
        raise DatasetError("no modality could be calibrated, for the reasons above; nothing was written")
    calibration = Calibration(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        release=crystalign.__version__,
        index_version=examiner.manifest.version,
        model_sha256=examiner.manifest.model_sha256,
        split=f"test, by {examiner.rule.by}, salt {examiner.rule.salt!r}",
        seed=config.seed,
        modalities=calibrated,
    )
    calibration.write(config.index)
    print(f"wrote {config.index}/{CALIBRATION}\nnext: crystalign serve --index {config.index}")
    return calibration


def calibrate(outcomes: Sequence[Asked]) -> ModalityCalibration:
    """Fit the probabilities to the queries of half 0, and compare them with the outcomes of half 1.

    Answers that lack a signal of others, because a pattern was not compared in time, are left out.

    Raises:
        DatasetError: there are too few queries of one outcome.
    """
    from crystalign.evaluation.calibration import FEWEST, fit, reliability
    from crystalign.index.calibration import ModalityCalibration

    names = {name for one in outcomes for name in one.signals}
    complete = [one for one in outcomes if set(one.signals) == names]
    if len(complete) < len(outcomes):
        print(f"{len(outcomes) - len(complete)} of {len(outcomes)} queries were left out: their answers are incomplete")
    fitted, tested = ([one for one in complete if one.half == half] for half in (0, 1))
    found = fit([one.signals for one in fitted], [one.answered for one in fitted])
    known = [(one, p) for one in tested if (p := found.probability(one.signals)) is not None]
    if len(known) < FEWEST:
        raise DatasetError(f"{len(known)} queries to test the fit; at least {FEWEST} are needed: ask more queries")
    measured = reliability([p for _, p in known], [one.answered for one, _ in known])
    return ModalityCalibration(fit=found, reliability=measured)


def show(modality: str, calibrated: ModalityCalibration) -> None:
    """Print the weights and a table of reliability."""
    from rich.console import Console
    from rich.table import Table

    measured = calibrated.reliability
    auc = "–" if measured.auc is None else f"{measured.auc:.3f}"
    weights = ", ".join(f"{signal.name} {signal.weight:.2f}" for signal in calibrated.fit.signals)
    table = Table(
        title=f"{modality}: {measured.queries} queries that were not fitted, {measured.answered} of them answered",
        caption=f"Brier score {measured.brier:.3f} (constant: {measured.brier_constant:.3f}), AUC {auc}; "
        f"weights per standard deviation: {weights}",
    )
    for column in ("probability", "queries", "predicted", "observed"):
        table.add_column(column, justify="right")
    for row in measured.bins:
        cells = (str(row.queries), f"{row.predicted:.2f}", f"{row.observed:.2f}")
        table.add_row(f"{row.low:.1f} to {row.high:.1f}", *cells)
    Console().print(table)
