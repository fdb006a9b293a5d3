from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crystalign.errors import ConfigError, DatasetError
from crystalign.index.embeddings import EmbeddingManifest, read_embeddings
from crystalign.model import Model, load, prepare
from crystalign.model_config import ModalitySpec, ModelCard, ModelConfig
from crystalign.objectives.clip import Clip
from crystalign.shards.dataset import Dataset
from crystalign.shards.splits import SplitRule
from crystalign_jobs.embed import Embed, embed

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def model_uri(tmp_path_factory):
    import torch

    config = ModelConfig(
        embedding_dim=16,
        modalities={
            "composition": ModalitySpec(encoder="composition-transformer", options={"hidden": 16, "layers": 1}),
            "text": ModalitySpec(encoder="bert", options={"hidden": 16, "layers": 1, "vocabulary": 300}),
        },
        objective=Clip(pairs=(("composition", "text"),)),
    )
    torch.manual_seed(0)
    model = Model(config, prepare(config, {"text": ["a cubic salt of elements 3 and 8, cell 1"] * 20}))
    folder = tmp_path_factory.mktemp("embed") / "model"
    model.save_pretrained(folder, ModelCard(split=SplitRule().model_dump(mode="json")))
    return str(folder)


@pytest.fixture(scope="module")
def embedded(model_uri, small_dataset, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("embedded"))
    made = embed(Embed(model=model_uri, data=small_dataset, out=out, modality="all", rows_per_file=32, num_actors=1))
    return out, made


def test_every_material_that_has_the_modality_is_embedded_as_the_model_embeds_it(embedded, model_uri, small_dataset):
    out, made = embedded
    model, materials = load(model_uri), list(Dataset.open(small_dataset).materials())
    for name in ("composition", "text"):
        table, vectors = read_embeddings(f"{out}/{name}")
        having = [m for m in materials if m.value(name) is not None]
        assert table.column("id").to_pylist() == [m.id for m in having]
        assert made[name].rows == len(having) == len(vectors)
        expected = model.embed(name, [m.value(name) for m in having])
        np.testing.assert_allclose(vectors, expected, atol=1e-3)  # float16 on disk
    assert 0 < made["text"].rows < made["composition"].rows


def test_each_row_leads_back_to_its_material(embedded, small_dataset):
    out, _ = embedded
    table, _ = read_embeddings(f"{out}/text")
    dataset = Dataset.open(small_dataset)
    for row in table.to_pylist()[::7]:
        material = dataset.material(row["shard"], row["row"])
        assert (material.id, material.crystal.formula) == (row["id"], row["formula"])


def test_a_restart_makes_only_what_is_missing_or_broken(embedded, model_uri, small_dataset, tmp_path):
    config = Embed(
        model=model_uri, data=small_dataset, out=str(tmp_path), modality="composition", rows_per_file=32, num_actors=1
    )
    first = embed(config)["composition"]
    kept, gone, cut = (Path(tmp_path, entry.path) for entry in first.files[:3])
    (tmp_path / "manifest.json").unlink()
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:200])
    before = kept.stat().st_mtime_ns
    assert embed(config)["composition"] == first
    assert kept.stat().st_mtime_ns == before
    assert gone.is_file()


def test_a_part_of_the_split_holds_its_materials_alone(model_uri, small_dataset, tmp_path):
    made = embed(
        Embed(model=model_uri, data=small_dataset, out=str(tmp_path), modality="text", part="test", num_actors=1)
    )["text"]
    table, _ = read_embeddings(str(tmp_path))
    assert 0 < made.rows < 60
    assert SplitRule().mask(table, "test").all()


def test_embeddings_of_another_making_are_not_mixed(embedded, model_uri, small_dataset):
    out, _ = embedded
    target = f"{out}/text"
    assert EmbeddingManifest.read(target).modality == "text"
    with pytest.raises(ConfigError, match="already holds embeddings of another"):
        embed(Embed(model=model_uri, data=small_dataset, out=target, modality="composition"))


def test_a_modality_the_model_lacks_is_refused(model_uri, small_dataset, tmp_path):
    with pytest.raises(ConfigError, match="no modality 'dos'"):
        embed(Embed(model=model_uri, data=small_dataset, out=str(tmp_path), modality="dos"))


# --- only what is new -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def revised(small_dataset, tmp_path_factory):
    """The small dataset in another order and other shards: five materials are gone, one is new, one has a new text."""
    from dataclasses import replace

    from crystalign.modalities.text import Text
    from crystalign.shards.writer import commit_manifest, write_shard

    uri = str(tmp_path_factory.mktemp("revised") / "data")
    materials = list(Dataset.open(small_dataset).materials())[5:][::-1]
    changed = next(n for n, m in enumerate(materials) if m.value("text") is not None)
    texts = {**materials[changed].modalities, "text": Text("a text that was written later")}
    materials[changed] = replace(materials[changed], modalities=texts)
    materials.insert(40, replace(materials[changed], id="a new one"))
    shards = [write_shard(uri, f"part-{n}", materials[n::3], [], rows_per_group=16) for n in range(3)]
    commit_manifest(uri, shards, [])
    return uri, materials[changed].id


@pytest.mark.parametrize("name", ["composition", "text"])
def test_since_embeds_new_and_changed_rows_as_a_whole_run_would(embedded, revised, model_uri, tmp_path, name, capsys):
    from crystalign_jobs.embed import main

    data, changed = revised
    common = {"model": model_uri, "data": data, "modality": name, "num_actors": 1}
    main(Embed(**common, out=str(tmp_path / "new"), since=(f"{embedded[0]}/{name}",)))
    printed = capsys.readouterr().out
    embed(Embed(**common, out=str(tmp_path / "whole")))
    table, vectors = read_embeddings(str(tmp_path / "new"))
    assert sorted(table.column("id").to_pylist()) == sorted([changed, "a new one"])
    assert "1 new and 1 changed rows" in printed
    assert "rows of the earlier embeddings are no longer in" in printed
    everything, expected = read_embeddings(str(tmp_path / "whole"))
    places = [everything.column("id").to_pylist().index(key) for key in table.column("id").to_pylist()]
    np.testing.assert_allclose(vectors, expected[places], atol=1e-3)  # batches of other crystals, float16 on disk
    earlier, stored = read_embeddings(f"{embedded[0]}/{name}")
    kept = dict(zip(earlier.column("id").to_pylist(), stored, strict=True))
    for key, vector in zip(everything.column("id").to_pylist(), expected, strict=True):
        if key not in {changed, "a new one"}:
            np.testing.assert_allclose(kept[key], vector, atol=1e-3)
    both = (f"{embedded[0]}/{name}", str(tmp_path / "new"))
    with pytest.raises(DatasetError, match="new or changed"):
        embed(Embed(**common, out=str(tmp_path / "nothing"), since=both))


def test_since_refuses_another_model_or_modality(embedded, revised, model_uri, tmp_path):
    import torch

    other = load(model_uri)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    other.save_pretrained(tmp_path / "other")
    text = f"{embedded[0]}/text"
    for model, modality in ((str(tmp_path / "other"), "text"), (model_uri, "composition")):
        with pytest.raises(ConfigError, match="different models cannot be compared"):
            embed(Embed(model=model, data=revised[0], out=str(tmp_path / "out"), modality=modality, since=(text,)))
