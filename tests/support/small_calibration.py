"""A calibration of an index with one signal."""

from __future__ import annotations

from crystalign.evaluation.calibration import Fit, Signal, reliability
from crystalign.index.calibration import Calibration, ModalityCalibration
from crystalign.index.manifest import IndexManifest


def calibration_of(manifest: IndexManifest, weight: float = 2.0) -> Calibration:
    signals = (Signal(name="cosine", mean=0.5, spread=0.25, weight=weight),)
    fit = Fit(signals=signals, intercept=0.1, queries=200)
    return Calibration(
        created="2026-11-29T00:00:00+00:00",
        release="0",
        index_version=manifest.version,
        model_sha256=manifest.model_sha256,
        split="test, by formula",
        seed=0,
        modalities={"text": ModalityCalibration(fit=fit, reliability=reliability([0.2, 0.7], [0, 1]))},
    )
