"""Derive adds columns, keeps what was there, resumes, and swaps the manifest last."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystalign import derivation, storage
from crystalign.crystal import Crystal
from crystalign.derivation import extended
from crystalign.errors import CrystalError
from crystalign.material import Material, Provenance
from crystalign.modalities.charge_density import ChargeDensity
from crystalign.shards.dataset import Dataset
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign_jobs import derive
from crystalign_jobs.derive import Derive, ShardDeriver, main, target

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def data(small_dataset: str, tmp_path: Path) -> str:
    """A copy of the small dataset, to be changed."""
    shutil.copytree(small_dataset, tmp_path / "data")
    return str(tmp_path / "data")


def by_id(uri: str) -> dict[str, Material]:
    return {material.id: material for material in Dataset.open(uri).materials()}


def test_every_material_gets_what_it_lacks_and_keeps_what_it_had(data: str) -> None:
    before = by_id(data)
    manifest = main(Derive(data=data))
    after = by_id(data)
    Dataset.open(data).verify()
    assert set(after) == set(before)
    assert manifest.modalities == {"crystal": 90, "xrd": 90, "text": 90, "composition": 90}
    assert manifest.derived == ("composition", "text", "xrd")
    for name, material in after.items():
        given = before[name].value("text")
        assert (material.value("text") == given) if given else material.value("text").generated
        np.testing.assert_array_equal(material.crystal.lattice, before[name].crystal.lattice)
        assert material.value("xrd").intensities.max() > 0


def test_nothing_but_what_the_manifest_names_remains(data: str) -> None:
    manifest = main(Derive(data=data, modalities=("xrd",)))
    named = {entry.path for entry in manifest.shards} | {"manifest.json"}
    assert {path.removeprefix(f"{data}/") for path in storage.list_files(data)} == named


def test_a_second_time_there_is_nothing_to_do(data: str) -> None:
    assert main(Derive(data=data, modalities=("xrd",))) == main(Derive(data=data, modalities=("xrd",)))


def test_an_interrupted_job_goes_on_and_gives_the_same_dataset(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(data, tmp_path / "other")
    uninterrupted = main(Derive(data=str(tmp_path / "other")))
    config, dataset = Derive(data=data), Dataset.open(data)
    name = target(dataset.manifest.shards[0], config.modalities)
    ShardDeriver(config, dataset)({"number": 0, "name": name})  # what a job that was then killed had done
    assert Dataset.open(data).manifest == dataset.manifest
    asked = []
    monkeypatch.setattr(
        derive, "_receipt", lambda uri, n, read=derive._receipt: asked.append(read(uri, n)) or asked[-1]
    )
    manifest = main(config)
    assert [receipt is not None for receipt in asked] == [True, False]
    assert manifest.sha256 == uninterrupted.sha256


def test_a_receipt_whose_shard_is_damaged_is_not_believed(data: str) -> None:
    config, dataset = Derive(data=data), Dataset.open(data)
    name = target(dataset.manifest.shards[0], config.modalities)
    ShardDeriver(config, dataset)({"number": 0, "name": name})
    path = Path(data) / "shards" / f"{name}.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    assert main(config).modalities["xrd"] == 90
    Dataset.open(data).verify()


def salt(identifier: str = "salt") -> Material:
    crystal = Crystal(np.eye(3) * 4.1, np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), np.array([55, 17]))
    return Material(identifier, crystal, Provenance("test", "CC0-1.0", reference="here"))


def test_what_cannot_be_derived_is_reported_and_the_rest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(crystal: Crystal) -> Any:
        raise CrystalError(f"no pattern of {crystal.formula}", reason="no-peaks")

    def break_down(crystal: Crystal) -> Any:
        raise ZeroDivisionError(crystal.formula)

    monkeypatch.setattr(derivation, "DERIVATIONS", {**derivation.DERIVATIONS, "xrd": refuse, "text": break_down})
    rejects: list[Any] = []
    material = extended(salt(), ("xrd", "text", "composition"), 60.0, rejects)
    assert set(material.modalities) == {"composition"}
    assert [(r.id, r.stage, r.reason) for r in rejects] == [
        ("salt", "derive xrd", "no-peaks"),
        ("salt", "derive text", "unforeseen-ZeroDivisionError"),
    ]


def test_a_heavy_modality_stays_in_its_file(tmp_path: Path) -> None:
    uri = str(tmp_path / "data")
    rho = np.random.default_rng(0).random((8, 8, 8)) + 0.5
    plain = salt("plain")
    heavy = Material("heavy", plain.crystal, plain.provenance, {"charge_density": ChargeDensity(rho, np.eye(3) * 4.1)})
    commit_manifest(uri, [write_shard(uri, "a", [plain, heavy])])
    before = Dataset.open(uri).manifest.shards[0].siblings
    manifest = main(Derive(data=uri))
    assert manifest.shards[0].siblings == before
    assert manifest.modalities["charge_density"] == 1
    found = Dataset.open(uri).material(0, 1)
    assert found.id == "heavy"
    assert {"charge_density", "xrd", "text"} <= set(found.modalities)
