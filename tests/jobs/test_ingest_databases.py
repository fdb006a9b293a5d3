"""Databases as they are downloaded, through the command: licences are allowed by name, and ids stay unique."""

from __future__ import annotations

import bz2
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crystalign import storage
from crystalign.crystal import SYMBOLS, Crystal
from crystalign.errors import ConfigError, DatasetError
from crystalign.licences import is_non_commercial, refused
from crystalign.material import Material, Provenance
from crystalign.modalities.charge_density import ChargeDensity
from crystalign.shards.dataset import Dataset
from crystalign.shards.repeats import without_repeats
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign.sources import Item, Source
from crystalign_jobs import cli
from crystalign_jobs.ingest import ChunkReader, Ingest, main

ANIONS = ("F", "Cl", "Br", "I")


def cube(cation: str, anion: str, edge: float) -> Crystal:
    return Crystal(np.eye(3) * edge, [[0, 0, 0], [0.5] * 3], [SYMBOLS.index(cation), SYMBOLS.index(anion)])


def alexandria(folder: Path, cations: list[str], per_file: int = 4) -> Path:
    """One file per cation; the last entry of each file has the id of the first one of the first file."""
    folder.mkdir()
    for number, cation in enumerate(cations):
        entries = []
        for index in range(per_file):
            structure = cube(cation, ANIONS[index % 4], 3.5 + 0.1 * number + index // 4 * 0.01).to_pymatgen().as_dict()
            data = {"mat_id": f"agm{number}-{index}", "e_form": -1.0}
            entries.append({"@class": "ComputedStructureEntry", "structure": structure, "data": data})
        entries[-1]["data"]["mat_id"] = "agm0-0"
        packed = bz2.compress(json.dumps({"entries": entries}).encode())
        (folder / f"alexandria_{number:03d}.json.bz2").write_bytes(packed)
    return folder


def gnome(folder: Path) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(folder / "by_id.zip", "w") as archive:
        archive.writestr("by_id/00aa.CIF", cube("Cs", "Br", 4.3).to_cif())
    (folder / "stable_materials_summary.csv").write_text(
        ",Composition,MaterialId,Reduced Formula,NSites\n0,Br1Cs1,00aa,CsBr,2\n"
    )
    return folder


@pytest.mark.parametrize(
    ("licence", "restricted"),
    [
        ("CC-BY-NC-4.0", True),
        ("cc-by-nc-sa-4.0", True),
        ("CC-BY-4.0", False),
        ("CC0-1.0", False),
        ("unknown", False),
        ("NCSA", False),
    ],
)
def test_a_non_commercial_licence_is_known_by_its_identifier(licence: str, restricted: bool) -> None:
    assert is_non_commercial(licence) is restricted
    assert (refused(licence, ()) is not None) is restricted
    assert refused(licence, ["cc-BY-nc-4.0", "CC-BY-NC-SA-4.0"]) is None


@pytest.mark.usefixtures("ray_session")
def test_non_commercial_rows_enter_only_if_their_licence_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = f"gnome:{gnome(tmp_path / 'gnome')}", str(tmp_path / "data")
    assert cli.main(["ingest", source, "--out", out]) == 2
    assert "`--allow-licence CC-BY-NC-4.0` takes them" in capsys.readouterr().err
    assert not storage.exists(out)
    assert cli.main(["ingest", source, "--out", out, "--allow-licence", "CC-BY-NC-4.0"]) == 0
    assert Dataset.open(out).manifest.licences == ("CC-BY-NC-4.0",)
    with pytest.raises(ConfigError, match=r"CC-BY-NC-SA-4\.0 forbids commercial use"):
        main(Ingest(source=str(tmp_path), out=str(tmp_path / "other"), licence="CC-BY-NC-SA-4.0"))


class Mixed(Source):
    """Four crystals of two licences."""

    def items(self) -> list[Item]:
        return [Item(key=str(n)) for n in range(4)]

    def load(self, item: Item) -> Iterator[Material]:
        licence = "CC-BY-NC-4.0" if int(item.key) % 2 else "CC-BY-4.0"
        yield Material(item.key, cube("Cs", ANIONS[int(item.key)], 4.0), Provenance("mixed", licence))


@pytest.mark.parametrize(("allowed", "kept"), [((), 2), (("CC-BY-NC-4.0",), 4)])
def test_rows_whose_licence_shows_only_in_the_source_are_quarantined(
    tmp_path: Path, allowed: tuple[str, ...], kept: int
) -> None:
    items = [item.model_dump_json() for item in Mixed().items()]
    reader = ChunkReader(Mixed(), str(tmp_path), 10, allowed)
    result = json.loads(reader({"name": "00000", "items": items})["result"])
    assert [shard["rows"] for shard in result["shards"]] == [kept]
    assert result["reasons"] == ({} if allowed else {"check: licence": 2})


@pytest.mark.usefixtures("ray_session")
def test_an_id_that_two_files_hold_is_kept_once_and_the_job_goes_on(tmp_path: Path) -> None:
    source, out = f"alexandria:{alexandria(tmp_path / 'a', ['Na', 'K', 'Cs'])}", str(tmp_path / "data")
    manifest = main(Ingest(source=source, out=out, vintage="1"))
    dataset = Dataset.open(out)
    dataset.verify()
    ids = sorted(m.id for m in dataset.materials())
    assert ids == sorted({f"agm{n}-{i}" for n in range(3) for i in range(3)})
    kept = next(m for m in dataset.materials() if m.id == "agm0-0")
    assert kept.crystal.formula == "FNa"
    refused_ids = [(r["id"], r["reason"]) for r in dataset.quarantine().to_pylist()]
    assert refused_ids == [("agm0-0", "duplicate-id")] * 3
    assert manifest.quarantined == 3
    counts = {name: n for name, n in manifest.property_counts.items() if n}
    assert counts == {"formation_energy_per_atom_pbe_alexandria_1": 9}
    assert set(storage.list_names(out)) == manifest.files | {"manifest.json"}


def test_repeats_leave_large_modalities_with_their_rows(tmp_path: Path) -> None:
    uri = str(tmp_path / "data")

    def material(name: str, anion: str, *, dense: bool = False) -> Material:
        crystal = cube("Cs", anion, 4.0)
        density = {"charge_density": ChargeDensity(np.full((12, 12, 12), 2.0), crystal.lattice)} if dense else {}
        return Material(name, crystal, Provenance("t", "CC0-1.0"), density)

    shards = [
        write_shard(uri, "0", [material("a", "F"), material("b", "Cl", dense=True)]),
        write_shard(uri, "1", [material("b", "Br"), material("c", "I", dense=True), material("c", "F", dense=True)]),
        write_shard(uri, "2", [material("a", "I")]),
    ]
    kept, rejects = without_repeats(uri, shards, ())
    assert [r.id for r in rejects] == ["b", "c", "a"]
    assert kept[0] == shards[0]
    commit_manifest(uri, kept)
    dataset = Dataset.open(uri)
    dataset.verify()
    found = [(m.id, m.crystal.formula, "charge_density" in m.modalities) for m in dataset.materials(["charge_density"])]
    assert found == [("a", "CsF", False), ("b", "ClCs", True), ("c", "CsI", True)]
    assert set(storage.list_names(uri)) == dataset.manifest.files | {"manifest.json"}


@pytest.mark.usefixtures("ray_session")
def test_a_database_without_a_usable_entry_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "alexandria_000.json.bz2").write_bytes(bz2.compress(b'{"entries": [')[:-4])
    with pytest.raises(DatasetError, match="no crystal could be used, 1 were quarantined"):
        main(Ingest(source=f"alexandria:{folder}", out=str(tmp_path / "data")))
