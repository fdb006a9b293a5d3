"""`crystalign check` names the rows that this release would not store, and `ingest --accept` takes some knowingly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import ConfigError
from crystalign.material import Material, Provenance
from crystalign.readers.structures.structure_file import crystal_from_cif
from crystalign.shards.dataset import Dataset
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign_jobs.check import Check
from crystalign_jobs.check import main as check
from crystalign_jobs.ingest import Ingest
from crystalign_jobs.ingest import main as ingest

pytestmark = pytest.mark.usefixtures("ray_session")

SALT = """data_salt
_chemical_formula_sum '{formula}'
_cell_formula_units_Z {z}
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na1 0 0 0
Cl1 0.5 0.5 0.5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "cifs"
    root.mkdir()
    (root / "good.cif").write_text(SALT.format(formula="Na Cl", z=4))
    (root / "wrong_z.cif").write_text(SALT.format(formula="Na Cl", z=2))
    (root / "half.cif").write_text(SALT.format(formula="Na Cl", z=4))
    return root


def test_a_disagreement_is_quarantined_or_accepted_with_a_remark(folder: Path, tmp_path: Path) -> None:
    strict = ingest(Ingest(source=str(folder), out=str(tmp_path / "strict")))
    (refused,) = Dataset.open(str(tmp_path / "strict")).quarantine().to_pylist()
    assert (strict.rows, refused["id"], refused["reason"]) == (2, "wrong_z", "z-disagrees")
    assert "4 formula units" in refused["message"]
    taken = ingest(Ingest(source=str(folder), out=str(tmp_path / "taken"), accept=("z-disagrees",)))
    remarks = {m.id: m.remarks for m in Dataset.open(str(tmp_path / "taken")).materials()}
    assert taken.rows == 3
    assert remarks["good"] == ()
    assert remarks["wrong_z"][0].startswith("z-disagrees: ")


def test_an_unknown_reason_to_accept_is_refused_with_the_known_ones(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="composition-disagrees"):
        ingest(Ingest(source=str(folder), out=str(tmp_path / "data"), accept=("anything",)))


def test_check_finds_rows_that_an_earlier_release_read_wrongly(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = crystal_from_cif((folder / "good.cif").read_text())
    half = Crystal(right.lattice, np.array([[0, 0, 0], [0.5] * 3]), np.array([11, 17]))  # without the symmetry
    close = Crystal(np.eye(3) * 4, np.array([[0, 0, 0], [0.05, 0, 0]]), np.array([11, 17]))
    rows = {"good": right, "half": half, "wrong_z": right, "close": close}
    known = {"spacegroup_number": 221, "prototype": "AB:221:a.b"}
    materials = [
        Material(i, c, Provenance("test", "CC0-1.0"), **(known if i == "half" else {})) for i, c in rows.items()
    ]
    uri = str(tmp_path / "data")
    commit_manifest(uri, [write_shard(uri, "part", materials)])
    listed = tmp_path / "findings.jsonl"
    findings = check(Check(dataset=uri, source=str(folder), list_file=str(listed)))
    reasons = {(finding.id, finding.reason) for finding in findings}
    assert {
        ("half", "read-differently"),
        ("wrong_z", "refused-now: z-disagrees"),
        ("close", "overlapping-atoms"),
    } <= reasons
    assert ("good", "spacegroup_number-differs") in reasons  # it was stored without
    assert not any(i == "good" and "read" in reason for i, reason in reasons)
    assert [json.loads(line)["id"] for line in listed.read_text().splitlines()] == [f.id for f in findings]
    assert "4 of 4 crystals are not as this release would store them" in capsys.readouterr().out


def test_check_finds_nothing_in_what_was_just_ingested(folder: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "data")
    ingest(Ingest(source=str(folder), out=uri))
    assert [f for f in check(Check(dataset=uri, source=str(folder))) if f.id != "wrong_z"] == []
