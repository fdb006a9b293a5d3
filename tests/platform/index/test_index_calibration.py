"""The calibration of an index is stored beside it, bound to its version and model, and checked when it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crystalign.errors import ConfigError, DatasetError, Error, VerificationError
from crystalign.index.calibration import CALIBRATION, HIGH, LOW, Calibration, level_of
from crystalign.index.manifest import IndexManifest
from small_calibration import calibration_of


def manifest_of(model: str = "a" * 64, rows: int = 3) -> IndexManifest:
    values = {
        "created": "",
        "modality": "crystal",
        "dimension": 2,
        "rows": rows,
        "model_uri": "",
        "model_sha256": model,
        "dataset_uri": "",
        "dataset_sha256": "b" * 64,
        "properties": (),
        "licences": (),
        "segments": (),
    }
    return IndexManifest.from_mapping(values, origin="a test")


@pytest.fixture
def stored(tmp_path: Path) -> tuple[str, IndexManifest, Calibration]:
    manifest = manifest_of()
    calibration = calibration_of(manifest)
    calibration.write(str(tmp_path))
    return str(tmp_path), manifest, calibration


def test_what_was_written_is_read(stored):
    uri, manifest, calibration = stored
    assert Calibration.read(uri, manifest) == calibration
    assert Calibration.read(uri, manifest).probability("text", {"cosine": 0.75}) == pytest.approx(0.890903, abs=1e-6)


def test_a_modality_without_calibration_has_no_probability(stored):
    assert stored[2].probability("xrd", {"cosine": 0.75}) is None


def test_an_index_without_calibration_has_none(tmp_path):
    assert Calibration.read(str(tmp_path), manifest_of()) is None


def test_a_later_calibration_replaces_the_earlier(stored):
    uri, manifest, _ = stored
    later = calibration_of(manifest, weight=3.0)
    later.write(uri)
    assert Calibration.read(uri, manifest) == later


@pytest.mark.parametrize(("other", "what"), [({"rows": 4}, "index"), ({"model": "c" * 64}, "index")])
def test_a_calibration_of_another_index_is_refused(stored, other, what):
    with pytest.raises(DatasetError, match=f"belongs to {what} .* calibrate again"):
        Calibration.read(stored[0], manifest_of(**other))


def test_a_calibration_of_another_model_is_refused(tmp_path):
    manifest = manifest_of()
    calibration_of(manifest).model_copy(update={"model_sha256": "c" * 64}).write(str(tmp_path))
    with pytest.raises(DatasetError, match=r"belongs to model cccc.*this is model aaaa"):
        Calibration.read(str(tmp_path), manifest)


@pytest.mark.parametrize("field", ["seed", "split", "index_version"])
def test_a_changed_file_is_refused(stored, field):
    uri, manifest, _ = stored
    path = Path(uri) / CALIBRATION
    values = json.loads(path.read_text())
    values[field] = 1 if field == "seed" else "changed"
    path.write_text(json.dumps(values))
    with pytest.raises(VerificationError, match="differs from its checksum"):
        Calibration.read(uri, manifest)


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "3", '{"sha256": 1', "[" * 100_000, '"text"'])
def test_what_is_no_calibration_is_refused(stored, content):
    uri, manifest, _ = stored
    (Path(uri) / CALIBRATION).write_text(content)
    with pytest.raises(Error, match=f"{CALIBRATION}"):
        Calibration.read(uri, manifest)


def test_a_negative_weight_is_refused(stored):
    uri, manifest, _ = stored
    path = Path(uri) / CALIBRATION
    values = json.loads(path.read_text())
    values["modalities"]["text"]["fit"]["signals"][0]["weight"] = -1.0
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="weight"):
        Calibration.read(uri, manifest)


def test_another_schema_version_is_refused(stored):
    uri, manifest, calibration = stored
    calibration.model_copy(update={"schema_version": 2}).write(uri)
    with pytest.raises(DatasetError, match="schema version 2, this release reads 1"):
        Calibration.read(uri, manifest)


@pytest.mark.parametrize(
    ("probability", "level"), [(LOW - 1e-9, "low"), (LOW, "medium"), (HIGH - 1e-9, "medium"), (HIGH, "high")]
)
def test_levels_begin_at_their_thresholds(probability, level):
    assert level_of(probability) == level
