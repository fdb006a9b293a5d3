"""A language model that is not trained: what it is, what it gives, and what is no language model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from crystalign import storage
from crystalign.encoders import encoder_settings, make_encoder
from crystalign.encoders.bert import Bert, train_tokenizer
from crystalign.encoders.language_model import TEXTS_PER_BATCH, LanguageModel
from crystalign.errors import ConfigError

SENTENCES = ["NaCl is cubic, a rock salt", "Fe2O3 is trigonal", "a perovskite of calcium and titanium with a gap"]
TEXTS = [" ".join((SENTENCES * 9)[: 1 + n % 7]) + f" cell {n}" for n in range(2 * TEXTS_PER_BATCH + 5)]
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}


def save(folder: Path, kind: str = "Bert", **changes) -> str:
    """A small network of a family, with a tokenizer of its own."""
    import transformers

    tokenizer = train_tokenizer(TEXTS, vocabulary=160, max_tokens=512)
    size = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 64, "pad_token_id": 0}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**size | SMALL | {"initializer_range": 0.2} | changes)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")
    fast.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("language") / "small-bert")


@pytest.fixture
def copy(folder, tmp_path):
    """Another folder with the same files, to be changed."""
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_text_has_the_same_vector_alone_and_in_any_batch(folder, pooling):
    model = LanguageModel.open(folder, pooling=pooling)
    together = model.embed(TEXTS)
    alone = np.concatenate([model.embed([text]) for text in TEXTS])
    assert together.shape == (len(TEXTS), 24)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.embed(TEXTS[::-1])[::-1], together, rtol=0, atol=1e-5)
    apart = np.linalg.norm(together[:, None] - together[None], axis=-1)[np.triu_indices(len(TEXTS), 1)]
    assert apart.min() > 1e-3  # the texts are told apart, so that the equalities above say something


def test_it_gives_what_the_frozen_text_encoder_gives_to_its_head(folder):
    options = {"pretrained": folder, "frozen": True, "pooling": "cls", "max_tokens": 64}
    encoder = make_encoder("bert", options, Bert.prepare(encoder_settings("bert", options), [])).eval()
    with torch.no_grad():
        expected = encoder.read(TEXTS[:5], torch.device("cpu")).numpy()
    np.testing.assert_allclose(LanguageModel.open(folder).embed(TEXTS[:5]), expected, rtol=0, atol=1e-5)


def test_its_identity_is_its_files_and_how_it_is_asked_not_its_name(folder, copy):
    entry = LanguageModel.open(folder).entry
    assert (entry.name, entry.pooling, entry.max_tokens, entry.width) == ("small-bert", "cls", 64, 24)
    other = LanguageModel.open(str(copy)).entry
    assert (other.name, other.identity) == ("copy", entry.identity)
    (copy / "README.md").write_text("a card")
    (copy / "pytorch_model.bin").write_bytes(b"a pickle beside the weights")
    assert LanguageModel.open(str(copy)).entry.identity == entry.identity
    asked_otherwise = [
        LanguageModel.open(folder, pooling="mean").entry.identity,
        LanguageModel.open(folder, max_tokens=32).entry.identity,
    ]
    weights = load_file(copy / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][7, 3] += 1e-3
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert len({entry.identity, LanguageModel.open(str(copy)).entry.identity, *asked_otherwise}) == 4


def test_longer_texts_are_cut(folder):
    model = LanguageModel.open(folder, max_tokens=8)
    long = "NaCl is cubic, a rock salt"
    assert model.entry.max_tokens == 8
    np.testing.assert_allclose(model.embed([long])[0], model.embed([f"{long} of calcium"])[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("DistilBert", {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 32}),
        ("Roberta", {"max_position_embeddings": 65}),
        ("Electra", {"embedding_size": 24}),
        ("ModernBert", {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}),
    ],
)
def test_other_families_are_read(tmp_path, kind, names):
    model = LanguageModel.open(save(tmp_path / kind, kind, **names), max_tokens=48)
    alone = np.concatenate([model.embed([text]) for text in TEXTS[:9]])
    np.testing.assert_allclose(model.embed(TEXTS[:9]), alone, rtol=0, atol=1e-5)


def test_a_folder_in_an_object_store_is_the_same_language_model(folder, s3):
    for path in Path(folder).iterdir():
        storage.upload(path, f"{s3}/small-bert/{path.name}")
    found, local = LanguageModel.open(f"{s3}/small-bert/"), LanguageModel.open(folder)
    assert found.entry == local.entry
    np.testing.assert_array_equal(found.embed(TEXTS[:3]), local.embed(TEXTS[:3]))


def test_pickled_weights_are_never_read(copy):
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"copy: no published network with safetensors.*pickle.*save_pretrained"):
        LanguageModel.open(str(copy))


def test_code_that_comes_with_it_is_not_run(copy, capsys):
    described = json.loads((copy / "config.json").read_text())
    (copy / "theirs.py").write_text("print('ran')\nfrom transformers import BertConfig as C, BertModel as M\n")
    described["auto_map"] = {"AutoConfig": "theirs.C", "AutoModel": "theirs.M"}
    (copy / "config.json").write_text(json.dumps(described))
    LanguageModel.open(str(copy))
    (copy / "config.json").write_text(json.dumps(described | {"model_type": "theirs"}))
    with pytest.raises(ConfigError, match="no language model at"):
        LanguageModel.open(str(copy))
    assert "ran" not in capsys.readouterr().out


def test_weights_that_are_missing_are_not_drawn_at_random(copy):
    weights = load_file(copy / "model.safetensors")
    pooler = {name for name in weights if name.startswith("pooler.")}
    assert pooler
    fewer = {name: tensor for name, tensor in weights.items() if name not in pooler}
    save_file(fewer, copy / "model.safetensors", {"format": "pt"})
    LanguageModel.open(str(copy))  # a head for another task may be missing
    del fewer["encoder.layer.1.output.dense.weight"]
    save_file(fewer, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 1 of .*encoder\.layer\.1\.output\.dense\.weight"):
        LanguageModel.open(str(copy))


@pytest.mark.parametrize("gone", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_is_no_language_model(copy, gone):
    (copy / gone).unlink()
    with pytest.raises(ConfigError, match=f"no language model at {copy}"):
        LanguageModel.open(str(copy))


def test_what_is_no_folder_is_no_language_model(tmp_path):
    with pytest.raises(ConfigError, match=r"no language model at .*config\.json.*hf download"):
        LanguageModel.open(str(tmp_path / "nothing"))
    (tmp_path / "file").write_text("words")
    with pytest.raises(ConfigError, match="no language model at"):
        LanguageModel.open(str(tmp_path / "file"))


def test_what_it_cannot_read_is_told_before_the_first_text(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"max_tokens 65, but .* reads 64: lower it"):
        LanguageModel.open(folder, max_tokens=65)
    roberta = save(tmp_path / "roberta", "Roberta")  # two of its 64 positions are no tokens
    with pytest.raises(ConfigError, match=r"does not read texts of 64 tokens.*lower"):
        LanguageModel.open(roberta)
    LanguageModel.open(roberta, max_tokens=62)


def test_a_first_token_that_sees_no_other_is_no_vector_of_a_text(tmp_path):
    names = {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 64, "bos_token_id": 2, "eos_token_id": 3}
    causal = save(tmp_path / "causal", "GPT2", **names)
    with pytest.raises(ConfigError, match=r"same vector with pooling 'cls'.*choose pooling 'mean'"):
        LanguageModel.open(causal, max_tokens=32)
    LanguageModel.open(causal, pooling="mean", max_tokens=32)


def test_broken_weights_are_told(copy):
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][0] = torch.nan
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="not finite"):
        LanguageModel.open(str(copy))
