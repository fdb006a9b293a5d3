"""GNoME's table and its structures: matched by id, compared with each other, and nothing is left out silently."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.errors import ConfigError, FileFormatError
from crystalign.material import Material
from crystalign.properties import Quantity
from crystalign.rejects import Reject
from crystalign.sources import Source, open_source

HEADER = [
    "", "Composition", "MaterialId", "Reduced Formula", "Elements", "NSites", "Volume", "Density", "Point Group",
    "Space Group", "Space Group Number", "Crystal System", "Corrected Energy", "Formation Energy Per Atom",
    "Decomposition Energy Per Atom", "Dimensionality Cheon", "Bandgap", "Is Train",
    "Decomposition Energy Per Atom All", "Decomposition Energy Per Atom Relative",
    "Decomposition Energy Per Atom MP", "Decomposition Energy Per Atom MP OQMD",
]  # fmt: skip
"""The columns of the published table."""
SALTS = {"000006a8c4": ("Li", "F", 2.9), "12345e6789": ("Na", "Cl", 3.4), "00aa11bb22": ("Cs", "Br", 4.3)}
"""Ids are hexadecimal; some look like numbers."""


def crystal(cation: str, anion: str, edge: float) -> Crystal:
    numbers = [SYMBOLS.index(cation), SYMBOLS.index(anion)]
    return Crystal([[edge, 0, 0], [0, edge, 0], [0, 0, edge]], [[0, 0, 0], [0.5] * 3], numbers)


def cif(cation: str, anion: str, edge: float) -> str:
    return crystal(cation, anion, edge).to_cif()


def row(identifier: str, **changed: Any) -> dict[str, Any]:
    cation, anion, edge = SALTS[identifier]
    elements = sorted([cation, anion])
    known: dict[str, Any] = dict.fromkeys(HEADER, "0.5")
    known |= {
        "Composition": "".join(f"{e}1" for e in elements),
        "MaterialId": identifier,
        "Reduced Formula": f"{cation}{anion}",
        "Elements": str(elements),
        "NSites": 2,
        "Volume": edge**3,
        "Corrected Energy": -9.0,
        "Formation Energy Per Atom": -1.5,
        "Decomposition Energy Per Atom": -0.02,
        "Decomposition Energy Per Atom All": 0.001,
        "Bandgap": 3.25,
        "Is Train": True,
    }
    return known | changed


def table_of(rows: Sequence[Mapping[str, Any]], header: Sequence[str] = HEADER) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, header, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def place(
    root: Path, rows: Sequence[Mapping[str, Any]], files: Mapping[str, str | bytes], archive: str = "by_id.zip"
) -> Path:
    folder = root / "gnome_data"
    folder.mkdir(parents=True)
    (folder / "stable_materials_summary.csv").write_bytes(table_of(rows))
    with zipfile.ZipFile(folder / archive, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return root


def opened(root: Path | str, **settings: Any) -> Source:
    return open_source(f"gnome:{root}", vintage="2024-11-21", **settings)


def read(source: Source) -> tuple[dict[str, Material], list[tuple[str, str]]]:
    results = [one for item in source.items() for one in source.read(item)]
    rejects = [(r.id, r.reason) for r in results if isinstance(r, Reject)]
    materials = [r for r in results if isinstance(r, Material)]
    assert len({m.id for m in materials}) == len(materials)
    return {m.id: m for m in materials}, rejects


ALL_FILES = {f"by_id/{name}.CIF": cif(*salt) for name, salt in SALTS.items()}


def test_a_row_and_its_structure_become_a_material(tmp_path: Path) -> None:
    root = place(tmp_path, [row(name) for name in SALTS], ALL_FILES)
    for start in (root, root / "gnome_data", root / "gnome_data" / "stable_materials_summary.csv"):
        source = opened(start)
        materials, rejects = read(source)
        assert rejects == []
        assert set(materials) == set(SALTS)
    salt = materials["12345e6789"]
    assert salt.crystal.formula == "ClNa"
    assert salt.spacegroup_number == 221
    assert (salt.provenance.source, salt.provenance.licence) == ("gnome", "CC-BY-NC-4.0")
    assert source.licences() == ("CC-BY-NC-4.0",)
    assert {(s.method, s.source, s.vintage) for s in salt.properties} == {("pbe", "gnome", "2024-11-21")}
    assert {spec.quantity: value for spec, value in salt.properties.items()} == {
        Quantity.ENERGY_PER_ATOM: -4.5,
        Quantity.FORMATION_ENERGY_PER_ATOM: -1.5,
        Quantity.ENERGY_ABOVE_HULL: 0.001,
        Quantity.BAND_GAP: 3.25,
    }


def test_rows_without_a_file_and_files_without_a_row_are_refused(tmp_path: Path) -> None:
    files = {
        "by_id/000006a8c4.CIF": ALL_FILES["by_id/000006a8c4.CIF"],
        "by_id/deep/er/12345e6789.cif": ALL_FILES["by_id/12345e6789.CIF"],
        "by_id/ffffffffff.CIF": cif("K", "I", 4.2),
        "by_id/readme.txt": "about",
        "../evil.CIF": "x",
    }
    materials, rejects = read(opened(place(tmp_path, [row(name) for name in SALTS], files)))
    assert set(materials) == {"000006a8c4", "12345e6789"}
    assert rejects == [
        ("00aa11bb22", "no-structure"),
        ("ffffffffff", "not-in-the-table"),
        ("by_id/readme.txt", "not-in-the-table"),
        ("evil", "unsafe-path"),
    ]


def test_a_repeated_id_and_a_repeated_file_count_once(tmp_path: Path) -> None:
    rows = [row("000006a8c4"), row("000006a8c4", Bandgap=1.0), row("12345e6789", MaterialId="")]
    files = {"a/000006a8c4.CIF": ALL_FILES["by_id/000006a8c4.CIF"], "b/000006a8c4.CIF": cif("K", "I", 4.2)}
    materials, rejects = read(opened(place(tmp_path, rows, files)))
    assert materials["000006a8c4"].crystal.formula == "FLi"
    assert [v for s, v in materials["000006a8c4"].properties.items() if s.quantity is Quantity.BAND_GAP] == [3.25]
    assert rejects == [("000006a8c4", "duplicate-id"), ("row 2", "no-id"), ("000006a8c4", "duplicate-name")]


def test_values_that_are_no_numbers_stay_unknown(tmp_path: Path) -> None:
    changed = {"Bandgap": "inf", "Formation Energy Per Atom": "", "Corrected Energy": "nan"}
    rows = [row("000006a8c4", **changed, **{"Decomposition Energy Per Atom All": "n/a"})]
    materials, _ = read(opened(place(tmp_path, rows, ALL_FILES)))
    assert materials["000006a8c4"].properties == {}


def test_a_structure_that_contradicts_its_row_is_refused(tmp_path: Path) -> None:
    rows = [
        row("000006a8c4", NSites=4),
        row("12345e6789", Composition="Cl1K1"),
        row("00aa11bb22", Volume=60.0),
    ]
    root = place(tmp_path, rows, ALL_FILES)
    assert read(opened(root)) == (
        {},
        [
            ("000006a8c4", "sites-disagree"),
            ("12345e6789", "composition-disagrees"),
            ("00aa11bb22", "volume-disagrees"),
        ],
    )
    accepted, _ = read(opened(root, accept=["volume-disagrees"]))
    assert [m.id for m in accepted.values()] == ["00aa11bb22"]
    assert "volume-disagrees" in accepted["00aa11bb22"].remarks[0]


def test_a_formula_of_several_rows_does_not_choose_a_structure(tmp_path: Path) -> None:
    rows = [row("000006a8c4"), row("12345e6789"), row("00aa11bb22", **{"Reduced Formula": "NaCl"})]
    files = {"by_reduced_formula/LiF.CIF": ALL_FILES["by_id/000006a8c4.CIF"], "by_reduced_formula/NaCl.CIF": "x"}
    materials, rejects = read(opened(place(tmp_path, rows, files, "by_reduced_formula.zip")))
    assert set(materials) == {"000006a8c4"}
    assert rejects == [("12345e6789", "ambiguous-structure"), ("00aa11bb22", "ambiguous-structure")]


def test_broken_lines_and_files_are_refused_one_by_one(tmp_path: Path) -> None:
    root = place(tmp_path, [row(name) for name in SALTS], {**ALL_FILES, "by_id/000006a8c4.CIF": b"\x00\x01"})
    path = root / "gnome_data" / "stable_materials_summary.csv"
    lines = path.read_bytes().splitlines()
    assert len(lines) == 4
    lines[1:1] = [b"too,few,fields", b'\xff\xfe,"unclosed', b""]
    lines[-1] = lines[-1].replace(b"CsBr", b"Cs\xffBr")
    path.write_bytes(b"\r\n".join(lines[:2] + lines[3:]))
    materials, rejects = read(opened(root))
    assert set(materials) == {"12345e6789", "00aa11bb22"}
    assert rejects == [("line 2", "bad-row"), ("000006a8c4", "not-text")]


def test_a_source_that_is_opened_again_reads_changed_files(tmp_path: Path) -> None:
    root = place(tmp_path, [row("000006a8c4")], ALL_FILES)
    assert set(read(opened(root))[0]) == {"000006a8c4"}
    (root / "gnome_data" / "stable_materials_summary.csv").write_bytes(table_of([row("12345e6789")]))
    assert set(read(opened(root))[0]) == {"12345e6789"}


def test_what_is_missing_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no stable_materials_summary\.csv"):
        opened(tmp_path)
    root = place(tmp_path / "a", [row("000006a8c4")], ALL_FILES, "by_id.7z")
    with pytest.raises(ConfigError, match="holds no structures"):
        opened(root)
    root = place(tmp_path / "b", [], ALL_FILES)
    (root / "gnome_data" / "stable_materials_summary.csv").write_bytes(table_of([], ["MaterialId", "Volume"]))
    with pytest.raises(FileFormatError, match="no column Composition, Reduced Formula, NSites; it has MaterialId"):
        opened(root).items()
