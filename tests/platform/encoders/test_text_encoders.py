"""Published text encoders: frozen, or tuned slowly; pooled and given a head as in the papers."""

from __future__ import annotations

import pytest
import torch

from crystalign.encoders import ENCODERS, encoder_settings, make_encoder
from crystalign.encoders.bert import Bert, TokenMean, train_tokenizer
from crystalign.modalities import make_modality

WORDS = ["Fe2O3 is trigonal", "a perovskite", "NaCl, cubic, rock salt, two sites in the cell"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with a small BERT that drops half of its activations in training."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    tokenizer = train_tokenizer(WORDS, vocabulary=120, max_tokens=16)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=tokenizer.get_vocab_size(), hidden_dropout_prob=0.5, **size)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    return str(folder)


def encoder(published, name="bert", **options):
    options |= {"pretrained": published}
    torch.manual_seed(0)
    return make_encoder(name, options, Bert.prepare(encoder_settings(name, options), []))


def batch():
    modality = make_modality("text")
    return modality.collate([modality.featurise(text) for text in WORDS])


def count(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_a_frozen_encoder_learns_its_head_alone_and_drops_nothing(published):
    model = encoder(published, "text-multimat").train()
    learned = [name for name, p in model.named_parameters() if p.requires_grad]
    assert learned
    assert all(name.startswith("head.") for name in learned)
    torch.testing.assert_close(model(batch()), model(batch()), rtol=0, atol=0)
    tuned = encoder(published).train()
    assert not torch.equal(tuned(batch()), tuned(batch()))  # dropout acts where the weights are trained


def test_the_heads_have_the_published_sizes(published):
    assert count(make_encoder("text-embedding-multimat")) == 722_048
    assert count(make_encoder("text-embedding-clasp")) == 3 * (768 * 768 + 768)
    for name in ("multimat", "clasp"):
        text, vector = ENCODERS[f"text-{name}"], ENCODERS[f"text-embedding-{name}"]
        assert text.options["head"] == vector.options["layers"]
        assert encoder(published, f"text-{name}").width == text.options["head"][-1]


def test_learned_weights_start_as_the_mean_and_ignore_padding(published):
    model, plain = encoder(published, pooling="attention").eval(), encoder(published).eval()
    torch.testing.assert_close(model(batch()), plain(batch()))
    torch.manual_seed(1)
    torch.nn.init.normal_(model.pooling.score)
    with torch.no_grad():
        together = model(batch())
        alone = torch.cat([model.read([text], torch.device("cpu")) for text in WORDS])
    assert (together - plain(batch())).abs().max() > 0.01
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_learned_weights_are_a_softmax():
    pool = TokenMean(2)
    torch.nn.init.ones_(pool.score)
    states = torch.tensor([[[0.0, 0.0], [1.0, 2.0], [9.0, 9.0]]])
    share = torch.tensor([0.0, 3.0]).softmax(0)[1]
    expected = torch.stack([share, 2 * share])[None]
    torch.testing.assert_close(pool(states, torch.tensor([[1, 1, 0]])), expected)


def test_what_is_made_on_the_spot_is_always_trained():
    settings = encoder_settings("text-multimat", {"hidden": 16, "heads": 2})
    model = make_encoder("text-multimat", {"hidden": 16, "heads": 2}, Bert.prepare(settings, WORDS))
    assert all(p.requires_grad for p in model.parameters())
    assert model.lr_scales == {}
