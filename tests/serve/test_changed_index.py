"""A service over an index that changed: its materials are of two datasets, and a shard keeps its version."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from crystalign.index.index import Index
from crystalign.index.live import add, remove
from crystalign.index.manifest import IndexManifest
from crystalign.model import load
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign_serve.deployments import Shard
from crystalign_serve.known_answers import Examiner
from crystalign_serve.materials import open_materials, place_of
from small_service import GAP, build, embed, salts

HALF = 20


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """An index of the first half of the salts, to which the other half was added from a dataset of its own."""
    folder, materials = tmp_path_factory.mktemp("changed"), salts()
    made = build(folder, materials[:HALF])
    second = str(folder / "second")
    commit_manifest(second, [write_shard(second, "part", materials[HALF:], [GAP], rows_per_group=8)], [GAP])
    embed(load(made.model), second, made.model, str(folder / "more"))
    add(made.index, str(folder / "more"))
    return made


def test_a_row_leads_to_its_material_in_its_own_dataset(places):
    index = Index.open(places.index)
    materials = open_materials(index.manifest, None)
    records = index.segment.records(np.arange(len(index)))
    assert {record["dataset"] for record in records} == {0, 1}
    for record in records:
        assert materials.get(place_of(record)).id == record["id"]
    stored = {material.id: material.value("xrd") for material in salts()}
    values = materials.gather([place_of(record) for record in records[::-1]], "xrd")
    for record, value in zip(records[::-1], values, strict=True):
        np.testing.assert_allclose(value.d_spacings, stored[record["id"]].d_spacings, rtol=1e-6)
    assert sum(source["rows"] for source in materials.sources) == len(salts())


def test_a_calibration_is_not_made_from_one_of_two_datasets(places):
    from crystalign.errors import DatasetError

    with pytest.raises(DatasetError, match="has materials of 2 datasets"):
        Examiner.open(places.index)


def test_a_shard_that_is_replaced_keeps_the_version_that_is_served(places):
    served = IndexManifest.read(places.index)
    name = salts()[0].id
    remove(places.index, ids=[name])
    try:
        old, new = (
            Shard(places.index, manifest, list(manifest.segments))
            for manifest in (served, IndexManifest.read(places.index))
        )
        assert asyncio.run(old.find(name)).record["id"] == name
        assert asyncio.run(new.find(name)) is None
        assert asyncio.run(old.rows()) - asyncio.run(new.rows()) == 1
    finally:
        from crystalign.index.live import rollback

        rollback(places.index, served.number)
