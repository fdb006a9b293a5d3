"""One small cluster and one small dataset for every test of the jobs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

N_MATERIALS = 90


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A cluster on this machine, started once; jobs find it and leave it running.

    `CRYSTALIGN_TEST_MARK` is in the environment of its processes, by which a test tells them from those of others.
    """
    from crystalign_ray.session import session

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYSTALIGN_TEST_MARK", uuid.uuid4().hex)
        with session("local"):
            yield


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ninety rock salts and caesium chlorides with a composition; two thirds have a text, in two shards."""
    from crystalign.crystal import Crystal
    from crystalign.material import Material, Provenance
    from crystalign.modalities.composition import Composition
    from crystalign.modalities.text import Text
    from crystalign.shards.writer import commit_manifest, write_shard

    uri = str(tmp_path_factory.mktemp("small") / "data")
    pairs = [(a, b) for a in (3, 11, 12, 19, 20, 37, 38, 55, 56) for b in (8, 9, 16, 17, 34)]
    materials = []
    for number, (a, b, second) in enumerate([(a, b, k) for a, b in pairs for k in (0.0, 0.5)]):
        crystal = Crystal(np.eye(3) * (3.0 + a / 40 + second), np.array([[0, 0, 0], [0.5] * 3]), np.array([a, b]))
        modalities = {"composition": Composition(np.array([a, b]), np.array([0.5, 0.5]))}
        if number % 3:
            modalities["text"] = Text(f"{crystal.formula}, a cubic salt of elements {a} and {b}, cell {number}")
        provenance = Provenance("test", "CC0-1.0", "1")
        materials.append(Material(f"m{number:03d}", crystal, provenance, modalities))
    assert len(materials) == N_MATERIALS
    shards = [
        write_shard(uri, "part-0", materials[:50], [], rows_per_group=16),
        write_shard(uri, "part-1", materials[50:], [], rows_per_group=16),
    ]
    commit_manifest(uri, shards, [])
    assert Path(uri).is_dir()
    return uri
