"""Texts are embedded once, by one language model that the dataset names, and never mixed with another's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from crystalign import storage
from crystalign.batch import make_batch
from crystalign.encoders.bert import train_tokenizer
from crystalign.encoders.language_model import LanguageModel
from crystalign.errors import ConfigError
from crystalign.material import Material
from crystalign.modalities import make_modality
from crystalign.modalities.text_embedding import settings_of_language_model
from crystalign.modalities.vector import Vector
from crystalign.model import Model, ModelConfig, prepare
from crystalign.model_config import ModalitySpec
from crystalign.shards.dataset import Dataset
from crystalign.shards.manifest import Manifest
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign.training.config import PretrainConfig
from crystalign.training.loop import train
from crystalign_jobs import derive, embed
from crystalign_jobs.derive import Derive, ShardDeriver, main, target
from crystalign_jobs.embed import Embed
from crystalign_jobs.pretrain import Pretrain, pretrain

pytestmark = pytest.mark.usefixtures("ray_session")

WORDS = ["crystallises in the cubic salt of elements", "cell, space group, lattice and sites"]


@pytest.fixture
def data(small_dataset: str, tmp_path: Path) -> str:
    """A copy of the small dataset, to be changed: two thirds of its ninety rows have a person's text."""
    shutil.copytree(small_dataset, tmp_path / "data")
    return str(tmp_path / "data")


@pytest.fixture(scope="session")
def berts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Folders of small BERTs that differ in their weights alone."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    place = tmp_path_factory.mktemp("berts")
    tokenizer = train_tokenizer(WORDS, vocabulary=200, max_tokens=64)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        config = BertConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=64, **size)
        BertModel(config).save_pretrained(place / name)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(place / name)
    return lambda name: str(place / name)


def settings(data: str, folder: str | None, *modalities: str, **changes: object) -> Derive:
    return Derive(data=data, modalities=modalities or ("text_embedding",), language_model=folder, **changes)


def by_id(uri: str) -> dict[str, Material]:
    return {material.id: material for material in Dataset.open(uri).materials()}


def test_each_text_a_persons_or_a_generated_one_gets_its_embedding(
    data: str, berts: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = by_id(data)
    manifest = main(settings(data, berts("first"), "text_embedding", "text"))
    Dataset.open(data).verify()
    assert manifest.modalities == {"crystal": 90, "text": 90, "composition": 90, "text_embedding": 90}
    assert manifest.derived == ("text", "text_embedding")
    after, model = by_id(data), LanguageModel.open(berts("first"))
    assert manifest.language_model == model.entry
    assert (
        f"text embeddings by first ({model.entry.sha256[:12]}, cls, 64 tokens, 32 numbers)" in capsys.readouterr().out
    )
    for name, material in after.items():
        text, given = material.value("text"), before[name].value("text")
        assert text == given if given else text.generated
        (expected,) = model.embed([text.description])
        np.testing.assert_allclose(material.value("text_embedding").values, expected, rtol=0, atol=1e-5)


def test_rows_without_a_text_get_none_and_are_reported(
    data: str, berts: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = main(settings(data, berts("first")))
    assert manifest.modalities["text_embedding"] == manifest.modalities["text"] == 60
    for material in by_id(data).values():
        assert (material.value("text_embedding") is None) == (material.value("text") is None)
    rows = Dataset.open(data).quarantine().to_pylist()
    assert {(row["stage"], row["reason"]) for row in rows} == {("derive text_embedding", "no-text")}
    assert len(rows) == manifest.quarantined == 30
    assert "30  derive text_embedding: no-text" in capsys.readouterr().out
    complete = main(settings(data, berts("first"), "text", "text_embedding"))
    assert (complete.modalities["text_embedding"], complete.quarantined) == (90, 0)


def test_embeddings_of_another_language_model_are_not_mixed_in(data: str, berts: Callable[[str], str]) -> None:
    held = main(settings(data, berts("first")))
    for other in (settings(data, berts("second")), settings(data, berts("first"), pooling="mean")):
        with pytest.raises(ConfigError, match=r"holds text embeddings by first \(.*, not by .*or ingest to another"):
            main(other)
    assert Dataset.open(data).manifest == held


def test_the_same_language_model_in_another_folder_is_the_same(
    data: str, berts: Callable[[str], str], tmp_path: Path
) -> None:
    main(settings(data, berts("first")))
    shutil.copytree(berts("first"), tmp_path / "moved")
    manifest = main(settings(data, str(tmp_path / "moved"), "text", "text_embedding"))
    assert manifest.modalities["text_embedding"] == 90
    assert {shard.language_model.name for shard in manifest.shards} == {"first"}


def test_vectors_of_a_table_stay_and_nobody_adds_to_them(
    data: str, berts: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = str(tmp_path / "table")
    rows = [
        Material(m.id, m.crystal, m.provenance, {**m.modalities, "text_embedding": Vector(np.full(32, 0.5))})
        for m in list(by_id(data).values())[:10]
    ]
    commit_manifest(uri, [write_shard(uri, "a", rows)])
    manifest = main(Derive(data=uri, modalities=("text",)))
    assert manifest.language_model is None
    assert manifest.modalities["text_embedding"] == 10
    assert "text embeddings by a language model that is not recorded" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"10 text embeddings from a table, whose language model.*cannot be mixed"):
        main(settings(uri, berts("first")))


def test_another_derivation_keeps_the_embeddings_and_their_origin(data: str, berts: Callable[[str], str]) -> None:
    held = main(settings(data, berts("first"), "text", "text_embedding"))
    manifest = main(Derive(data=data, modalities=("tabular",)))
    assert manifest.modalities["tabular"] == manifest.modalities["text_embedding"] == 90
    assert [s.language_model for s in manifest.shards] == [held.language_model] * 2


def test_an_interrupted_job_goes_on_and_gives_the_same_dataset(
    data: str, berts: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(data, tmp_path / "other")
    uninterrupted = main(settings(str(tmp_path / "other"), berts("first")))
    config, dataset, chosen = settings(data, berts("first")), Dataset.open(data), uninterrupted.language_model
    assert chosen is not None
    name = target(dataset.manifest.shards[0], config.modalities, chosen)
    ShardDeriver(config, dataset, chosen)({"number": 0, "name": name})  # what a job that was then killed had done
    asked = []
    monkeypatch.setattr(
        derive, "_receipt", lambda uri, n, read=derive._receipt: asked.append(read(uri, n)) or asked[-1]
    )
    manifest = main(config)
    assert [receipt is not None for receipt in asked] == [True, False]
    assert manifest.sha256 == uninterrupted.sha256


def test_what_a_killed_job_embedded_by_another_language_model_is_not_used_and_goes(
    data: str, berts: Callable[[str], str]
) -> None:
    dataset, wrong = Dataset.open(data), LanguageModel.open(berts("second")).entry
    config = settings(data, berts("second"))
    name = target(dataset.manifest.shards[0], config.modalities, wrong)
    ShardDeriver(config, dataset, wrong)({"number": 0, "name": name})
    assert any(path.startswith(f"shards/{name}.") for path in storage.list_names(data))
    manifest = main(settings(data, berts("first")))
    assert manifest.language_model == LanguageModel.open(berts("first")).entry
    named = {entry.path for entry in (*manifest.shards, *manifest.quarantine)} | {"manifest.json"}
    assert {path.removeprefix(f"{data}/") for path in storage.list_files(data)} == named


def test_a_folder_that_changes_under_a_job_stops_it(data: str, berts: Callable[[str], str], tmp_path: Path) -> None:
    chosen = LanguageModel.open(berts("first")).entry
    shutil.copytree(berts("second"), tmp_path / "changed")
    deriver = ShardDeriver(settings(data, str(tmp_path / "changed")), Dataset.open(data), chosen)
    with pytest.raises(ConfigError, match=r"holds changed \(.* on this worker, but the job started with first"):
        deriver({"number": 0, "name": "any"})


def test_a_language_model_and_its_use_are_named_together(
    data: str, berts: Callable[[str], str], tmp_path: Path
) -> None:
    for wrong in (settings(data, None), settings(data, berts("first"), "text")):
        with pytest.raises(ConfigError, match=r"--modalities text_embedding.*--language-model"):
            main(wrong)
    with pytest.raises(ConfigError, match="no language model at"):
        main(settings(data, str(tmp_path / "nothing")))
    torch.save({}, tmp_path / "pytorch_model.bin")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(berts("first")) / name, tmp_path / name)
    with pytest.raises(ConfigError, match="pickle"):
        main(settings(data, str(tmp_path)))
    assert "text_embedding" not in Dataset.open(data).manifest.modalities


def test_a_dataset_without_embeddings_keeps_the_identity_it_had(data: str) -> None:
    manifest = Manifest.read(data)
    assert "language_model" not in json.dumps(manifest.model_dump(mode="json"))
    assert "language_model" not in (Path(data) / "manifest.json").read_text()


def test_a_model_trains_on_the_embeddings_and_knows_whose_they_are(data: str, berts: Callable[[str], str]) -> None:
    manifest = main(settings(data, berts("first"), "text", "text_embedding"))
    features = settings_of_language_model({}, manifest.language_model, origin=data)
    assert features["width"] == 32
    config = ModelConfig(
        embedding_dim=16,
        modalities={
            "crystal": {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1}},
            "text_embedding": {
                "encoder": "text-embedding-multimat",
                "options": {"inputs": 32},
                "features": features,
            },
        },
    )
    torch.manual_seed(0)
    model = Model(config, prepare(config, {}))
    materials = list(Dataset.open(data).materials())[:32]
    modalities = {name: make_modality(name, spec.features) for name, spec in config.modalities.items()}
    batch = make_batch(materials, modalities)
    assert batch.present["text_embedding"].all()
    before = {name: p.detach().clone() for name, p in model.encoders["text_embedding"].named_parameters()}
    losses: list[float] = []
    run = PretrainConfig(data=data, out="none", model=config, batch_size=32, log_every_steps=1, optimiser={"lr": 3e-3})
    train(run, model, [batch] * 30, total_steps=30, on_log=lambda record: losses.append(record["loss"]))
    assert losses[-1] < losses[0] - 0.3
    assert all(not torch.equal(p, before[name]) for name, p in model.encoders["text_embedding"].named_parameters())
    restored = Model.from_files(model.to_files(), origin="memory")
    identity = manifest.language_model.identity if manifest.language_model else ""
    assert restored.config.modalities["text_embedding"].features["language_model"] == identity


def test_a_trained_model_knows_the_language_model_and_refuses_anothers_vectors(
    data: str, berts: Callable[[str], str], tmp_path: Path
) -> None:
    other = str(tmp_path / "other")
    shutil.copytree(data, other)
    entry = main(settings(data, berts("first"))).language_model
    main(settings(other, berts("second")))
    config = Pretrain(
        data=data,
        out=str(tmp_path / "runs"),
        model=ModelConfig(
            embedding_dim=16,
            modalities={
                "crystal": ModalitySpec(encoder="gated-graph", options={"hidden": 8, "layers": 1}),
                "text_embedding": ModalitySpec(encoder="text-embedding-clasp", options={"inputs": 32, "layers": [16]}),
            },
        ),
        batch_size=16,
        max_steps=1,
        num_workers=1,
        loggers=("csv",),
    )
    model = pretrain(config)
    assert entry is not None
    features = Model.from_pretrained(model).config.modalities["text_embedding"].features
    assert (features["language_model"], features["width"]) == (entry.identity, 32)
    with pytest.raises(ConfigError, match="made by second"):
        embed.main(Embed(model=model, data=other, out=str(tmp_path / "vectors"), modality="text_embedding"))
