"""The calibration of an index: how likely its answers are to be right. It is stored beside the index.

A query is *answered* if at least half of the first ten results fit it. If the index holds fewer than ten crystals that
fit, at least half of these must be among the results (`crystalign.evaluation.held_out_queries.is_answered`).

The probability that a query is answered is computed from signals of the answer, such as the cosine similarity of the
best result (`crystalign.evaluation.calibration`). Each modality of queries has its own function.

The file `calibration.json` names the index and the model that it belongs to, and has a checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Literal, Self

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import DatasetError, VerificationError
from crystalign.evaluation.calibration import Fit, Reliability
from crystalign.index.manifest import IndexManifest

SCHEMA_VERSION = 1
CALIBRATION = "calibration.json"
MAX_BYTES = 2**20
FIRST = 10
"""Number of results, from the first, that decide whether a query is answered."""
LOW, HIGH = 0.5, 0.8
"""The service calls an answer weak below the first probability, and good from the second on."""
Level = Literal["high", "medium", "low"]


class ModalityCalibration(Config):
    """The probability that queries of one modality are answered, and how reliable it is."""

    fit: Fit
    """The probability as a function of the signals of an answer."""
    reliability: Reliability
    """How well the probabilities agree with what happened, on other queries."""


class Calibration(Config):
    """Calibrations of an index, one per modality of queries."""

    schema_version: int = SCHEMA_VERSION
    """Version of this layout."""
    created: str
    """Time of the calibration, UTC, ISO 8601."""
    release: str
    """Release of Crystalign whose search was calibrated."""
    index_version: str
    """Version of the index."""
    model_sha256: str
    """SHA-256 of the model that encoded the queries."""
    split: str
    """Which materials the queries were drawn from."""
    seed: int
    """Seed of the queries."""
    modalities: dict[str, ModalityCalibration]
    """Modality of the query → its calibration."""

    @property
    def sha256(self) -> str:
        """Checksum of the content."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    def is_of(self, manifest: IndexManifest) -> bool:
        """Whether it was measured on this version; if not, on an earlier one of the same index."""
        return self.index_version == manifest.version

    def probability(self, modality: str, signals: Mapping[str, float]) -> float | None:
        """The probability that a query of a modality is answered; None if the modality is not calibrated."""
        calibrated = self.modalities.get(modality)
        return None if calibrated is None else calibrated.fit.probability(signals)

    def write(self, uri: str) -> None:
        """Write it beside the manifest of the index at `uri`; an earlier calibration is replaced.

        Raises:
            ConflictError: another job has just replaced it.
        """
        target = storage.join(uri, CALIBRATION)
        data = json.dumps({"sha256": self.sha256, **self.model_dump(mode="json")}, indent=1).encode()
        storage.replace_bytes(target, data, expected=storage.sha256_of(target))

    @classmethod
    def read(cls, uri: str, manifest: IndexManifest) -> Self | None:
        """The calibration of the index at `uri`; None if it has none.

        After rows were added or removed, the last calibration stays in use, because probabilities change little with a
        few rows. `is_of` tells whether it was measured on this very version.

        Raises:
            VerificationError: the file was changed.
            DatasetError: it belongs to another index or model, or has another schema version.
        """
        target = storage.join(uri, CALIBRATION)
        if not storage.exists(target):
            return None
        again = f"calibrate again (`crystalign calibrate {uri}`), or delete {target}"
        try:
            values = json.loads(storage.read_bytes(target, limit=MAX_BYTES))
            digest = values.pop("sha256")
        except (ValueError, RecursionError, KeyError, AttributeError, TypeError) as error:
            raise VerificationError(f"{target} is not a calibration: {again}") from error
        if values.get("schema_version") != SCHEMA_VERSION:
            raise DatasetError(
                f"{target} has schema version {values.get('schema_version')}, this release reads {SCHEMA_VERSION}: "
                f"{again}"
            )
        calibration = cls.from_mapping(values, origin=target)
        if calibration.sha256 != digest:
            raise VerificationError(f"{target} differs from its checksum {str(digest)[:12]}: {again}")
        if calibration.index_version not in {manifest.version, *manifest.earlier}:
            raise DatasetError(
                f"{target} belongs to index {calibration.index_version[:12]}, this is index {manifest.version[:12]}, "
                f"and no version before it is that one: {again}"
            )
        if calibration.model_sha256 != manifest.model_sha256:
            raise DatasetError(
                f"{target} belongs to model {calibration.model_sha256[:12]}, this is model "
                f"{manifest.model_sha256[:12]}: {again}"
            )
        return calibration


def level_of(probability: float) -> Level:
    """The level of a probability, by the thresholds `LOW` and `HIGH`."""
    if probability < LOW:
        return "low"
    return "high" if probability >= HIGH else "medium"
