"""`crystalign derive --descriptions` adds texts of another program beside the captions; training draws them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import ConfigError
from crystalign.material import Material, Provenance
from crystalign.modalities.text import MAX_CHARACTERS, MAX_OTHERS, TextModality
from crystalign.shards.dataset import Dataset
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign_jobs.derive import Derive, main
from crystalign_jobs.descriptions import Descriptions

pytestmark = pytest.mark.usefixtures("ray_session")
N = 8


def table_of(path: Path, rows: list[tuple[str, str]]) -> str:
    columns = {"id": [name for name, _ in rows], "description": [words for _, words in rows]}
    pq.write_table(pa.table(columns, schema=pa.schema([("id", pa.string()), ("description", pa.string())])), path)
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> str:
    uri = str(tmp_path / "data")
    salts = [
        Material(
            f"salt-{n}",
            Crystal((3.6 + 0.05 * n) * np.eye(3), np.array([[0, 0, 0], [0.5] * 3]), np.array([19, 9 + n])),
            Provenance("test", "CC0-1.0"),
        )
        for n in range(N)
    ]
    commit_manifest(uri, [write_shard(uri, name, salts[k : k + 4]) for name, k in (("a", 0), ("b", 4))])
    return uri


def others(uri: str) -> dict[str, tuple[str, ...]]:
    return {m.id: text.others for m in Dataset.open(uri).materials() if (text := m.value("text")) is not None}


def test_descriptions_are_added_once_and_bad_ones_are_quarantined(data: str, tmp_path: Path) -> None:
    rows = [("salt-1", "A salt of two words."), ("salt-1", "Another text. It has two sentences."), ("salt-2", "  ")]
    rows += [("salt-3", "x" * (MAX_CHARACTERS + 1)), ("somebody else's", "text")]
    table = table_of(tmp_path / "d.parquet", rows)
    manifest = main(Derive(data=data, modalities=("text",), descriptions=table))
    Dataset.open(data).verify()
    found = others(data)
    assert found.pop("salt-1") == ("A salt of two words.", "Another text. It has two sentences.")
    assert set(found.values()) == {()}
    assert manifest.quarantined == 2
    again = main(Derive(data=data, modalities=("text",), descriptions=table))
    assert others(data)["salt-1"]
    assert [s.path for s in again.shards] == [s.path for s in manifest.shards], "nothing was left to do"


def test_a_new_table_replaces_the_descriptions_of_the_old_one(data: str, tmp_path: Path) -> None:
    main(Derive(data=data, modalities=("text",), descriptions=table_of(tmp_path / "1.parquet", [("salt-6", "old")])))
    before = Dataset.open(data).manifest.shards
    main(Derive(data=data, modalities=("text",), descriptions=table_of(tmp_path / "2.parquet", [("salt-6", "new")])))
    assert others(data)["salt-6"] == ("new",)
    assert Dataset.open(data).manifest.shards[0] == before[0], "the other shard is not written again"


def test_captions_come_before_their_descriptions(data: str, tmp_path: Path) -> None:
    table = table_of(tmp_path / "d.parquet", [("salt-0", "text")])
    manifest = main(Derive(data=data, modalities=("composition",), descriptions=table))
    assert manifest.quarantined == 1, "there is no caption that it belongs to"


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"id": ["a"]}, "'description'"), ({"id": [1], "description": ["x"]}, "'id'"), (None, "no table")],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, columns, message: str) -> None:
    path = tmp_path / "bad.parquet"
    if columns is not None:
        pq.write_table(pa.table(columns), path)
    with pytest.raises(ConfigError, match=message):
        Descriptions.open(str(path))


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.parquet").write_text("id,description\na,b\n")
    with pytest.raises(ConfigError, match="not a Parquet table"):
        Descriptions.open(str(tmp_path / "d.parquet"))


def test_too_many_descriptions_of_one_crystal_are_quarantined(data: str, tmp_path: Path) -> None:
    table = table_of(tmp_path / "d.parquet", [("salt-5", f"text {n}") for n in range(MAX_OTHERS + 1)])
    assert main(Derive(data=data, modalities=("text",), descriptions=table)).quarantined == 1


def test_training_draws_them_and_claims_nothing_of_what_they_say(data: str, tmp_path: Path) -> None:
    words = "Robocrystallographer wrote this."
    main(Derive(data=data, modalities=("text",), descriptions=table_of(tmp_path / "d.parquet", [("salt-1", words)])))
    text = next(m.value("text") for m in Dataset.open(data).materials() if m.id == "salt-1")
    modality = TextModality(TextModality.Settings(others=0.5))
    seen = {}
    for seed in range(40):
        features = modality.featurise(text, rng=np.random.default_rng(seed))
        claims = modality.claims(text, features)
        assert claims is not None
        seen.setdefault(bytes(features["utf8"]).decode() == words, []).append(len(claims.made))
    assert 8 < len(seen[True]) < 32
    assert not any(seen[True])
    assert all(seen[False])
    assert bytes(modality.featurise(text)["utf8"]).decode() == text.description
