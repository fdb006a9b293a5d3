"""Compositions as tokens of elements and as words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crystalign.encoders import make_encoder
from crystalign.encoders.composition_text import CompositionText, composition_words
from crystalign.encoders.crabnet import fractional_encoding
from crystalign.modalities import make_modality
from crystalign.modalities.composition import parse_formula


def words(formula):
    found = parse_formula(formula)
    return composition_words([*found.atomic_numbers.tolist(), 0], [*found.fractions.astype(np.float32).tolist(), 0.0])


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("Fe2O3", "Fe 2 O 3"),
        ("Fe4O6", "Fe 2 O 3"),
        ("Cu", "Cu 1"),
        ("Li0.5CoO2", "Co 2 Li 1 O 4"),
        ("Ca10P6O26H2", "Ca 5 H 1 O 13 P 3"),
        ("Mg149Al", "Al 1 Mg 149"),
        ("Fe0.9973C0.0027", "C 0.27 Fe 99.73"),
        ("YBa2Cu3O6.93", "Ba 15.47 Cu 23.2 O 53.6 Y 7.73"),
    ],
)
def test_a_composition_is_written_as_elements_and_amounts(formula, expected):
    assert words(formula) == expected


def test_every_element_and_amount_is_a_word():
    settings = CompositionText.Settings()
    tokenizer = CompositionText.build(settings, CompositionText.prepare(settings, []))._tokenizer
    assert tokenizer.encode("Fe 2 O 3").tokens == ["[CLS]", "Fe", "2", "O", "3", "[SEP]"]
    assert tokenizer.encode("Og 137 C 99.73").tokens[1:-1] == ["Og", "137", "C", "99", "##.", "##7", "##3"]
    assert CompositionText.prepare(settings, []) == CompositionText.prepare(settings, ["other", "values"])


def test_a_published_text_encoder_reads_the_words(tmp_path):
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from crystalign.encoders.bert import word_tokenizer

    tokenizer = word_tokenizer(["Fe", "O", "2", "3"], max_tokens=16)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=tokenizer.get_vocab_size(), **size)).save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(tmp_path)
    options = {"pretrained": str(tmp_path), "max_tokens": 16}
    files = CompositionText.prepare(CompositionText.Settings(**options), [])
    encoder = make_encoder("composition-text", options, files)
    modality = make_modality("composition")
    inputs = modality.collate([modality.featurise(parse_formula("Fe2O3"))])
    torch.testing.assert_close(encoder.eval()(inputs), encoder.read(["Fe 2 O 3"], torch.device("cpu")))


def test_crabnet_has_its_published_number_of_parameters():
    with torch.device("meta"):
        encoder = make_encoder("crabnet")
    learned = sum(p.numel() for name, p in encoder.named_parameters() if not name.startswith("elements"))
    assert learned == 11_987_206 - 3 * (128 + 1)  # without the layer that predicts three numbers


def test_fractions_are_waves_of_their_rounded_value():
    found = fractional_encoding(torch.tensor([[0.5, 0.50001, 1.0, 0.0]]), 8, 5000)[0]
    torch.testing.assert_close(found[0], found[1])
    expected = [2499 / 50 ** (2 * i / 8) for i in range(8)]
    expected = [np.sin(a) if i % 2 == 0 else np.cos(a) for i, a in enumerate(expected)]
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-4)
    assert (found[0] - found[2]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["crabnet", "composition-transformer"])
def test_the_proportions_matter_and_the_padding_does_not(name):
    torch.manual_seed(0)
    encoder, modality = make_encoder(name).eval(), make_modality("composition")
    samples = [modality.featurise(parse_formula(f)) for f in ("FeO", "Fe2O3", "Fe3O4", "LiFePO4")]
    with torch.no_grad():
        together, alone = encoder(modality.collate(samples)), encoder(modality.collate(samples[:3]))
    torch.testing.assert_close(together[:3], alone, rtol=1e-4, atol=1e-5)
    assert (together[1] - together[2]).norm() > 1e-3 * together[1].norm()
