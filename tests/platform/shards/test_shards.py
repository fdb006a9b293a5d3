"""Datasets: every row and modality comes back; nothing that is broken passes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dataset_race
from crystalign import storage
from crystalign.crystal import Crystal
from crystalign.errors import ConfigError, ConflictError, DatasetError, VerificationError
from crystalign.material import Material, Provenance
from crystalign.modalities import NAMES, modality_class
from crystalign.modalities.charge_density import ChargeDensity
from crystalign.modalities.composition import Composition
from crystalign.modalities.text import Text
from crystalign.properties import PropertySpec, Quantity
from crystalign.rejects import Reject
from crystalign.shards.dataset import Dataset
from crystalign.shards.manifest import MANIFEST, Manifest
from crystalign.shards.schema import SCHEMA_VERSION
from crystalign.shards.splits import SplitRule, fraction
from crystalign.shards.writer import commit_manifest, write_quarantine, write_shard

GAP = PropertySpec(quantity=Quantity.BAND_GAP, method="pbe", source="test", vintage="2026")
PIXELS = "rgb"
"""Field of a column whose bytes are stored as they are; other bytes are half-precision numbers."""


def material(i: int, *, heavy: bool = False) -> Material:
    rng = np.random.default_rng(i)
    crystal = Crystal(np.eye(3) * 6 + rng.normal(size=(3, 3)) * 0.1, rng.random((4, 3)), rng.integers(1, 90, 4))
    modalities: dict[str, object] = {}
    if i % 2:
        modalities["text"] = Text(f"crystal number {i}", generated=True)
    if i % 3 == 0:
        modalities["composition"] = Composition.of(crystal)
    if heavy:
        modalities["charge_density"] = ChargeDensity(rng.random((32, 32, 32)), crystal.lattice, pseudo=True)
    properties = {GAP: float(i)} if i % 5 else {}
    prototype = f"A:{i}:a" if i % 4 else None
    return Material(f"m-{i}", crystal, Provenance("test", "CC0-1.0", "2026"), modalities, properties, 1, prototype)


def dataset(uri: str, n: int = 40, shards: int = 2) -> Dataset:
    rows = [material(i, heavy=i == 1) for i in range(n)]
    parts = np.array_split(np.arange(n), shards)
    entries = [
        write_shard(uri, f"{k:05d}", [rows[i] for i in part], [GAP], rows_per_group=8) for k, part in enumerate(parts)
    ]
    rejects = [Reject("bad", "read", "unreadable-cif", "no atoms", "bad.cif")]
    quarantine = [write_quarantine(uri, "00000", rejects)]
    commit_manifest(uri, entries, [GAP], quarantine=quarantine, quarantined=1)
    return Dataset.open(uri)


@pytest.fixture
def stored(base: str) -> Dataset:
    return dataset(base)


def test_every_row_comes_back_with_what_it_has_and_without_what_it_has_not(stored: Dataset) -> None:
    back = list(stored.materials(modalities=["text", "composition", "charge_density"]))
    assert [m.id for m in back] == [f"m-{i}" for i in range(40)]
    for i, m in enumerate(back):
        expected = material(i, heavy=i == 1)
        assert np.array_equal(m.crystal.lattice, expected.crystal.lattice)
        assert np.array_equal(m.crystal.frac_coords, expected.crystal.frac_coords)
        assert np.array_equal(m.crystal.atomic_numbers, expected.crystal.atomic_numbers)
        assert set(m.modalities) == set(expected.modalities)
        assert m.value("text") == expected.value("text")
        assert m.properties == expected.properties
        assert (m.provenance, m.prototype) == (expected.provenance, expected.prototype)
    stored.verify()


def test_all_six_modalities_survive_the_file(base: str, synthetic_materials: Callable[[int], list[Material]]) -> None:
    rows = synthetic_materials(12)
    for i, name in enumerate([n for n in NAMES if n != "crystal"]):
        rows[i] = replace(rows[i], modalities={k: v for k, v in rows[i].modalities.items() if k != name})
    commit_manifest(base, [write_shard(base, "0", rows, rows_per_group=5)])
    back = list(Dataset.open(base).materials(modalities=NAMES))
    assert [set(m.modalities) for m in back] == [set(m.modalities) for m in rows]
    for before, after in zip(rows, back, strict=True):
        for name in NAMES:
            cls = modality_class(name)
            if before.value(name) is not None:
                stored, again = (pa.scalar(cls.to_column(m.value(name)), cls.column_type()) for m in (before, after))
                assert_alike(stored.as_py(), again.as_py())


def assert_alike(a: object, b: object) -> None:
    """Equal, but for the rounding to the precision of the column."""
    if isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys()
        assert a.get(PIXELS) == b.get(PIXELS)
        for key in a.keys() - {PIXELS}:
            assert_alike(a[key], b[key])
    elif isinstance(a, bytes) and isinstance(b, bytes):
        assert np.allclose(np.frombuffer(a, "<f2"), np.frombuffer(b, "<f2"), atol=2e-3)
    elif isinstance(a, list | float):
        assert np.allclose(a, b, rtol=2e-3, atol=1e-6)  # type: ignore[arg-type]
    else:
        assert a == b


def test_the_manifest_counts_what_is_there(stored: Dataset) -> None:
    manifest = stored.manifest
    assert manifest.rows == 40
    assert manifest.modalities == {"crystal": 40, "text": 20, "composition": 14, "charge_density": 1}
    assert manifest.property_counts == {GAP.column: 32}
    assert [(s.name, s.licence, s.rows) for s in manifest.sources] == [("test", "CC0-1.0", 40)]
    assert stored.quarantine().to_pylist()[0]["reason"] == "unreadable-cif"


def test_heavy_modalities_are_in_files_of_their_own(stored: Dataset) -> None:
    assert [sorted(s.siblings) for s in stored.manifest.shards] == [["charge_density"], []]
    assert "charge_density" not in stored.read(0, columns=None).column_names
    assert stored.material(0, 1).value("charge_density") is not None
    assert stored.material(1, 3).id == "m-23"


def test_positions_in_the_light_table_lead_to_the_material(stored: Dataset) -> None:
    table = stored.table(["id", "formula"]).to_pylist()
    for row in (table[0], table[7], table[8], table[17], table[39]):  # 7 and 8 are in different row groups
        assert stored.material(row["shard"], row["row"]).id == row["id"]


def test_a_dataset_without_a_manifest_does_not_exist(tmp_path: Path) -> None:
    uri = str(tmp_path / "data")
    write_shard(uri, "00000", [material(0)])
    with pytest.raises(DatasetError, match="no dataset at"):
        Dataset.open(uri)


def test_a_manifest_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = dataset(str(tmp_path))
    monkeypatch.setattr("crystalign.shards.manifest.LIMIT", 1000)
    with pytest.raises(DatasetError, match=r"cannot be opened: .* at most 1000"):
        Dataset.open(stored.uri)


def test_an_unknown_version_and_an_unknown_field_are_refused(tmp_path: Path) -> None:
    stored = dataset(str(tmp_path / "data"))
    path = tmp_path / "data" / MANIFEST
    text = path.read_text()
    path.write_text(text.replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'))
    with pytest.raises(DatasetError, match="schema version 99"):
        Dataset.open(stored.uri)
    path.write_text(text.replace('"created"', '"surprise": 1, "created"'))
    with pytest.raises(DatasetError, match="surprise"):
        Dataset.open(stored.uri)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["shards"][0].update(rows=-5), "rows"),
        (lambda m: m["shards"][0].update(rows=10**30), "do not add up"),
        (lambda m: m["shards"][0].update(row_groups=[]), "do not add up"),
        (lambda m: m["shards"][0]["counts"].update(crystal=10**6), "exceeds"),
        (lambda m: m["shards"][0].update(path="../elsewhere/shards/a.parquet"), "not a path below"),
        (lambda m: m["shards"][0].update(path="/etc/passwd"), "not a path below"),
        (lambda m: m["shards"][0].update(groups={"path": "../g", "bytes": 1, "sha256": ""}), "not a path below"),
        (lambda m: m.update(shards=[]), "shards"),
        (lambda m: m.update(modalities={"crystal": -4}), "modalities"),
    ],
)
def test_a_manifest_that_contradicts_itself_or_leaves_its_folder_is_refused(tmp_path: Path, change, message) -> None:
    stored = dataset(str(tmp_path / "data"))
    path = tmp_path / "data" / MANIFEST
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=message):
        Dataset.open(stored.uri)


def test_one_changed_byte_is_found(tmp_path: Path) -> None:
    stored = dataset(str(tmp_path / "data"))
    path = tmp_path / "data" / stored.manifest.shards[1].path
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(VerificationError, match=path.name):
        stored.verify()


def test_a_missing_and_a_foreign_shard_are_errors(tmp_path: Path) -> None:
    stored = dataset(str(tmp_path / "data"))
    first, second = (tmp_path / "data" / s.path for s in stored.manifest.shards)
    second.write_bytes(first.read_bytes())
    first.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        stored.read(0)
    with pytest.raises(DatasetError, match=rf"manifest says {stored.manifest.shards[1].bytes}: it was replaced"):
        stored.read(1)


def test_row_groups_that_are_not_those_of_the_manifest_are_an_error(tmp_path: Path) -> None:
    entry = write_shard(str(tmp_path), "0", [material(i) for i in range(12)], rows_per_group=8)
    commit_manifest(str(tmp_path), [entry.model_copy(update={"row_groups": (4, 8)})])
    with pytest.raises(DatasetError, match=r"\(8, 4\) rows, its manifest says \(4, 8\)"):
        Dataset.open(str(tmp_path)).read(0)


def test_a_column_that_is_not_there_is_an_error_that_names_those_that_are(stored: Dataset) -> None:
    with pytest.raises(DatasetError, match=rf"no column 'band_gap'; it has id, .*{GAP.column}"):
        stored.table(["id", "band_gap"])


def test_a_modality_nobody_has_is_a_column_of_nulls(stored: Dataset) -> None:
    for name in ("dos", "charge_density"):
        assert stored.read(1, columns=["id", name]).column(name).null_count == 20


def test_what_is_present_is_known_without_reading_it(stored: Dataset) -> None:
    for name in NAMES:
        for shard in (0, 1):
            expected = stored.read(shard, columns=[name]).column(name).is_valid().to_pylist()
            assert stored.has(shard, name).tolist() == expected
    assert stored.has(0, "charge_density").tolist() == [i == 1 for i in range(20)]


def test_an_id_may_stand_only_once(tmp_path: Path) -> None:
    entries = [write_shard(str(tmp_path), name, [material(3)]) for name in ("a", "b")]
    with pytest.raises(DatasetError, match="'m-3' occurs twice"):
        commit_manifest(str(tmp_path), entries)


def test_of_two_processes_that_write_one_dataset_one_wins_and_its_files_stay(tmp_path: Path) -> None:
    command = [sys.executable, dataset_race.__file__, str(tmp_path)]
    players = [subprocess.Popen([*command, name, "20"], stdout=subprocess.PIPE, text=True) for name in ("one", "other")]
    told = [player.communicate(timeout=200)[0].splitlines() for player in players]
    assert [player.returncode for player in players] == [0, 0]
    assert [len(lines) for lines in told] == [40, 40]
    for pair in zip(*told, strict=True):
        assert sorted(line.rpartition(" ")[2] for line in pair) == ["lost", "won"]
    for number in range(20):
        stored = Dataset.open(str(tmp_path / f"data-{number}"))
        stored.verify()
        winner = "one" if told[0][2 * number + 1].endswith("won") else "other"
        assert [material.id for material in stored.materials()] == [f"{winner}-second-{n}" for n in range(5)]


def test_a_manifest_is_swapped_by_who_knows_it(tmp_path: Path) -> None:
    stored = dataset(str(tmp_path / "data"))
    version = Manifest.version(stored.uri)
    with pytest.raises(ConflictError, match="another job made a dataset there"):
        commit_manifest(stored.uri, stored.manifest.shards[:1], stored.manifest.properties)
    smaller = commit_manifest(stored.uri, stored.manifest.shards[:1], stored.manifest.properties, expected=version)
    with pytest.raises(ConflictError, match="another job changed or deleted the dataset"):
        commit_manifest(stored.uri, stored.manifest.shards, stored.manifest.properties, expected=version)
    with pytest.raises(ConflictError, match="another job changed or deleted the dataset"):
        stored.manifest.write(stored.uri, expected=version)
    assert Manifest.read(stored.uri) == smaller


def test_files_of_one_name_and_other_content_stand_beside_each_other(tmp_path: Path) -> None:
    one, other = (write_shard(str(tmp_path), "a", [material(n)]) for n in (0, 1))
    assert one == write_shard(str(tmp_path), "a", [material(0)])
    assert one.path != other.path
    for entry in (one, other):
        storage.verify(str(tmp_path / entry.path), entry)
    quarantine = {write_quarantine(str(tmp_path), "a", [Reject("x", "read", "y", z, "")]).path for z in "ab"}
    assert len(quarantine) == 2


def test_identity_is_of_the_data_and_not_of_the_hour(tmp_path: Path) -> None:
    one, two = dataset(str(tmp_path / "a")).manifest, dataset(str(tmp_path / "b")).manifest
    assert one.model_copy(update={"created": "later"}).sha256 == two.sha256
    assert dataset(str(tmp_path / "c"), n=39).manifest.sha256 != one.sha256


# --- splits -----------------------------------------------------------------------------------------------------------


def test_fractions_are_the_same_on_every_machine_for_ever() -> None:
    assert [fraction(k) for k in ("NaCl", "Fe2O3", "")] == [
        0.28352916264676753,
        0.9595450026869445,
        0.13506007538770437,
    ]


def test_a_fraction_on_an_edge_belongs_to_the_part_above_it() -> None:
    rule = SplitRule()
    edges = [0.0, rule.train, rule.train + rule.validation, 1 - 2.0**-53]
    table = pa.table({"split_formula": edges})
    assert [rule.name_of(x) for x in edges] == ["train", "validation", "test", "test"]
    masks = [rule.mask(table, part).tolist() for part in ("train", "validation", "test")]
    assert masks == [[True, False, False, False], [False, True, False, False], [False, False, True, True]]


def test_parts_have_the_sizes_that_were_asked_for() -> None:
    rule = SplitRule(train=0.7, validation=0.2)
    names = [rule.name_of(fraction(f"key {i}")) for i in range(20_000)]
    shares = [names.count(part) / 20_000 for part in ("train", "validation", "test")]
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.01)


def test_polymorphs_never_straddle_a_split_and_other_salts_are_other_splits(tmp_path: Path) -> None:
    crystal = material(0).crystal
    rows = [
        replace(
            material(i), crystal=Crystal(crystal.lattice * (1 + 0.01 * i), crystal.frac_coords, crystal.atomic_numbers)
        )
        for i in range(20)
    ]
    commit_manifest(str(tmp_path), [write_shard(str(tmp_path), "0", rows)])
    table = Dataset.open(str(tmp_path)).table(["id", "formula", "split_formula", "structure_group"])
    home = SplitRule().name_of(fraction(crystal.formula))
    assert SplitRule().mask(table, home).all()
    by_material = SplitRule(by="material", salt="another")
    masks = [by_material.mask(table, part) for part in ("train", "validation", "test")]
    assert np.array_equal(np.sum(masks, axis=0), np.ones(20))
    assert 0 < masks[0].sum() < 20


def test_a_split_by_an_undetermined_key_is_refused(stored: Dataset) -> None:
    table = stored.table(["split_prototype", "prototype"])
    for salt in ("crystalign", "another"):
        with pytest.raises(ConfigError, match="10 rows have no prototype"):
            SplitRule(by="prototype", salt=salt).mask(table, "train")


@pytest.mark.parametrize("by", ["formula", "material", "chemsys"])
@pytest.mark.parametrize("salt", ["crystalign", "another"])
def test_a_mask_is_where_the_key_falls_whether_its_fraction_is_stored_or_not(
    stored: Dataset, by: Literal["formula", "material", "chemsys"], salt: str
) -> None:
    rule = SplitRule(by=by, salt=salt, train=0.5, validation=0.2)
    table = stored.table(list(rule.columns))
    names = [rule.name_of(fraction(key, salt)) for key in table.column(rule.key).to_pylist()]
    assert len(set(names)) == 3
    for part in ("train", "validation", "test"):
        assert rule.mask(table, part).tolist() == [name == part for name in names]


def test_parts_that_exceed_the_whole_are_refused() -> None:
    with pytest.raises(ConfigError, match="exceeds 1"):
        SplitRule.from_mapping({"train": 0.8, "validation": 0.4}, origin="a test")


def test_storage_of_the_dataset_holds_nothing_but_what_the_manifest_names(stored: Dataset) -> None:
    named = {s.path for s in stored.manifest.shards} | {e.path for e in stored.manifest.quarantine} | {MANIFEST}
    named |= {e.path for s in stored.manifest.shards for e in s.siblings.values()}
    assert set(storage.list_files(stored.uri)) == {storage.join(stored.uri, path) for path in named}


def test_a_modality_of_scattered_rows_is_gathered_in_their_order(tmp_path):
    rows = [material(i) for i in range(20)]
    shards = [write_shard(str(tmp_path), f"part-{n}", rows[10 * n : 10 * n + 10], [], rows_per_group=4) for n in (0, 1)]
    commit_manifest(str(tmp_path), shards, [])
    places = [(1, 9), (0, 3), (0, 2), (1, 0), (0, 3)]
    found = Dataset.open(str(tmp_path)).gather(places, "text")
    assert found == [rows[10 * shard + row].value("text") for shard, row in places]
    assert None in found


def written_by_version_1(uri: str, path: Path, crystals: list[Crystal]) -> None:
    """A dataset as the first version wrote it: without remarks, and with the amounts of one cell as the formula."""
    materials = [Material(f"m{n}", crystal, Provenance("test", "CC0-1.0")) for n, crystal in enumerate(crystals)]
    commit_manifest(uri, [write_shard(uri, "part", materials)])
    (shard,) = (path / "shards").iterdir()
    table = pq.read_table(shard).drop_columns(["remarks"])
    decimals = [f"Au{4 * 0.13:g}Cu{4 * 0.87:g}" if not c.is_ordered else c.formula for c in crystals]
    place = table.column_names.index("formula")
    table = table.set_column(place, table.schema.field("formula"), pa.array(decimals, pa.string()))
    pq.write_table(table, shard, compression="zstd", row_group_size=512)
    values = json.loads((path / MANIFEST).read_text())
    values["schema_version"] = 1
    values["shards"][0] |= {"bytes": shard.stat().st_size, "sha256": hashlib.sha256(shard.read_bytes()).hexdigest()}
    (path / MANIFEST).write_text(json.dumps(values))


def test_a_dataset_of_version_1_opens_without_remarks(tmp_path: Path) -> None:
    uri = str(tmp_path / "old")
    written_by_version_1(uri, tmp_path / "old", [Crystal(np.eye(3) * 4, np.zeros((1, 3)), np.array([29]))])
    (material,) = Dataset.open(uri).materials()
    assert material.remarks == ()
    assert Dataset.open(uri).table(["remarks"]).column("remarks").null_count == 1


def test_a_dataset_of_version_1_with_disordered_crystals_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "old")
    alloy = Crystal(np.eye(3) * 4, np.zeros((1, 3)), np.array([29]), (((29, 0.87), (79, 0.13)),))
    written_by_version_1(uri, tmp_path / "old", [alloy])
    with pytest.raises(DatasetError, match="ingest the source again"):
        Dataset.open(uri)


def test_remarks_travel_with_a_material(tmp_path: Path) -> None:
    uri = str(tmp_path / "data")
    crystal = Crystal(np.eye(3) * 4, np.zeros((1, 3)), np.array([29]))
    told = ("hydrogen missing: Cu has sites, Cu H is stated", "one more")
    materials = [
        Material("a", crystal, Provenance("test", "CC0-1.0"), remarks=told),
        Material("b", crystal, Provenance("test", "CC0-1.0")),
    ]
    commit_manifest(uri, [write_shard(uri, "part", materials)])
    assert [material.remarks for material in Dataset.open(uri).materials()] == [told, ()]
