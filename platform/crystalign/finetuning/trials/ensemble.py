"""Ensemble of several seeds of a trial: predicts their mean, with intervals scaled by their spread.

ensemble/
├── ensemble.json   calibration, and the folders of the members; written last
└── 0/, 1/, …       a model directory each
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalign import storage
from crystalign.config import Config
from crystalign.crystal import Crystal
from crystalign.errors import ConfigError, ModelError, StorageError
from crystalign.finetuning.data.splits import PartName
from crystalign.finetuning.model.description import is_property_model, read_description
from crystalign.finetuning.model.property_model import PropertyModel
from crystalign.finetuning.network.config import Calibration, PropertyModelFile
from crystalign.finetuning.prediction.intervals import calibrate
from crystalign.finetuning.prediction.predictor import Prediction, Predictor, predict_together
from crystalign.finetuning.trials.trial import MODEL, PREDICTIONS
from crystalign.material import Material

Array = NDArray[np.float64]
FILE = "ensemble.json"


class EnsembleFile(Config):
    """The content of `ensemble.json`."""

    members: tuple[str, ...]
    """Identity of the model in each of the folders 0, 1, …"""
    calibration: Calibration | None
    """Calibration of the intervals in units of the members' spread."""


class Ensemble:
    """Members that predict the same targets on the same scale; ẑ is their mean."""

    def __init__(self, members: Sequence[PropertyModel], calibration: Calibration | None = None) -> None:
        """Make an ensemble.

        Args:
            members: at least two.
            calibration: of their mean, by `from_trials`.

        Raises:
            ModelError: fewer than two, or they predict different things or on different scales.
        """
        if len(members) < 2:
            raise ModelError(f"an ensemble has at least two members, not {len(members)}")
        first = members[0].config
        for member in members[1:]:
            if (member.config.targets, member.config.scaler) != (first.targets, first.scaler):
                raise ModelError(
                    "the members of an ensemble predict the same targets from the same training labels; these differ: "
                    f"{', '.join(members[0].targets)} and {', '.join(member.targets)}, {first.scaler} and "
                    f"{member.config.scaler}"
                )
        self.members = tuple(members)
        self.calibration = calibration

    @classmethod
    def from_trials(cls, folders: Sequence[str]) -> Self:
        """Make an ensemble of finished trials that differ only in their seed, and calibrate it.

        Args:
            folders: at least two, each with a `model` and its predictions.

        Raises:
            ModelError: a trial without a model, or trials that were calibrated on different materials.
        """
        joined = cls([PropertyModel.from_pretrained(storage.join(folder, MODEL)) for folder in folders])
        if joined.members[0].config.task.kind == "classification":
            return joined
        scaled, values = joined.member_predictions(folders, "calibration")
        labels = joined.members[0].config.scaler.scaled(values)
        joined.calibration = calibrate(np.mean(scaled, axis=0), labels, np.std(scaled, axis=0, ddof=1))
        return joined

    def member_predictions(self, folders: Sequence[str], part: PartName) -> tuple[Array, Array]:
        """Predictions of the members' trials for a part of the split.

        Args:
            folders: folders of the M trials, in the order of the members.
            part: any part except the training part.

        Returns:
            (M, n, T) predictions on the scale of the network, and (n, T) labels in their unit; NaN where unknown.

        Raises:
            ModelError: the parts of the trials contain different materials.
        """
        tables = [_predictions(folder, part) for folder in folders]
        if any(table.column("id") != tables[0].column("id") for table in tables):
            raise ModelError(f"the {part} parts of the trials {', '.join(folders)} are different materials")
        targets, scaler = self.members[0].targets, self.members[0].config.scaler
        predictions = [scaler.scaled(_values(table, [f"{name}_predicted" for name in targets])) for table in tables]
        return np.stack(predictions), _values(tables[0], targets)

    def predict(
        self, materials: Sequence[Material | Crystal], *, level: float = 0.9, batch_size: int = 64
    ) -> Prediction:
        """As `PropertyModel.predict`."""
        return predict_together({"": self}, materials, level=level, batch_size=batch_size)[""]

    def save_pretrained(self, uri: str) -> None:
        """Write all members and the file that makes them one."""
        for number, member in enumerate(self.members):
            member.write(storage.join(uri, str(number)))
        identities = tuple(member.sha256 for member in self.members)
        described = EnsembleFile(members=identities, calibration=self.calibration)
        storage.write_bytes(storage.join(uri, FILE), (described.model_dump_json(indent=2) + "\n").encode())

    @classmethod
    def from_pretrained(cls, uri: str) -> Self:
        """Read an ensemble from a path or URI, and verify its members.

        Raises:
            ModelError: there is no ensemble, or a member is missing or was replaced.
        """
        try:
            values: dict[str, Any] = json.loads(storage.read_bytes(storage.join(uri, FILE)))
            described = EnsembleFile.from_mapping(values, origin=f"{uri}/{FILE}")
        except (StorageError, ConfigError, ValueError) as error:
            raise ModelError(f"no ensemble at {uri}: {error}") from error
        members = [
            PropertyModel.from_pretrained(storage.join(uri, str(number))) for number in range(len(described.members))
        ]
        for number, (member, identity) in enumerate(zip(members, described.members, strict=True)):
            if member.sha256 != identity:
                raise ModelError(f"member {number} of the ensemble at {uri} is another model than when it was made")
        return cls(members, described.calibration)


def load_predictor(uri: str) -> Predictor:
    """Load the fine-tuned model or the ensemble at a path or URI.

    Raises:
        ModelError: there is neither, or it is broken.
    """
    return Ensemble.from_pretrained(uri) if _is_ensemble(uri) else PropertyModel.from_pretrained(uri)


def predictor_sha256(uri: str) -> str:
    """Identity of the fine-tuned model or of the ensemble at a path or URI, with its calibration.

    Raises:
        ModelError: there is neither, or its version is not supported.
    """
    identity = read_description(storage.join(uri, "0") if _is_ensemble(uri) else uri).identity
    if not _is_ensemble(uri):
        return identity
    # the file holds the identities of all members, and the calibration
    return hashlib.sha256(storage.read_bytes(storage.join(uri, FILE))).hexdigest()


def find_predictors(uri: str) -> dict[str, str]:
    """Find the fine-tuned model or ensemble in a folder, or all in its subfolders, such as `best` of a campaign.

    Returns:
        Name of the folder → its URI.

    Raises:
        ModelError: there is none.
    """
    uri = uri.rstrip("/")
    folders = [uri] if _is_predictor(uri) else [folder.rstrip("/") for folder in sorted(storage.list_folders(uri))]
    predictors = {folder.rpartition("/")[2]: folder for folder in folders if _is_predictor(folder)}
    if not predictors:
        raise ModelError(
            f"no fine-tuned model at {uri}, nor in the folders below it; `crystalign tune` writes some to best/"
        )
    return predictors


def describe_predictor(uri: str) -> PropertyModelFile:
    """Read settings and card of a fine-tuned model, or of an ensemble's first member, without the weights.

    Raises:
        ModelError: there is neither, or its version is not supported.
    """
    return read_description(storage.join(uri, "0") if _is_ensemble(uri) else uri)


def _is_predictor(uri: str) -> bool:
    return is_property_model(uri) or _is_ensemble(uri)


def _is_ensemble(uri: str) -> bool:
    return not is_property_model(uri) and storage.exists(storage.join(uri, FILE))


def _predictions(folder: str, part: PartName) -> pa.Table:
    """A trial's predictions of a part."""
    with storage.open_input(storage.join(folder, PREDICTIONS)) as source:
        return pq.read_table(source, filters=[("part", "=", part)])


def _values(table: pa.Table, names: Sequence[str]) -> Array:
    """(n, T)."""
    return np.column_stack([table.column(name).to_numpy() for name in names]).astype(np.float64)
