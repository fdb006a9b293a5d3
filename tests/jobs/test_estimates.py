"""A job says what it will need, and stops before it starts where the disk cannot hold the result."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from crystalign import storage
from crystalign.crystal import Crystal
from crystalign.errors import ConfigError
from crystalign.material import Material, Provenance
from crystalign.properties import PropertySpec, Quantity
from crystalign.shards.manifest import Manifest
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign_jobs.derive import Derive
from crystalign_jobs.derive import main as derive
from crystalign_jobs.hull import Hull
from crystalign_jobs.hull import main as make_hulls
from crystalign_jobs.ingest import Ingest
from crystalign_jobs.ingest import main as ingest
from crystalign_jobs.merge import Merge
from crystalign_jobs.merge import main as merge
from crystalign_ray.estimates import IGNORE, MARGIN, RESERVE, Estimate, announce, free_bytes

ENERGY = PropertySpec(quantity=Quantity.FORMATION_ENERGY_PER_ATOM, method="pbe", source="t", vintage="1")


class Disk(NamedTuple):
    total: int
    used: int
    free: int


def limited(monkeypatch: pytest.MonkeyPatch, free: int) -> list[str]:
    """Let every disk have this much space; returns the list of the places that are asked about."""
    asked: list[str] = []

    def usage(path: Path) -> Disk:
        asked.append(str(path))
        return Disk(10**12, 10**12 - free, free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return asked


def dataset(uri: str, anion: int = 17) -> str:
    crystal = Crystal([[4, 0, 0], [0, 4, 0], [0, 0, 4]], [[0, 0, 0], [0.5] * 3], [55, anion])
    material = Material("a", crystal, Provenance("t", "CC0-1.0"), {}, {ENERGY: -1.0})
    commit_manifest(uri, [write_shard(uri, "a", [material], [ENERGY])], [ENERGY])
    return uri


@pytest.mark.parametrize(
    ("estimate", "said"),
    [
        (Estimate(150_000, 105_000_000, 0.01), "150,000 rows, about 105 MB of new files and "),
        (Estimate(3, 2_100, 0.01), "3 rows, about 2.1 kB of new files and 1 s on "),
        (Estimate(10**9, 7 * 10**14, 1e-9), "1,000,000,000 rows, about 700 TB of new files and 1 s on "),
        (Estimate(1, 999_999, 0.0), "about 1 MB of new files"),
    ],
)
def test_an_estimate_is_one_line(estimate: Estimate, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert said in str(estimate)
    assert "\n" not in str(estimate)


@pytest.mark.parametrize(("seconds", "said"), [(100.0, "50 s"), (1200.0, "10 min"), (36_000.0, "5.0 h")])
def test_the_time_is_shared_by_the_cores(seconds: float, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert f"and {said} on 2 cores" in str(Estimate(1, 0, seconds))


def test_a_disk_that_is_too_small_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = int(10**9 * MARGIN) + RESERVE
    asked = limited(monkeypatch, needed)
    announce(Estimate(1, 10**9, 0.0), str(tmp_path / "not" / "yet" / "there"))
    assert asked == [str(tmp_path)]
    limited(monkeypatch, needed - 1)
    with pytest.raises(ConfigError, match=r"1\.27 GB are free where .* needs about 1\.27 GB: free some space"):
        announce(Estimate(1, 10**9, 0.0), str(tmp_path))
    monkeypatch.setenv(IGNORE, "1")
    announce(Estimate(1, 10**9, 0.0), str(tmp_path))
    assert "warning: 1.27 GB are free" in capsys.readouterr().out


def test_only_a_local_disk_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_bytes(f"file://{tmp_path}") == shutil.disk_usage(tmp_path).free
    asked = limited(monkeypatch, 0)
    announce(Estimate(1, 10**15, 0.0), "s3://bucket/data")
    assert free_bytes("gs://bucket/data") is None
    assert asked == []


def test_every_job_that_writes_rows_stops_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = dataset(str(tmp_path / "one")), dataset(str(tmp_path / "other"), 35)
    (tmp_path / "crystals").mkdir()
    (tmp_path / "crystals" / "a.vasp").write_text(
        Crystal([[4, 0, 0], [0, 4, 0], [0, 0, 4]], [[0, 0, 0]], [26]).to_poscar()
    )
    before = {uri: (Manifest.read(uri).sha256, storage.list_names(uri)) for uri in (one, other)}
    limited(monkeypatch, RESERVE)
    new = str(tmp_path / "new")
    for job in (
        lambda: ingest(Ingest(source=str(tmp_path / "crystals"), out=new)),
        lambda: merge(Merge(datasets=(one, other), out=new)),
        lambda: derive(Derive(data=one, modalities=("composition",))),
        lambda: make_hulls(Hull(data=one)),
    ):
        with pytest.raises(ConfigError, match="are free where"):
            job()
    assert not Path(new).exists()
    after = {uri: (Manifest.read(uri).sha256, storage.list_names(uri)) for uri in (one, other)}
    assert after == before
