"""Every file of the reading cases is read right or refused with a reason; where the folder is absent, skipped."""

from __future__ import annotations

import csv
import functools
import re
import zipfile
from pathlib import Path

import pytest

from crystalign.crystal import Crystal
from crystalign.errors import InputError
from crystalign.material import Material
from crystalign.physics.symmetry import symmetry
from crystalign.readers.structures.structure_file import crystal_from_cif, read_structures
from crystalign.rejects import Reject
from crystalign.sources import open_source

CASES = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "reading_cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the reading cases are not on this machine")


@functools.cache
def rows(*kinds: str) -> list[dict[str, str]]:
    if not CASES.is_dir():
        return []
    with (CASES / "expected.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["kind"] in kinds]


def crystals(path: Path) -> tuple[list[Crystal], list[InputError]]:
    """What a file yields by itself."""
    found, refused = [], []
    try:
        for _, reading in read_structures(path.read_bytes(), path.name):
            try:
                if isinstance(reading, InputError):
                    raise reading
                found.append(reading.accepted().crystal.check())
            except InputError as error:
                refused.append(error)
    except InputError as error:
        refused.append(error)
    return found, refused


def parts(formula: str) -> dict[str, float]:
    amounts: dict[str, float] = {}
    for symbol, amount in re.findall(r"([A-Z][a-z]?)(\d*\.?\d*)", formula):
        name = {"D": "H", "T": "H"}.get(symbol, symbol)
        amounts[name] = amounts.get(name, 0.0) + float(amount or 1)
    total = sum(amounts.values())
    return {name: amount / total for name, amount in amounts.items()}


def agrees(crystal: Crystal, row: dict[str, str]) -> None:
    if row["formula"]:
        options = [pytest.approx(parts(formula), abs=2e-3) for formula in row["formula"].split("|")]
        assert parts(crystal.formula) in options
    if row["n_atoms_conventional_or_as_file"]:
        assert len(crystal) == int(row["n_atoms_conventional_or_as_file"])
    if row["volume_A3"]:
        assert crystal.volume == pytest.approx(float(row["volume_A3"]), abs=0.02)
    if row["spacegroup"]:
        assert symmetry(crystal).number == int(row["spacegroup"])


@pytest.mark.parametrize("row", rows("structure", "not-data"), ids=lambda row: row["path"])
def test_a_file_gives_the_expected_structures_or_a_reason(row: dict[str, str]) -> None:
    found, refused = crystals(CASES / row["path"])
    assert all(error.reason and len(str(error)) > 15 for error in refused)
    if row["outcome"] == "refuse":
        assert not found
        assert refused
        return
    if row["outcome"] == "accept" or found:
        assert len(found) in [int(n) for n in row["n_materials"].split("|")]
        for crystal in found:
            agrees(crystal, row)
    else:
        assert refused


@pytest.mark.parametrize("row", rows("archive"), ids=lambda row: row["path"])
def test_an_archive_gives_the_expected_materials_and_names_the_rest(row: dict[str, str]) -> None:
    try:
        source = open_source(str(CASES / row["path"]))
        found = [one for item in source.items() for one in source.read(item)]
    except InputError as error:
        source, found, message = None, [], str(error)
    if source is None:
        assert row["outcome"] in {"refuse", "either"}
        assert len(message) > 15
        return
    materials = [one for one in found if isinstance(one, Material)]
    rejects = [one for one in found if isinstance(one, Reject)]
    if row["outcome"] == "refuse":
        assert not materials
        assert rejects
    if row["n_materials"] and row["outcome"] == "accept":
        assert len(materials) in [int(n) for n in row["n_materials"].split("|")]
    assert len({material.id for material in materials}) == len(materials)
    for material in materials:
        agrees(material.crystal, row)


def test_an_archive_that_repeats_a_name_reads_the_entry_that_it_reports() -> None:
    path = CASES / "13-archives" / "e_same_name_twice.zip"
    source = open_source(str(path))
    found = [one for item in source.items() for one in source.read(item)]
    (material,) = [one for one in found if isinstance(one, Material)]
    (reject,) = [one for one in found if isinstance(one, Reject)]
    with zipfile.ZipFile(path) as archive:
        first = archive.open(archive.infolist()[0]).read().decode()
    assert material.crystal.volume == pytest.approx(crystal_from_cif(first).volume)
    assert reject.reason == "duplicate-name"


def test_several_runs_in_one_folder_are_several_materials() -> None:
    source = open_source(str(CASES / "09-flat-folder-of-runs"))
    found = [one for item in source.items() for one in source.read(item)]
    assert {one.id: one.crystal.formula for one in found} == {
        "LiF": "FLi",
        "MgO": "MgO",
        "vasprun_mp-1": "ClNa",
        "vasprun_mp-2": "ClK",
        "vasprun_mp-3": "FK",
    }


def test_every_file_of_a_folder_ends_as_a_material_or_a_reject() -> None:
    folder = CASES / "08-file-names"
    source = open_source(str(folder))
    found = [one for item in source.items() for one in source.read(item)]
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    told = {one.provenance.reference if isinstance(one, Material) else one.origin for one in found}
    assert told == names
    assert len({one.id for one in found if isinstance(one, Material)}) == sum(isinstance(o, Material) for o in found)
    accepted = {row["path"].partition("/")[2] for row in rows("structure") if row["path"].startswith("08-")}
    refused = {one.origin for one in found if isinstance(one, Reject)} & accepted
    assert not refused
