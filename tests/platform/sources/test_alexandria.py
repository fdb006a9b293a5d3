"""Alexandria's files are streamed; every entry becomes a material or a reject, also in broken files."""

from __future__ import annotations

import bz2
import copy
import functools
import gzip
import itertools
import json
import math
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import ConfigError, FileFormatError
from crystalign.limits import Limits
from crystalign.material import Material
from crystalign.properties import Quantity
from crystalign.readers.structures.json_stream import list_entries
from crystalign.rejects import Reject
from crystalign.sources import Source, alexandria, open_source
from crystalign.sources.source import sample

PAIRS = list(itertools.product(["Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr"], ["F", "Cl", "Br", "I", "O", "S", "Se"]))


@functools.cache
def template() -> str:
    """An entry as pymatgen's `ComputedStructureEntry.as_dict` writes it."""
    from pymatgen.core import Lattice, Structure
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    structure = Structure(
        Lattice.cubic(4.2), ["Li", "F"], [[0, 0, 0], [0.5] * 3], site_properties={"magmom": [0.0, 0.1]}
    )
    return json.dumps(ComputedStructureEntry(structure, -7.5, data={}, entry_id="agm").as_dict())


def entry(number: int, **data: Any) -> dict[str, Any]:
    """An entry with the fields that Alexandria's have under `data`."""
    cation, anion = PAIRS[number % len(PAIRS)]
    made = json.loads(template().replace('"Li"', f'"{cation}"').replace('"F"', f'"{anion}"'))
    known = {
        "mat_id": f"agm{number:09d}",
        "prototype_id": "cs-cl",
        "spg": 221,
        "formula": f"{cation}{anion}",
        "nsites": 2,
        "energy_total": -7.5,
        "energy_corrected": -15.0,
        "e_form": -1.25,
        "e_above_hull": 0.03,
        "band_gap_ind": 2.5,
        "band_gap_dir": 3.5,
        "total_mag": -3.0,
        "dos_ef": 0.5,
        "stress": [[0.0] * 3] * 3,
    }
    return made | {"data": known | data, "entry_id": known["mat_id"]}


def text_of(entries: Sequence[Any]) -> bytes:
    return json.dumps({"entries": list(entries)}).encode()


def write(folder: Path, entries: Sequence[Any], name: str = "alexandria_000.json.bz2") -> Path:
    folder.mkdir(exist_ok=True)
    pack = {".bz2": bz2.compress, ".gz": gzip.compress}.get(Path(name).suffix, bytes)
    (folder / name).write_bytes(pack(text_of(entries)))
    return folder


def opened(place: Path | str, **settings: Any) -> Source:
    return open_source(f"alexandria:{place}", vintage="2025.07", **settings)


def read(source: Source) -> tuple[list[Material], list[Reject]]:
    results = [one for item in source.items() for one in source.read(item)]
    return [r for r in results if isinstance(r, Material)], [r for r in results if isinstance(r, Reject)]


def test_an_entry_becomes_a_material_with_its_labels_per_atom(tmp_path: Path) -> None:
    (material,), rejects = read(opened(write(tmp_path / "a", [entry(7)])))
    assert rejects == []
    assert material.id == "agm000000007"
    assert (material.provenance.source, material.provenance.licence) == ("alexandria", "CC-BY-4.0")
    assert material.spacegroup_number == 221
    assert {(spec.quantity, spec.method, spec.source, spec.vintage) for spec in material.properties} == {
        (quantity, "pbe", "alexandria", "2025.07")
        for quantity in (
            Quantity.ENERGY_PER_ATOM,
            Quantity.FORMATION_ENERGY_PER_ATOM,
            Quantity.ENERGY_ABOVE_HULL,
            Quantity.BAND_GAP,
            Quantity.TOTAL_MAGNETIZATION_PER_ATOM,
            Quantity.DOS_AT_FERMI_PER_ATOM,
        )
    }
    assert {spec.quantity: value for spec, value in material.properties.items()} == {
        Quantity.ENERGY_PER_ATOM: -7.5,
        Quantity.FORMATION_ENERGY_PER_ATOM: -1.25,
        Quantity.ENERGY_ABOVE_HULL: 0.03,
        Quantity.BAND_GAP: 2.5,
        Quantity.TOTAL_MAGNETIZATION_PER_ATOM: 1.5,
        Quantity.DOS_AT_FERMI_PER_ATOM: 0.25,
    }


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("alexandria_011.json.bz2", "pbe"),
        ("alexandria_ps_000.json.bz2", "pbesol"),
        ("alexandria_scan_003.json.gz", "scan"),
        ("alexandria_000.json", "pbe"),
    ],
)
def test_the_name_of_the_file_tells_the_functional(tmp_path: Path, name: str, method: str) -> None:
    folder = write(tmp_path / "a", [entry(0)], name)
    for place in (folder, folder / name):
        source = opened(place)
        (material,), _ = read(source)
        assert {spec.method for spec in source.properties()} == {method}
        assert set(material.properties) == set(source.properties())


def test_functionals_layers_and_other_files_do_not_mix(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", [entry(0)])
    (folder / "README.txt").write_text("about")
    assert [(r.id, r.reason) for r in read(opened(folder))[1]] == [("README.txt", "unsupported-file")]
    write(folder, [entry(0)], "alexandria_scan_000.json.bz2")
    with pytest.raises(ConfigError, match="files of pbe and scan; ingest the files of one functional"):
        opened(folder)
    with pytest.raises(ConfigError, match="layers in 15 Å of vacuum"):
        opened(write(tmp_path / "b", [entry(0)], "alexandria_2d_000.json.bz2"))
    with pytest.raises(ConfigError, match="no file such as alexandria_000"):
        opened(write(tmp_path / "c", [entry(0)], "other.json"))


def test_values_that_are_no_numbers_stay_unknown(tmp_path: Path) -> None:
    odd = entry(0, e_form=math.nan, e_above_hull=math.inf, band_gap_ind=None, total_mag="3", dos_ef=True)
    assert b"NaN" in text_of([odd])
    assert b"Infinity" in text_of([odd])
    (material, other), rejects = read(opened(write(tmp_path / "a", [odd, entry(1)])))
    assert rejects == []
    assert [spec.quantity for spec in material.properties] == [Quantity.ENERGY_PER_ATOM]
    assert len(other.properties) == 6


def test_a_bad_entry_does_not_stop_the_following_ones(tmp_path: Path) -> None:
    without_structure, without_id, no_document, overlapping, endless = (copy.deepcopy(entry(n)) for n in range(1, 6))
    without_structure["structure"] = None
    del without_id["data"]["mat_id"]
    overlapping["structure"]["sites"][1] |= {"abc": [0.01, 0, 0], "xyz": None}
    endless["structure"]["lattice"]["matrix"][0][0] = math.nan
    entries = [entry(0), without_structure, without_id, 17, "text", overlapping, endless, no_document, entry(9)]
    materials, rejects = read(opened(write(tmp_path / "a", entries)))
    assert [m.id for m in materials] == ["agm000000000", "agm000000003", "agm000000009"]
    assert [(r.id, r.reason) for r in rejects[:4]] == [
        ("agm000000001", "no-structure"),
        ("alexandria_000.json.bz2 entry 2", "no-id"),
        ("alexandria_000.json.bz2 entry 3", "no-id"),
        ("alexandria_000.json.bz2 entry 4", "no-id"),
    ]
    assert [r.id for r in rejects[4:]] == ["agm000000004", "agm000000005"]
    assert rejects[4].reason == "overlapping-atoms"


@pytest.mark.parametrize("share", [0.35, 0.7, 0.95])
def test_of_a_truncated_file_everything_before_the_end_is_kept(tmp_path: Path, share: float) -> None:
    entries = [entry(n, noise=np.random.default_rng(n).random(700).tolist()) for n in range(250)]
    packed = bz2.compress(text_of(entries))
    kept = packed[: int(share * len(packed))]
    whole = bz2.BZ2Decompressor().decompress(kept)  # complete blocks only
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "alexandria_000.json.bz2").write_bytes(kept)
    materials, rejects = read(opened(folder))
    complete = whole.count(b'"@class": "ComputedStructureEntry"') - 1
    assert abs(len(materials) - complete) <= 1
    assert len(materials) > 20
    assert [m.id for m in materials] == [f"agm{n:09d}" for n in range(len(materials))]
    assert [(r.id, r.reason) for r in rejects] == [
        (f"alexandria_000.json.bz2 after entry {len(materials) - 1}", "truncated")
    ]


def test_damage_and_broken_json_lose_what_follows_and_say_so(tmp_path: Path) -> None:
    text = text_of([entry(0), entry(1), entry(2)])
    broken = {
        "comma": (text.replace(b'"mat_id": "agm000000001"', b'"mat_id" "agm000000001"'), 1, "unreadable-json"),
        "cut": (text[: len(text) - 40], 2, "truncated"),
        "nested": (text.replace(b'"spg": 221', b'"spg": ' + b"[" * 200_000, 1), 0, "too-nested"),
        "no list": (b'{"results": []}', 0, "unreadable-json"),
        "empty": (b"", 0, "unreadable-json"),
        "not json": (b"<html>not found</html>", 0, "unreadable-json"),
    }
    for name, (data, kept, reason) in broken.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "alexandria_000.json").write_bytes(data)
        materials, rejects = read(opened(folder))
        assert [m.id for m in materials] == [f"agm{n:09d}" for n in range(kept)], name
        assert len(rejects) == 1, name
        if name != "cut":
            assert rejects[0].reason == reason, name
    damaged = bytearray(bz2.compress(text))
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / "alexandria_000.json.bz2").write_bytes(damaged)
    materials, rejects = read(opened(tmp_path / "alexandria_000.json.bz2"))
    assert (materials, [r.reason for r in rejects]) == ([], ["damaged"])


def test_an_entry_or_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    long = entry(1, comment="x" * 4_000_000)
    limits = Limits(max_structure_bytes=1_000_000)
    materials, rejects = read(opened(write(tmp_path / "a", [entry(0), long, entry(2)]), limits=limits))
    assert [m.id for m in materials] == ["agm000000000"]
    assert [r.reason for r in rejects] == ["too-large"]
    bomb = b'{"entries": [' + b" " * (50 << 20)
    (tmp_path / "alexandria_000.json.bz2").write_bytes(bz2.compress(bomb))
    materials, rejects = read(opened(tmp_path / "alexandria_000.json.bz2"))
    assert [r.reason for r in rejects] == ["too-large"]


def test_the_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    one = json.dumps(entry(0, comment="x" * 20_000)).encode()

    def peak(count: int) -> int:
        path = tmp_path / f"{count}" / "alexandria_000.json.bz2"
        path.parent.mkdir()
        with bz2.open(path, "wb", compresslevel=1) as stream:
            stream.write(b'{"entries": [' + one)
            for _ in range(count - 1):
                stream.write(b", " + one)
            stream.write(b"]}")
        source = opened(path, limits=Limits(max_compression_ratio=1e6))
        (item,) = source.items()
        tracemalloc.start()
        assert sum(1 for _ in source.load(item)) == count
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    peak(10)  # imports
    assert peak(1000) < 1.2 * peak(250) < 0.4 * 1000 * len(one)


def test_a_sample_takes_a_share_of_each_file_and_is_repeatable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alexandria, "BYTES_PER_ENTRY", 10)  # these entries compress better than real ones
    for number in range(3):
        start = 300 * number
        write(tmp_path / "a", [entry(n) for n in range(start, start + 300)], f"alexandria_00{number}.json.bz2")
    source = opened(tmp_path / "a", seed=3)
    items = source.items()
    weight = sum(item.count for item in items)
    chosen = sample(items, weight // 4, 0)
    drawn = [[one.id for item in chosen for one in source.read(item)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert 180 < len(drawn[0]) < 270
    assert all(any(name in {f"agm{n:09d}" for n in range(s, s + 300)} for name in drawn[0]) for s in (0, 300, 600))
    assert sum(item.count for item in chosen) == pytest.approx(weight // 4, abs=3)


def test_entries_of_any_length_are_cut_right_at_any_boundary_of_pieces() -> None:
    entries = [{"a": "é]},[{" * n, "b": [1.5, None, {"c": n}]} for n in range(40)] + [12345, "text", -0.5]
    text = json.dumps({"version": 1, "entries": entries}, ensure_ascii=False).encode()
    for size in (1, 2, 3, 7, 64, 100_000):
        pieces = iter([text[start : start + size] for start in range(0, len(text), size)])
        assert list(list_entries(pieces, "entries", limit=10_000, name="x")) == entries


def test_entries_before_a_break_are_kept_when_pieces_are_small() -> None:
    text = json.dumps({"entries": [{"n": n} for n in range(30)]}).encode()
    stop = text.index(b'{"n": 20}') + 4

    def pieces() -> Iterator[bytes]:
        yield from (text[start : min(start + 5, stop)] for start in range(0, stop, 5))
        raise FileFormatError("the disk broke", reason="truncated")

    read_before: list[Any] = []
    with pytest.raises(FileFormatError, match="the disk broke"):
        read_before.extend(list_entries(pieces(), "entries", limit=1000, name="x"))
    assert read_before == [{"n": n} for n in range(20)]


def test_the_structure_is_that_of_pymatgen(tmp_path: Path) -> None:
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    written = entry(3)
    (material,), _ = read(opened(write(tmp_path / "a", [written])))
    expected = Crystal.from_pymatgen(ComputedStructureEntry.from_dict(written).structure)
    np.testing.assert_allclose(material.crystal.lattice, expected.lattice)
    np.testing.assert_allclose(material.crystal.frac_coords, expected.frac_coords)
    assert material.crystal.atomic_numbers.tolist() == expected.atomic_numbers.tolist()
