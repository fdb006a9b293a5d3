"""Materials of one structure are found at ingestion, across datasets, and are neither negatives nor misses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice

from crystalign.crystal import Crystal
from crystalign.errors import ConfigError, DatasetError
from crystalign.material import Material, Provenance
from crystalign.model import Model, ModelCard
from crystalign.model_config import ModalitySpec, ModelConfig
from crystalign.physics.diffraction import powder_peaks
from crystalign.physics.symmetry import conventional
from crystalign.properties import PropertySpec, Quantity
from crystalign.shards.dataset import Dataset
from crystalign.shards.schema import GROUP
from crystalign.shards.splits import SplitRule
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign_jobs.derive import Derive
from crystalign_jobs.derive import main as derive
from crystalign_jobs.duplicates import Duplicates
from crystalign_jobs.duplicates import main as duplicates
from crystalign_jobs.evaluate import Evaluate
from crystalign_jobs.evaluate import main as evaluate
from crystalign_jobs.ingest import Ingest
from crystalign_jobs.ingest import main as ingest
from crystalign_jobs.merge import Merge
from crystalign_jobs.merge import main as merge

pytestmark = pytest.mark.usefixtures("ray_session")
PAIRS = [(a, b) for a in (3, 11, 19, 37) for b in (9, 17, 35)]


def rock_salt(a: int, b: int) -> Crystal:
    edge = 3.6 + a / 20 + b / 30
    return Crystal(edge * (np.ones((3, 3)) - np.eye(3)) / 2, np.array([[0, 0, 0], [0.5] * 3]), np.array([a, b]))


def as_in_a_cif(crystal: Crystal) -> Crystal:
    """The conventional cell, with four digits."""
    cell = conventional(crystal)
    lattice = Lattice.from_parameters(*(round(x, 4) for x in Lattice(cell.lattice).parameters))
    return Crystal(np.array(lattice.matrix), cell.frac_coords.round(4), cell.atomic_numbers)


def write(uri: str, crystals: dict[str, Crystal], source: str, shards: int = 1) -> None:
    origin = Provenance(source, "CC0-1.0", "2025")
    rows = [Material(name, crystal, origin, {"xrd": powder_peaks(crystal)}) for name, crystal in crystals.items()]
    size = -(-len(rows) // shards)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    commit_manifest(uri, [write_shard(uri, f"s{n}", part, rows_per_group=4) for n, part in enumerate(parts)])


def groups_of(uri: str) -> dict[str, str | None]:
    table = Dataset.open(uri).table(["id", GROUP])
    return dict(zip(table.column("id").to_pylist(), table.column(GROUP).to_pylist(), strict=True))


@pytest.fixture(scope="module")
def doubled(tmp_path_factory) -> str:
    """Twelve salts, each a second time as a CIF holds it, in shards that do not keep the two together."""
    uri = str(tmp_path_factory.mktemp("doubled") / "data")
    salts = {f"a{a}-{b}": rock_salt(a, b) for a, b in PAIRS}
    copies = {f"b{a}-{b}": as_in_a_cif(rock_salt(a, b)) for a, b in PAIRS}
    write(uri, salts | copies, "test", shards=3)
    duplicates(Duplicates(dataset=uri))
    return uri


def test_every_copy_stands_in_the_group_of_its_original(doubled):
    found = groups_of(doubled)
    assert all(found[f"a{a}-{b}"] == found[f"b{a}-{b}"] == f"a{a}-{b}" for a, b in PAIRS)
    structures = Dataset.open(doubled).manifest.structures
    assert (structures.groups, structures.copies, structures.unsettled) == (12, 12, 0)
    by_material = {m.id: m.structure for m in Dataset.open(doubled).materials()}
    assert by_material == found
    Dataset.open(doubled).verify()


def test_a_derivation_keeps_the_groups_and_the_old_files_go(doubled):
    before = groups_of(doubled)
    manifest = derive(Derive(data=doubled, modalities=("composition",)))
    assert groups_of(doubled) == before
    assert manifest.structures == Dataset.open(doubled).manifest.structures is not None
    duplicates(Duplicates(dataset=doubled))
    assert groups_of(doubled) == before
    named = {entry.groups.path for entry in Dataset.open(doubled).manifest.shards}
    assert {f"groups/{path.name}" for path in Path(doubled, "groups").iterdir()} == named


def test_ingestion_compares_and_can_be_told_not_to(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for name, crystal in {
        "one": rock_salt(11, 17),
        "two": as_in_a_cif(rock_salt(11, 17)),
        "other": rock_salt(19, 9),
    }.items():
        (folder / f"{name}.cif").write_text(crystal.to_cif())
    ingest(Ingest(source=str(folder), out=str(tmp_path / "data"), licence="CC0-1.0"))
    assert groups_of(str(tmp_path / "data")) == {"one": "one", "two": "one", "other": "other"}
    ingest(Ingest(source=str(folder), out=str(tmp_path / "plain"), licence="CC0-1.0", compare=False))
    assert set(groups_of(str(tmp_path / "plain")).values()) == {None}


def test_merged_datasets_share_their_structures_and_no_id_is_lost(tmp_path):
    first, second, both = (str(tmp_path / name) for name in ("first", "second", "both"))
    write(first, {"x": rock_salt(11, 17), "y": rock_salt(19, 17)}, "one")
    write(second, {"x": as_in_a_cif(rock_salt(19, 17)), "z": rock_salt(3, 9)}, "two")
    manifest = merge(Merge(datasets=(first, second), out=both))
    assert groups_of(both) == {"x": "x", "y": "x@two-2025", "x@two-2025": "x@two-2025", "z": "z"}
    assert (manifest.rows, manifest.structures.copies) == (4, 1)
    assert {(s.name, s.rows) for s in manifest.sources} == {("one", 2), ("two", 2)}
    stored = {m.id: m for m in Dataset.open(both).materials()}
    assert stored["x@two-2025"].provenance.source == "two"
    assert stored["z"].value("xrd") is not None
    with pytest.raises(ConfigError, match="holds a dataset already"):
        merge(Merge(datasets=(first, second), out=both))
    again = merge(Merge(datasets=(both, first, second), out=str(tmp_path / "again")))
    assert again.rows == 8
    assert {"x", "x@one-2025", "x@two-2025", "x@two-2025-2"} <= set(groups_of(str(tmp_path / "again")))


def test_what_cannot_be_merged_is_refused_before_anything_is_written(tmp_path):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    write(first, {"x": rock_salt(11, 17)}, "one")
    write(second, {"y" * 190: rock_salt(11, 17)}, "two")
    out = tmp_path / "out"
    (tmp_path / "link").symlink_to(first)
    for other in (first, str(tmp_path / "link")):
        with pytest.raises(ConfigError, match="are the same dataset"):
            merge(Merge(datasets=(first, other), out=str(out)))
    with pytest.raises(ConfigError, match="two or more datasets"):
        merge(Merge(datasets=(first,), out=str(out)))
    with pytest.raises(ConfigError, match="is inside the dataset"):
        merge(Merge(datasets=(first, second), out=f"{first}/both"))
    write(str(tmp_path / "third"), {"y" * 190: rock_salt(3, 9)}, "a source with a long name")
    with pytest.raises(ConfigError, match="longer than 200 characters"):
        merge(Merge(datasets=(second, str(tmp_path / "third")), out=str(out)))
    for name, spelling in (("pbe", "PBE"), ("other", "pbe")):
        spec = PropertySpec(quantity=Quantity.BAND_GAP, method=spelling, source="s", vintage="1")
        row = Material(name, rock_salt(11, 17), Provenance("s", "CC0-1.0"), properties={spec: 1.0})
        commit_manifest(str(tmp_path / name), [write_shard(str(tmp_path / name), "a", [row], [spec])], [spec])
    with pytest.raises(DatasetError, match=r"share the column band_gap_pbe_s_1: band_gap by 'PBE' .* by 'pbe'"):
        merge(Merge(datasets=(str(tmp_path / "pbe"), str(tmp_path / "other")), out=str(out)))
    assert not list(out.rglob("*")), "but the folder that the lock made"


@pytest.mark.parametrize("salt", ["crystalign", "another salt"])
def test_copies_stay_in_one_part_of_a_split_by_material(doubled, salt):
    rule = SplitRule(by="material", salt=salt, train=0.5, validation=0.0)
    table = Dataset.open(doubled).table(list(rule.columns))
    train = dict(zip(table.column("id").to_pylist(), rule.mask(table, "train").tolist(), strict=True))
    assert all(train[f"a{a}-{b}"] == train[f"b{a}-{b}"] for a, b in PAIRS)
    assert 0 < sum(train.values()) < 24


def small_model(uri: str, salt: str) -> Model:
    torch.manual_seed(0)
    config = ModelConfig(
        embedding_dim=16,
        modalities={
            "crystal": ModalitySpec(encoder="gated-graph", options={"hidden": 8, "layers": 1, "width": 16}),
            "xrd": ModalitySpec(encoder="xrd-resnet", options={"channels": (4, 8), "reduced": 8, "hidden": 16}),
        },
    )
    model = Model(config)
    rule = SplitRule(salt=salt, train=0.0, validation=0.0)
    model.card = ModelCard(dataset_uri=uri, split=rule.model_dump(mode="json"))
    return model


@pytest.mark.parametrize("salt", ["crystalign", "another salt"])
def test_copies_are_no_rivals_in_an_evaluation_whatever_the_salt(doubled, tmp_path, salt):
    model = small_model(doubled, salt)
    model.save_pretrained(tmp_path / "model", model.card)
    report = evaluate(Evaluate(model=str(tmp_path / "model"), data=doubled, masked_text=False))
    assert report.pool["materials"] == 24
    assert report.pool["structures"] == 12
    assert report.pool["of these materials, with a formula that was trained on"] == 0
    assert {pair.pool for pair in report.pairs} == {23.0}, "the copy of a query has left its pool"


def test_copies_are_no_negatives_in_training(doubled):
    from crystalign.batch import make_batch

    model = small_model(doubled, "crystalign")
    materials = [m for m in Dataset.open(doubled).materials() if m.id in {"a11-17", "b11-17", "a3-9"}]
    materials.sort(key=lambda m: m.id)
    keys = make_batch([*materials, None], model.modalities).keys
    for name in ("crystal", "xrd"):
        assert keys[name].shape == (4, 2)
        assert keys[name][0, 1] == keys[name][2, 1] != keys[name][1, 1]
        assert keys[name][3].tolist() == [0, 0]
    alone = make_batch([replace(m, structure_group=None) for m in materials], model.modalities).keys
    assert alone["crystal"][0, 1] != alone["crystal"][2, 1]
