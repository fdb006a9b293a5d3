"""Derive adds columns, keeps what was there, resumes, and swaps the manifest last."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystalign import derivation, storage
from crystalign.crystal import Crystal
from crystalign.derivation import extended
from crystalign.errors import ConfigError, ConflictError, CrystalError
from crystalign.material import Material, Provenance
from crystalign.modalities.charge_density import ChargeDensity
from crystalign.shards import writer
from crystalign.shards.dataset import Dataset
from crystalign.shards.manifest import Manifest
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign_jobs import derive
from crystalign_jobs.derive import Derive, ShardDeriver, main, target
from crystalign_ray import driver_lock
from crystalign_ray.driver_lock import driving

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
    (path,) = (Path(data) / "shards").glob(f"{name}.*")
    path.write_bytes(path.read_bytes()[:-10])
    assert main(config).modalities["xrd"] == 90
    Dataset.open(data).verify()


def test_a_second_job_is_refused_while_the_first_runs(data: str) -> None:
    with driving(data), pytest.raises(ConfigError, match=f"{data} is locked by process"):
        main(Derive(data=data, modalities=("xrd",)))
    assert main(Derive(data=data, modalities=("xrd",))).modalities["xrd"] == 90


@pytest.fixture
def unowned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each job took the driver of the other for dead."""
    monkeypatch.setattr(driver_lock, "driving", lambda _: contextlib.nullcontext(lambda: True))


MOMENTS = {"before all is checked": (derive, "_commit"), "before the manifest is written": (Manifest, "write")}


def once_before(monkeypatch: pytest.MonkeyPatch, moment: str, act: Callable[[], object]) -> None:
    """Let something happen once, when a job has written its shards."""
    place, name = MOMENTS[moment]
    goes_on, waiting = getattr(place, name), [act]

    def interrupted(*values: Any, **named: Any) -> Any:
        if waiting:
            waiting.pop()()
        return goes_on(*values, **named)

    monkeypatch.setattr(place, name, interrupted)


@pytest.mark.usefixtures("unowned")
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_overtaken_job_undoes_nothing_and_its_repetition_adds_what_is_missing(
    data: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    won: list[Manifest] = []
    once_before(monkeypatch, moment, lambda: won.append(main(Derive(data=data, modalities=("text",)))))
    with pytest.raises(ConflictError, match=r"is left as it is: another job changed .* Run the command again"):
        main(Derive(data=data, modalities=("xrd",)))
    dataset = Dataset.open(data)
    assert dataset.manifest == won[0]
    dataset.verify()
    assert all(material.value("text") for material in dataset.materials())
    manifest = main(Derive(data=data, modalities=("xrd",)))
    assert (manifest.modalities["xrd"], manifest.modalities["text"]) == (90, 90)
    Dataset.open(data).verify()


@pytest.mark.usefixtures("unowned")
def test_the_repetition_uses_what_was_derived_where_its_shards_are_still_there(
    data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def touch() -> None:
        Manifest.read(data).model_copy(update={"created": "later"}).write(data, expected=Manifest.version(data))

    once_before(monkeypatch, "before the manifest is written", touch)
    with pytest.raises(ConflictError):
        main(Derive(data=data, modalities=("xrd",)))
    assert "shards are already derived" not in capsys.readouterr().out
    assert main(Derive(data=data, modalities=("xrd",))).modalities["xrd"] == 90
    assert "2 of 2 shards are already derived" in capsys.readouterr().out


@pytest.mark.usefixtures("unowned")
def test_what_a_job_writes_that_starts_from_the_new_manifest_is_not_cleared_away(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, names = Derive(data=data, modalities=("text",)), []

    def commit_and_follow(*values: Any, commit: Any = writer.commit_manifest, **named: Any) -> Manifest:
        manifest = commit(*values, **named)
        dataset = Dataset.open(data)
        for number, entry in enumerate(manifest.shards):
            names.append(target(entry, follower.modalities))
            ShardDeriver(follower, dataset)({"number": number, "name": names[-1]})
        return manifest

    monkeypatch.setattr(writer, "commit_manifest", commit_and_follow)
    main(Derive(data=data, modalities=("xrd",)))
    assert len(names) == 2
    assert all(derive._receipt(data, name) for name in names)


def salt(identifier: str = "salt") -> Material:
    crystal = Crystal(np.eye(3) * 4.1, np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), np.array([55, 17]))
    return Material(identifier, crystal, Provenance("test", "CC0-1.0", reference="here"))


def test_what_cannot_be_derived_is_reported_and_the_rest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(material: Material) -> Any:
        raise CrystalError(f"no pattern of {material.crystal.formula}", reason="no-peaks")

    def break_down(material: Material) -> Any:
        raise ZeroDivisionError(material.crystal.formula)

    real, broken = derivation.derivation_of, {"xrd": refuse, "text": break_down}
    monkeypatch.setattr(derivation, "derivation_of", lambda name: broken.get(name) or real(name))
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
