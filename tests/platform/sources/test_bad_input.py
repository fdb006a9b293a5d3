"""Every broken input becomes a reject with its reason, and the good files beside it are read."""

from __future__ import annotations

import gzip
import io
import json
import signal
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from crystalign.errors import FileFormatError
from crystalign.limits import Limits, time_limit
from crystalign.material import Material, Provenance
from crystalign.readers.structures.structure_file import crystal_from_cif
from crystalign.rejects import Reject
from crystalign.sources import Item, Source, open_source

NACL = """data_NaCl
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""
SITES = "Na1 Na 0 0 0\nNa2 Na 0.5 0.5 0\nCl1 Cl 0.5 0 0\nCl2 Cl 0 0.5 0\n"
GOOD = NACL + SITES


def large_cif(n: int = 18) -> str:
    """n³ sites, 5,832 by default."""
    cell = NACL.replace("5.64", str(3.0 * n))
    sites = [f"Na{i} Na {i % n / n} {i // n % n / n} {i // n**2 / n}" for i in range(n**3)]
    return cell + "\n".join(sites) + "\n"


BAD = {
    "truncated.cif": (GOOD[: GOOD.index("_atom_site_fract_y")], "no-fractional-coordinates"),
    "nan_lattice.cif": (GOOD.replace("_cell_length_b 5.64", "_cell_length_b nan"), None),
    "overlap.cif": (NACL + "Na1 Na 0 0 0\nCl1 Cl 0.02 0 0\n", "overlapping-atoms"),
    "unknown_element.cif": (NACL + "Qq1 Qq 0 0 0\nCl1 Cl 0.5 0 0\n", None),
    "empty.cif": ("", "empty-file"),
    "large.cif": (large_cif(), "too-many-sites"),
    "readme.txt": ("not a crystal", "unsupported-file"),
}


def read_all(source: Source) -> tuple[dict[str, Material], dict[str, Reject]]:
    materials, rejects = {}, {}
    for item in source.items():
        for found in source.read(item):
            (rejects if isinstance(found, Reject) else materials)[found.id] = found
    return materials, rejects


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "crystals"
    (root / "deeper").mkdir(parents=True)
    (root / "good.cif").write_text(GOOD)
    (root / "deeper" / "POSCAR").write_text(crystal_from_cif(GOOD).to_poscar())
    for name, (text, _) in BAD.items():
        (root / name).write_text(text)
    return root


@pytest.fixture(params=["folder", "zip", "tar.gz"])
def location(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> str:
    """The same files as a folder, a zip and a tar."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "crystals.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                archive.write(path, path.relative_to(folder))
    if request.param == "tar.gz":
        with tarfile.open(tmp_path / "crystals.tar.gz", "w:gz") as archive:
            for path in files:
                archive.add(path, str(path.relative_to(folder)))
    return str(folder if request.param == "folder" else tmp_path / f"crystals.{request.param}")


def test_broken_files_are_rejected_with_their_reason_and_good_ones_are_read(location: str) -> None:
    materials, rejects = read_all(open_source(location, licence="CC0-1.0"))
    assert set(materials) == {"good", "deeper/POSCAR"}
    assert len(rejects) == len(BAD)
    for name, (_, reason) in BAD.items():
        reject = next(r for r in rejects.values() if name in r.origin)
        assert reject.reason
        assert reject.message
        if reason is not None:
            assert reject.reason == reason, reject


def test_a_read_material_carries_provenance_and_symmetry(folder: Path) -> None:
    materials, _ = read_all(open_source(str(folder), licence="CC0-1.0", name="mine", vintage="2020"))
    good = materials["good"]
    assert good.provenance == Provenance("mine", "CC0-1.0", "2020", "good.cif")
    assert good.spacegroup_number is not None
    assert good.prototype


def zip_of(tmp_path: Path, members: dict[str, bytes]) -> str:
    path = tmp_path / "stranger.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return str(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = zip_of(tmp_path, {"bomb.cif": bytes(64 << 20), "good.cif": GOOD.encode()})
    materials, rejects = read_all(open_source(bomb))
    assert set(materials) == {"good"}
    assert [r.reason for r in rejects.values()] == ["compression-bomb"]


def test_a_zip_that_lies_about_sizes_is_read_within_the_limit(tmp_path: Path) -> None:
    path = Path(zip_of(tmp_path, {"lie.cif": b"x" * 300_000}))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature) + offset
        data[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    materials, rejects = read_all(open_source(str(path), limits=Limits(max_structure_bytes=1000)))
    assert not materials
    assert len(rejects) == 1


def test_a_zip_within_and_names_that_lead_out_are_refused(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("good.cif", GOOD)
    members = {"inner.zip": inner.getvalue(), "../../etc/evil.cif": GOOD.encode(), "/abs.cif": GOOD.encode()}
    materials, rejects = read_all(open_source(zip_of(tmp_path, members)))
    assert not materials
    assert sorted(r.reason for r in rejects.values()) == ["nested-archive", "unsafe-path", "unsafe-path"]


def test_an_archive_has_a_limit_of_members_and_of_bytes(tmp_path: Path) -> None:
    path = zip_of(tmp_path, {f"{i}.cif": GOOD.encode() for i in range(4)})
    materials, rejects = read_all(open_source(path, limits=Limits(max_members=2)))
    assert (len(materials), {r.reason for r in rejects.values()}) == (2, {"archive-too-large"})
    materials, rejects = read_all(open_source(path, limits=Limits(max_total_bytes=3 * len(GOOD))))
    assert (len(materials), len(rejects)) == (3, 1)


def test_a_truncated_zip_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = Path(zip_of(tmp_path, {"good.cif": GOOD.encode()}))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FileFormatError, match="not a complete zip"):
        open_source(str(path)).items()


def test_a_truncated_tar_gives_what_came_before_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "cut.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a.cif", "b.cif"):
            info = tarfile.TarInfo(name)
            info.size = len(GOOD)
            archive.addfile(info, io.BytesIO(GOOD.encode()))
    member = 512 + 512 * -(-len(GOOD) // 512)
    path.write_bytes(path.read_bytes()[: member + 512 + 100])
    materials, rejects = read_all(open_source(str(path)))
    assert set(materials) == {"a"}
    assert rejects


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "link.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("link.cif")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    materials, rejects = read_all(open_source(str(path)))
    assert not materials
    assert [r.reason for r in rejects.values()] == ["not-a-file"]


def test_a_tar_bomb_stops_the_listing(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number in range(8):
            info = tarfile.TarInfo(f"{number}.cif")
            info.size = 8 << 20
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    _, rejects = read_all(open_source(str(path)))
    assert "compression-bomb" in {r.reason for r in rejects.values()}


def test_a_gzip_bomb_is_unpacked_no_further_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "bomb.cif.gz").write_bytes(gzip.compress(bytes(64 << 20)))
    (tmp_path / "good.cif.gz").write_bytes(gzip.compress(GOOD.encode()))
    materials, rejects = read_all(open_source(str(tmp_path)))
    assert set(materials) == {"good"}
    assert [r.reason for r in rejects.values()] == ["too-large"]


def test_files_of_one_stem_are_materials_of_different_ids(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(GOOD)
    (tmp_path / "a.vasp").write_text(crystal_from_cif(GOOD).to_poscar())
    materials, rejects = read_all(open_source(str(tmp_path)))
    assert set(materials) == {"a", "a.vasp"}
    assert not rejects


def test_every_block_of_a_cif_is_a_material(tmp_path: Path) -> None:
    (tmp_path / "two.cif").write_text("data_global\n_journal_year 2000\n" + GOOD + GOOD.replace("NaCl", "again"))
    materials, rejects = read_all(open_source(str(tmp_path)))
    assert set(materials) == {"two", "two#2"}
    assert not rejects


def test_one_bad_block_does_not_lose_the_others(tmp_path: Path) -> None:
    (tmp_path / "two.cif").write_text(NACL + "Na1 Na 0 0 0\nCl1 Cl 0.02 0 0\n" + GOOD)
    materials, rejects = read_all(open_source(str(tmp_path)))
    assert set(materials) == {"two#2"}
    assert set(rejects) == {"two"}


class Slow(Source):
    """A source whose second entry never ends, and swallows exceptions as careless parsers do."""

    def items(self) -> list[Item]:
        return [Item(key="slow")]

    def load(self, item: Item) -> Iterator[Material | Reject]:
        yield Material("quick", crystal_from_cif(GOOD), Provenance("test", "CC0-1.0"))
        while True:
            try:
                time.sleep(0.01)
            except Exception:  # noqa: BLE001
                continue


def test_an_entry_that_never_ends_is_given_up_and_what_came_before_is_kept() -> None:
    materials, rejects = read_all(Slow(Limits(max_seconds=5.0)))
    assert set(materials) == {"quick"}
    assert rejects["slow"].reason == "too-slow"


def test_a_clock_that_ran_before_goes_on_afterwards() -> None:
    before = signal.setitimer(signal.ITIMER_REAL, 1000.0)
    try:
        with time_limit(5.0, "nothing"):
            pass
        left = signal.getitimer(signal.ITIMER_REAL)[0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
    assert 0 < left <= 1000.0


def test_a_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    materials, rejects = read_all(open_source(str(path)))
    assert not materials
    assert [r.reason for r in rejects.values()] == ["too-nested"]


def test_json_is_never_decoded_into_the_classes_it_names(tmp_path: Path) -> None:
    evil = {"@module": "os", "@class": "system", "lattice": {"matrix": [[1, 0, 0]] * 3}, "sites": []}
    path = tmp_path / "evil.json"
    path.write_text(json.dumps([evil]))
    materials, rejects = read_all(open_source(str(path)))
    assert not materials
    assert len(rejects) == 1
