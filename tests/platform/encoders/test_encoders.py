"""What holds for every encoder."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from crystalign.encoders import ENCODERS, encoder_class, encoder_settings, make_encoder
from crystalign.encoders.bert import Bert
from crystalign.encoders.pyg import MODELS
from crystalign.errors import ConfigError
from crystalign.modalities import make_modality

WORDS = ["Fe2O3 is trigonal, space group R-3c (167)", "CoO crystallises as rock salt", "a perovskite", "NaCl, cubic"]


PUBLISHED_PARAMETERS = {
    "dos-transformer-multimat": (1_611_392, 1),
    "dos-transformer-matbind": (6_400_000 - 1_024 - 512 * 128, 50_000),  # published with the projection to 128
    "resnext3d": (26_100_000, 50_000),
    "matbind-xrd": (5_000_000, 500_000),
    "cgcnn": (80_704, 1),  # of the released code, less its 129 from the vector to one number
    "cgcnn-clasp": (1_942_976, 1),  # of the released configuration
    "matbind-gcn": (471_680 + 22 * 128, 1),  # of the released configuration, and 118 elements for its 96
}
"""Name → the count, and half a unit of the last digit that was published."""


NAMES = [name for name in ENCODERS if name != "pyg"] + [f"pyg {model}" for model in MODELS]
"""Every network: those of one entry by their option `model`."""
POINTS = {"dos-transformer-multimat": 101, "dos-transformer-matbind": 101}
"""Shorter spectra for networks whose cost grows with the square of their length."""


def build(name, seed=0, *, whole=False):
    torch.manual_seed(seed)
    name, _, model = name.partition(" ")
    options = {"bins": POINTS[name]} if name in POINTS and not whole else {"model": model} if model else {}
    files = encoder_class(name).prepare(encoder_settings(name, options), WORDS)
    return make_encoder(name, options, files).eval()


def modality_of(name):
    shorter = {"points": POINTS[name]} if name in POINTS else {}
    entry = ENCODERS[name.partition(" ")[0]]
    return make_modality(entry.modality, entry.features | shorter)


def features(name, synthetic_materials, n):
    """A modality and the features of n materials."""
    modality = modality_of(name)
    return modality, [modality.featurise(m.value(modality.name)) for m in synthetic_materials(n)]


@pytest.mark.parametrize("name", NAMES)
def test_one_vector_per_sample_whose_gradient_reaches_every_weight(name, synthetic_materials):
    modality, samples = features(name, synthetic_materials, 4)
    encoder = build(name)
    vectors = encoder(modality.collate(samples))
    assert vectors.shape == (4, encoder.width)
    weights = torch.linspace(-1, 1, encoder.width)
    ((vectors * weights).sum(dim=1) ** 2).sum().backward()
    silent = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias that a norm removes, and keys' biases, which softmax ignores, have none by construction.
    assert [n for n in silent if not n.endswith("key.bias")] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_has_the_same_vector_in_any_batch(name, synthetic_materials):
    modality, samples = features(name, synthetic_materials, 5)
    encoder = build(name)
    with torch.no_grad():
        together = encoder(modality.collate(samples))
        alone = torch.cat([encoder(modality.collate([sample])) for sample in samples])
        turned = encoder(modality.collate(samples[::-1])).flip(0)
    assert (together - together[0]).abs().max() > 1e-4  # they differ at all
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(turned, together, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_forward_and_backward_are_finite(name, synthetic_materials):
    modality, samples = features(name, synthetic_materials, 4)
    encoder = build(name)
    inputs = modality.collate(samples)
    with torch.no_grad():
        exact = encoder(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = encoder(inputs)
    vectors.float().square().sum().backward()
    assert torch.isfinite(vectors).all()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)
    assert (vectors.float() - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("name", NAMES)
def test_weights_written_to_safetensors_give_the_same_vectors(name, synthetic_materials, tmp_path):
    modality, samples = features(name, synthetic_materials, 3)
    inputs = modality.collate(samples)
    first, second = build(name), build(name, seed=1)
    save_file({k: t.contiguous() for k, t in first.state_dict().items()}, tmp_path / "weights.safetensors")
    with torch.no_grad():
        expected = first(inputs)
        assert not torch.equal(second(inputs), expected)
        second.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        assert torch.equal(second(inputs), expected)


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_a_network_has_as_many_weights_as_the_published_one(name):
    published, tolerance = PUBLISHED_PARAMETERS[name]
    assert abs(sum(p.numel() for p in build(name, whole=True).parameters()) - published) < tolerance


@pytest.mark.parametrize("name", NAMES)
def test_no_statistics_across_samples(name):
    assert not [m for m in build(name).modules() if isinstance(m, nn.modules.batchnorm._NormBase)]


@pytest.mark.parametrize("name", NAMES)
def test_the_stand_in_is_harmless(name):
    modality = modality_of(name)
    assert torch.isfinite(build(name)(modality.collate([modality.empty_sample()]))).all()


@pytest.mark.parametrize("name", ENCODERS)
def test_each_entry_names_its_paper_and_documents_its_settings(name):
    cls = encoder_class(name)
    assert ENCODERS[name].source
    assert cls.__doc__
    assert all(field.description for field in cls.Settings.model_fields.values())


def test_an_unknown_encoder_or_option_is_refused():
    with pytest.raises(ConfigError, match="cgcnn"):
        make_encoder("cgnn")
    with pytest.raises(ConfigError, match="layer"):
        make_encoder("cgcnn", {"layer": 3})
    with pytest.raises(ConfigError, match="patch 7"):
        make_encoder("dos-transformer", {"patch": 7})
    with pytest.raises(ConfigError, match="prepare"):
        make_encoder("bert")


def test_where_a_peak_stands_matters():
    encoder = build("xrd-resnet")
    pattern = torch.zeros(2, 1024)
    pattern[0, 300:304] = 1.0
    pattern[1, 364:368] = 1.0  # moved by a whole number of the network's strides
    with torch.no_grad():
        vectors = encoder({"pattern": pattern, "mask": torch.ones_like(pattern)})
    assert (vectors[0] - vectors[1]).norm() > 0.05 * vectors[0].norm()


def test_what_was_not_measured_does_not_matter():
    encoder = build("xrd-resnet")
    pattern = torch.rand(2, 1024)
    pattern[1, :512] = pattern[0, :512]
    mask = (torch.arange(1024) < 512).float().expand(2, -1)
    with torch.no_grad():
        vectors = encoder({"pattern": pattern, "mask": mask})
    torch.testing.assert_close(vectors[0], vectors[1])


def test_the_origin_of_a_density_does_not_matter():
    encoder = build("conv3d")
    rho = torch.rand(1, 1, 32, 32, 32)
    lattice = 4.0 * torch.eye(3)[None]
    with torch.no_grad():
        first = encoder({"rho": rho, "lattice": lattice})
        moved = encoder({"rho": rho.roll((8, 16, 24), (2, 3, 4)), "lattice": lattice})
        larger = encoder({"rho": rho, "lattice": 1.1 * lattice})
    torch.testing.assert_close(first, moved, rtol=1e-4, atol=1e-5)
    assert (first - larger).abs().max() > 1e-4


def test_formulas_are_split_into_elements_with_their_case():
    tokenizer = Bert(Bert.Settings(), Bert.prepare(Bert.Settings(), WORDS))._tokenizer
    assert tokenizer.encode("Fe2O3").tokens[1:-1] == ["Fe", "2", "O", "3"]
    assert tokenizer.encode("CoO").ids != tokenizer.encode("COO").ids


def test_the_same_captions_make_the_same_tokenizer():
    captions = [
        f"{word} of {number * 37} in {symbol}" for word in WORDS for number in range(150) for symbol in ("Co", "Ni")
    ]
    settings = Bert.Settings(vocabulary=200)  # too few for all pieces, so that ties are broken
    first = Bert.prepare(settings, captions)
    assert first == Bert.prepare(settings, captions) == Bert.prepare(settings, captions[::-1])
    tokenizer = Bert(settings, first)._tokenizer
    assert tokenizer.get_vocab_size() == 200
    assert "[UNK]" not in tokenizer.encode("9999 trigonal").tokens


def test_long_texts_are_cut_and_short_ones_padded_without_effect():
    encoder = build("bert")
    modality = make_modality("text")
    long = " ".join(["NaCl"] * 500)
    with torch.no_grad():
        alone = encoder(modality.collate([modality.featurise("NaCl")]))
        beside = encoder(modality.collate([modality.featurise(t) for t in ("NaCl", long)]))
    torch.testing.assert_close(alone[0], beside[0], rtol=1e-4, atol=1e-5)


def test_a_published_encoder_is_read_from_a_folder(tmp_path):
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from crystalign.encoders.bert import train_tokenizer

    tokenizer = train_tokenizer(WORDS, vocabulary=120, max_tokens=16)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    published = BertModel(BertConfig(vocab_size=tokenizer.get_vocab_size(), **size))
    published.save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(tmp_path)
    options = {"pretrained": str(tmp_path), "frozen": True, "pooling": "cls"}
    encoder = make_encoder("bert", options, Bert.prepare(Bert.Settings(**options), []))
    assert torch.equal(encoder.network.embeddings.word_embeddings.weight, published.embeddings.word_embeddings.weight)
    assert not any(p.requires_grad for p in encoder.parameters())
    with pytest.raises(ConfigError, match="no published text encoder"):
        Bert.prepare(Bert.Settings(pretrained=str(tmp_path / "nothing")), [])
