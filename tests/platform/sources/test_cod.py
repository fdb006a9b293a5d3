"""The Crystallography Open Database: its tree, its publications, its flags, and whatever else lies in the folder."""

from __future__ import annotations

import gzip
import os
import re
import zipfile
from pathlib import Path

import pytest

from crystalign.errors import ConfigError, FileFormatError
from crystalign.material import Material
from crystalign.readers.structures.cif_publication import plain_text, publications
from crystalign.rejects import Reject
from crystalign.sources import Source, open_source

DATA = Path(os.environ.get("CRYSTALIGN_DATA", "../shared/data"))
HEAD = r"""
loop_
_publ_author_name
'Gra\^zulis, S.'
'M\"uller, A. B.'
'Third, C.'
'Fourth, D.'
_publ_section_title
;
 Structure of \a-NaCl and H~2~O at 10^-3^ bar
 in two lines
;
_journal_name_full 'Acta Crystallographica Section B'
_journal_page_first 726
_journal_paper_doi 10.1107/S0108768100000000
_journal_volume 42
_journal_year 2009
"""
SCHEMA = """
CREATE TABLE `data` (
  `file` mediumint(7) unsigned NOT NULL default '0',
  `a` float unsigned NOT NULL default '0.0000',
  `authors` text collate utf8_unicode_ci,
  `title` text collate utf8_unicode_ci,
  `journal` varchar(255),
  `year` smallint unsigned,
  `volume` smallint unsigned,
  `firstpage` varchar(20),
  `doi` varchar(127),
  `duplicateof` mediumint(7) unsigned,
  `status` enum('none', 'warnings', 'errors', 'retracted'),
  PRIMARY KEY `file` (`file`)
);
"""


def cif(number: int, *, head: str = "", cation: str = "Na", edge: float = 3.4, sites: str = "") -> str:
    atoms = sites or f"{cation}1 {cation} 0 0 0 1\nCl1 Cl 0.5 0.5 0.5 1"
    formula = "" if sites else f"_chemical_formula_sum 'Cl {cation}'"
    return f"""data_{number}
{head}
{formula}
_symmetry_space_group_name_H-M 'P m -3 m'
_cell_length_a {edge}
_cell_length_b {edge}
_cell_length_c {edge}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_cod_database_code {number}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{atoms}
"""


def tree(root: Path, files: dict[int, str | bytes], ending: str = ".cif") -> Path:
    for number, text in files.items():
        digits = str(number)
        folder = root / "cif" / digits[0] / digits[1:3] / digits[3:5]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}{ending}").write_bytes(text.encode() if isinstance(text, str) else text)
    return root


def opened(root: Path | str) -> Source:
    return open_source(f"cod:{root}", vintage="2026-11")


def read(source: Source) -> tuple[dict[str, Material], dict[str, str]]:
    results = [one for item in source.items() for one in source.read(item)]
    materials = {r.id: r for r in results if isinstance(r, Material)}
    rejects = {r.id: r.reason for r in results if isinstance(r, Reject)}
    assert len(materials) + len(rejects) == len(results)
    return materials, rejects


def test_a_file_becomes_a_crystal_with_title_and_reference(tmp_path: Path) -> None:
    materials, rejects = read(opened(tree(tmp_path, {1000041: cif(1000041, head=HEAD)})))
    assert rejects == {}
    salt = materials["cod-1000041"]
    assert salt.modalities["text"].description == "Structure of α-NaCl and H2O at 10-3 bar in two lines"
    assert salt.modalities["text"].generated is False
    assert salt.provenance.reference == (
        "https://www.crystallography.net/cod/1000041.html; Graẑulis, S.; Müller, A. B.; Third, C. et al.; "
        "Acta Crystallographica Section B 42, 726 (2009); doi:10.1107/S0108768100000000"
    )
    assert (salt.provenance.source, salt.provenance.licence, salt.provenance.vintage) == ("cod", "CC0-1.0", "2026-11")
    assert salt.spacegroup_number == 221


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_flat_folders_zips_and_compressed_files_are_the_same(tmp_path: Path, pack: object) -> None:
    ending = ".cif.gz" if pack is gzip.compress else ".cif"
    files = {n: cif(n, edge=3.4 + n / 1e9) for n in (1000041, 1000042, 2000001, 9000001)}
    root = tree(tmp_path / "tree", {n: pack(text.encode()) for n, text in files.items()}, ending)  # type: ignore[operator]
    flat = tmp_path / "flat"
    flat.mkdir()
    with zipfile.ZipFile(tmp_path / "cod.zip", "w") as archive:
        for path in sorted(root.rglob("*.cif*")):
            archive.write(path, path.relative_to(root))
            (flat / path.name).write_bytes(path.read_bytes())
    expected = [f"cod-{n}" for n in files]
    for place in (root, root / "cif", flat, tmp_path / "cod.zip"):
        assert sorted(read(opened(place))[0]) == expected
    assert len(opened(flat).items()) == 1
    assert len(opened(root).items()) == 3


def test_a_folder_of_many_files_is_a_few_items(tmp_path: Path) -> None:
    for number in range(1_000_000, 1_001_500):
        (tmp_path / f"{number}.cif").touch()
    items = opened(tmp_path).items()
    assert [item.count for item in items] == [512, 512, 476]
    assert sorted(row for item in items for row in item.rows) == list(range(1_000_000, 1_001_500))


def test_deuterium_partial_sites_and_latin_1_are_read(tmp_path: Path) -> None:
    mixed = "Na1 Na 0 0 0 0.6\nK1 K 0 0 0 0.4\nD1 D 0.5 0.5 0.5 1"
    latin = cif(1000002, head="_publ_section_title 'Verfeinerung für Körner'").encode("latin-1")
    materials, rejects = read(opened(tree(tmp_path, {1000001: cif(1000001, sites=mixed), 1000002: latin})))
    assert rejects == {}
    crystal = materials["cod-1000001"].crystal
    assert not crystal.is_ordered
    assert crystal.composition == pytest.approx({1: 1.0, 11: 0.6, 19: 0.4})
    assert materials["cod-1000002"].modalities["text"].description == "Verfeinerung für Körner"


def test_every_block_with_sites_is_a_crystal(tmp_path: Path) -> None:
    text = f"data_global\n{HEAD}\n" + cif(7000001) + cif(7000002, cation="K", edge=3.6) + "data_end\n_cell_length_a 3\n"
    materials, rejects = read(opened(tree(tmp_path, {7000001: text})))
    assert rejects == {}
    assert {name: m.crystal.formula for name, m in materials.items()} == {
        "cod-7000001": "ClNa",
        "cod-7000001#2": "ClK",
    }
    assert len({m.modalities["text"].description for m in materials.values()}) == 1


def test_flags_of_the_database_refuse_or_stay_as_remarks(tmp_path: Path) -> None:
    files = {
        1000001: cif(1000001, head="_cod_error_flag retracted"),
        1000002: cif(1000002, head="_cod_error_flag errors"),
        1000003: cif(1000003, head="_[local]_cod_error_flag warnings\n_cod_duplicate_entry 1000041"),
    }
    materials, rejects = read(opened(tree(tmp_path, files)))
    assert rejects == {"cod-1000001": "retracted"}
    assert materials["cod-1000002"].remarks == ("the database marks the entry with errors",)
    assert materials["cod-1000003"].remarks == (
        "the database marks the entry with warnings",
        "the database marks the entry as a duplicate of 1000041",
    )


def test_what_else_lies_in_the_tree_is_refused_by_name(tmp_path: Path) -> None:
    files = {1000001: cif(1000001), 1000002: "", 1000003: "data_x\n_cell_length_a 3\n", 1000004: b"\x00\x01"}
    root = tree(tmp_path, files)
    (root / "1000001.cif").write_text(cif(1000001, cation="K"))
    (root / "notes.txt").write_text("x")
    (root / "0000001.cif").write_text(cif(1))
    for number in range(3):
        (root / "cif" / ".svn" / f"{number}").mkdir(parents=True)
        (root / "cif" / ".svn" / f"{number}" / "1000001.cif").write_text("x")
    materials, rejects = read(opened(root))
    assert [m.crystal.formula for m in materials.values()] == ["ClK"]
    assert rejects == {
        "cod-1000001": "duplicate-id",
        "cod-1000002": "empty-file",
        "cod-1000003": "no-structure",
        "cod-1000004": "not-text",
        "notes.txt": "unsupported-file",
        "0000001.cif": "unsupported-file",
        ".svn": "not-data",
    }
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match=r"no CIF such as 1000000\.cif"):
        opened(tmp_path / "empty").items()


def dump(root: Path) -> Path:
    (root / "mysql").mkdir()
    (root / "mysql" / "data.sql").write_text(SCHEMA)
    rows = [
        [
            "1000003",
            "3.4",
            "A, B.; C, D.",
            "Title with\\\ttab, \\\\ and\\\nnewline",
            "J",
            "1999",
            "7",
            "12",
            "\\N",
            "\\N",
        ],
        ["1000001", "3.4", "\\N", "From the table", "\\N", "\\N", "\\N", "\\N", "10.1/x", "1000041"],
        ["1000002", "3.4", "\\N", "\\N", "\\N", "\\N", "\\N", "\\N", "\\N", "\\N"],
    ]
    lines = ["\t".join([*row, "none"]) for row in rows] + ["too\tfew", "1000004\tends within\\"]
    lines[2] = lines[2].removesuffix("none") + "retracted"
    (root / "mysql" / "data.txt").write_text("\n".join(lines) + "\n")
    return root


def test_the_table_of_the_database_completes_what_files_leave_out(tmp_path: Path) -> None:
    files = {n: cif(n, head="_publ_section_title 'Own title'" if n == 1000001 else "") for n in range(1000001, 1000005)}
    materials, rejects = read(opened(dump(tree(tmp_path, files))))
    bad = f"of {tmp_path}/mysql/data.txt"
    assert rejects == {f"line 5 {bad}": "bad-row", f"line 6 {bad}": "bad-row", "cod-1000002": "retracted"}
    first, third, fourth = (materials[f"cod-{n}"] for n in (1000001, 1000003, 1000004))
    assert first.modalities["text"].description == "Own title"
    assert first.provenance.reference.endswith("1000001.html; doi:10.1/x")
    assert first.remarks == ("the database marks the entry as a duplicate of 1000041",)
    assert third.modalities["text"].description == "Title with tab, \\ and newline"
    assert third.provenance.reference.endswith("A, B.; C, D.; J 7, 12 (1999)")
    assert third.remarks == ()
    assert dict(fourth.modalities) == {}


def test_a_selection_from_the_web_page_is_read_too(tmp_path: Path) -> None:
    root = tree(tmp_path, {1000001: cif(1000001)})
    (root / "COD-selection.csv").write_text('file,a,title,year\n1000001,3.4,"Salt, refined",1920\n')
    materials, rejects = read(opened(root))
    assert rejects == {}
    assert materials["cod-1000001"].modalities["text"].description == "Salt, refined"


def test_a_dump_without_its_columns_is_refused(tmp_path: Path) -> None:
    root = dump(tree(tmp_path, {1000001: cif(1000001)}))
    (root / "mysql" / "data.sql").unlink()
    with pytest.raises(ConfigError, match=r"without mysql/data\.sql"):
        opened(root)


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        (r"Na~2~SO~4~\.10H~2~O", "Na2SO4\\.10H2O"),
        (r"\b-MnO~2~ by R\"ontgen", "β-MnO2 by Röntgen"),
        (r"\%Angstr\"om \/Orsted stra\&se", "ångström Ørsted straße"),
        ("two ~ marks and 5^ alone", "two ~ marks and 5^ alone"),
        ("<i>P</i>2~1~/c", "P21/c"),
        (r"Pb\,c and \W", "Pbç and Ω"),
    ],
)
def test_codes_of_cif_text_become_unicode(written: str, read_as: str) -> None:
    assert plain_text(written.replace(r"\%A", r"\%a")) == read_as


def test_real_files_give_their_titles_and_the_same_crystals_as_a_folder(tmp_path: Path) -> None:
    if not (DATA / "cif").is_dir():
        pytest.skip("needs the folder of real CIFs, shared/data/cif")
    files: dict[int, str] = {}
    for path in sorted((DATA / "cif").rglob("*.cif")):
        text = path.read_text(encoding="utf-8", errors="replace")
        code = re.search(r"^_(?:\[local\]_)?cod_database_code\s+([1-9]\d{6})\b", text, re.MULTILINE)
        if code:
            files.setdefault(int(code[1]), text)
    files = dict(sorted(files.items())[:60])
    assert len(files) == 60
    materials, rejects = read(opened(tree(tmp_path, files)))
    assert len(materials) + len(rejects) >= len(files)
    plain = open_source(str(tmp_path / "cif"))
    expected = {one.id.rpartition("/")[2]: one for item in plain.items() for one in plain.read(item)}
    for name, material in materials.items():
        other = expected[name.removeprefix("cod-")]
        assert isinstance(other, Material)
        assert material.crystal.formula == other.crystal.formula
        assert material.crystal.frac_coords.tolist() == other.crystal.frac_coords.tolist()
    titled = [n for n, text in files.items() if "_publ_section_title" in text and f"cod-{n}" in materials]
    assert len(titled) > 40
    for number in titled:
        title = next(iter(publications(files[number]).values())).title
        assert materials[f"cod-{number}"].modalities["text"].description == title
        assert len(title) > 10
