"""`crystalign derive --refresh` gives captions of earlier releases facts, and touches nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.derivation import extended, text_of
from crystalign.material import Material, Provenance
from crystalign.modalities.text import Text, TextModality
from crystalign.modalities.vector import Vector
from crystalign.properties import PropertySpec, Quantity
from crystalign.shards.dataset import Dataset
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign_jobs import derive
from crystalign_jobs.derive import Derive, ShardDeriver, main, target

pytestmark = pytest.mark.usefixtures("ray_session")

GAP = PropertySpec(quantity=Quantity.BAND_GAP, method="pbe", source="test", vintage="2026")
N = 12
"""Materials in each of three shards: old captions and persons' texts; old ones, and none; captions with facts."""


def salt(number: int) -> Material:
    crystal = Crystal((3.6 + 0.05 * number) * np.eye(3), np.array([[0, 0, 0], [0.5] * 3]), np.array([19, 9 + number]))
    caption = text_of(Material("salt", crystal, Provenance("test", "CC0-1.0"), properties={GAP: number / 8}))
    old = replace(caption, facts_json=None)
    person = Text(f"a salt that somebody made, number {number}")
    texts = {0: (old, person), 1: (old, None), 2: (caption, caption)}[number // N]
    text = texts[number % 2]
    modalities: dict[str, object] = {} if text is None else {"text": text}
    provenance = Provenance("test", "CC0-1.0", "2026", f"record {number}")
    return Material(f"salt-{number:02d}", crystal, provenance, modalities, {GAP: number / 8}, 221, remarks=("read",))


@pytest.fixture
def data(tmp_path: Path) -> str:
    uri = str(tmp_path / "data")
    shards = [
        write_shard(uri, name, [salt(N * k + i) for i in range(N)], [GAP], rows_per_group=5)
        for k, name in enumerate("abc")
    ]
    commit_manifest(uri, shards, [GAP])
    return uri


def by_id(uri: str) -> dict[str, Material]:
    return {material.id: material for material in Dataset.open(uri).materials()}


def without_text(material: Material) -> tuple[object, ...]:
    rest = {name: value for name, value in material.modalities.items() if name != "text"}
    crystal = material.crystal
    described = (material.provenance, material.properties, material.spacegroup_number, material.remarks, rest)
    return (*described, crystal.lattice.tolist(), crystal.frac_coords.tolist(), crystal.atomic_numbers.tolist())


def test_refresh_gives_old_captions_facts_and_keeps_everything_else(data: str) -> None:
    before = by_id(data)
    manifest = main(Derive(data=data, modalities=("text",), refresh=True))
    after = by_id(data)
    Dataset.open(data).verify()
    assert list(after) == list(before)
    assert manifest.modalities["text"] == 3 * N
    for number, (name, material) in enumerate(after.items()):
        assert without_text(material) == without_text(before[name])
        old, new = before[name].value("text"), material.value("text")
        if old is not None and not old.generated:
            assert new == old
        else:
            assert new == text_of(salt(number))
            assert new.description == (new if old is None else old).description


def test_a_shard_whose_captions_have_facts_is_not_written_again(data: str) -> None:
    before = Dataset.open(data).manifest
    after = main(Derive(data=data, modalities=("text",), refresh=True))
    assert [a.sha256 == b.sha256 for a, b in zip(after.shards, before.shards, strict=True)] == [False, False, True]
    assert after.shards[2] == before.shards[2]
    assert main(Derive(data=data, modalities=("text",), refresh=True)) == after, "and then there is nothing to do"


def test_without_refresh_old_captions_stay_and_the_user_is_told(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = by_id(data)
    main(Derive(data=data, modalities=("text",)))
    said = capsys.readouterr().out
    assert f"{N} captions of an earlier release lack the facts that a search uses; `--refresh` writes them" in said
    after = by_id(data)
    for name, material in before.items():
        if material.value("text") is not None:
            assert after[name].value("text") == material.value("text")
        else:
            assert after[name].value("text").facts is not None
    main(Derive(data=data, modalities=("composition",)))
    assert "lack the facts" not in capsys.readouterr().out
    main(Derive(data=data, modalities=("text",), refresh=True))
    assert "lack the facts" not in capsys.readouterr().out
    main(Derive(data=data, modalities=("text",)))
    assert "lack the facts" not in capsys.readouterr().out


def test_an_interrupted_refresh_goes_on(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, dataset = Derive(data=data, modalities=("text",), refresh=True), Dataset.open(data)
    name = target(dataset.manifest.shards[0], config.modalities, refresh=True)
    ShardDeriver(config, dataset)({"number": 0, "name": name})  # what a job that was then killed had done
    found = []
    monkeypatch.setattr(
        derive, "_receipt", lambda uri, n, read=derive._receipt: found.append(read(uri, n)) or found[-1]
    )
    main(config)
    assert [receipt is not None for receipt in found] == [True, False]
    assert all(text.facts for m in by_id(data).values() if (text := m.value("text")).generated)


def test_a_refresh_does_not_take_over_what_a_killed_job_without_it_had_done(data: str) -> None:
    config, dataset = Derive(data=data, modalities=("text",)), Dataset.open(data)
    for number in (0, 1):
        name = target(dataset.manifest.shards[number], config.modalities)
        ShardDeriver(config, dataset)({"number": number, "name": name})
    main(Derive(data=data, modalities=("text",), refresh=True))
    assert all(text.facts for m in by_id(data).values() if (text := m.value("text")).generated)


def test_a_shard_of_an_earlier_release_is_refreshed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its column of texts has no field for facts at all."""
    import pyarrow as pa

    uri = str(tmp_path / "old")
    kind = pa.struct([("description", pa.string()), ("generated", pa.bool_())])
    with monkeypatch.context() as patch:
        patch.setattr(TextModality, "column_type", classmethod(lambda _: kind))
        entry = write_shard(uri, "a", [salt(number) for number in range(N)], [GAP], rows_per_group=5)
    commit_manifest(uri, [entry], [GAP])
    main(Derive(data=uri, modalities=("text",), refresh=True))
    texts = [material.value("text") for material in by_id(uri).values()]
    assert [text.facts is not None for text in texts] == [number % 2 == 0 for number in range(N)]


def test_the_embedding_of_a_text_that_changes_is_removed() -> None:
    plain = salt(0)
    vector = Vector(np.ones(4))
    same = replace(plain, modalities={**plain.modalities, "text_embedding": vector})
    other = replace(
        same, modalities={"text": Text("KF, as it was said before", generated=True), "text_embedding": vector}
    )
    for material, is_kept in ((same, True), (other, False)):
        made = extended(material, ("text",), 60.0, [], refresh=True)
        assert made.value("text") == text_of(plain)
        assert ("text_embedding" in made.modalities) is is_kept
        assert extended(material, ("text",), 60.0, []) == material
