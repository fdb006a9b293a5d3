"""Numbers in texts keep their size: near numbers have near vectors, and counts and formulas stay words."""

from __future__ import annotations

import pytest
import torch

from crystalign.encoders.bert import Bert
from crystalign.encoders.number_tokens import NumberEmbedding, split_numbers
from crystalign.errors import ConfigError
from crystalign.modalities.text import Text, TextModality

CAPTIONS = [
    Text(f"{formula} is an oxide. The atoms are densely packed, {volume} Å³ per atom. Bond length {length} Å.")
    for formula, volume, length in [("Fe2O3", 10, 2.06), ("TiO2", 11, 1.95), ("NaCoO2", 14, 1.91)]
]
SETTINGS = {"numbers": "values", "hidden": 16, "layers": 1, "heads": 2, "max_tokens": 32}


@pytest.mark.parametrize(
    ("text", "expected", "values"),
    [
        ("bonded to 4 O (tetrahedral, 2.06 Å)", "bonded to 4 O (tetrahedral, [NUM] Å)", [2.06]),
        ("44 Å³ per atom, P1 (1), Fm-3m (225)", "[NUM] Å³ per atom, P1 (1), Fm-3m (225)", [44.0]),
        ("Fe0.95O and Li2FeSiO4", "Fe0.95O and Li2FeSiO4", []),
        ("an energy of -1.5 eV or −0.25 eV", "an energy of [NUM] eV or [NUM] eV", [-1.5, -0.25]),
        ("a 200 GPa modulus, gap 3 eV.", "a [NUM] GPa modulus, gap [NUM] eV.", [200.0, 3.0]),
        ("version 1.2.3 of 12 files", "version 1.2.3 of 12 files", []),
        ("9" * 40 + " Å", "9" * 40 + " Å", []),
    ],
)
def test_measured_numbers_become_tokens_and_counts_and_formulas_stay(text, expected, values):
    assert split_numbers(text) == (expected, values)


def make(**options) -> Bert:
    torch.manual_seed(0)
    settings = Bert.Settings(**(SETTINGS | options))
    return Bert.build(settings, Bert.prepare(settings, CAPTIONS)).eval()


def encode(encoder: Bert, *texts: str) -> torch.Tensor:
    modality = TextModality(TextModality.Settings())
    with torch.inference_mode():
        return encoder(modality.collate([modality.featurise(Text(text)) for text in texts]))


def test_near_numbers_have_near_vectors():
    vectors = encode(make(), *(f"Bond length {x} Å." for x in ("2.06", "2.07", "2.50", "9.00")))
    near, further, far = (float((vectors[0] - vectors[i]).norm()) for i in (1, 2, 3))
    assert 0.0 < near < further / 3
    assert near < far / 3


def test_the_embedding_is_that_of_the_formula_and_zero_elsewhere():
    embedding = NumberEmbedding(4, token=7).double()
    values = embedding(torch.tensor([[1, 7, 7], [7, 2, 0]]), [[10.0, -0.5, 3.0], [2.0]])
    for row, column, x in ((0, 1, 10.0), (0, 2, -0.5), (1, 0, 2.0)):
        u = torch.tensor(abs(x), dtype=torch.float64).log10()
        angles = torch.stack([2 * torch.pi * 2.0**k * u for k in range(-2, 7)])
        sign = torch.tensor([1.0 if x > 0 else -1.0], dtype=torch.float64)
        features = torch.cat([sign, u[None], angles.sin(), angles.cos()])
        torch.testing.assert_close(values[row, column], embedding.linear(features))
    assert not values[0, 0].any()
    assert not values[1, 1:].any()


def test_numbers_beyond_the_longest_text_are_ignored_and_text_can_name_the_token():
    encoder = make(max_tokens=8)
    long = "densely packed " * 4 + "1.5 Å " * 3
    assert encode(encoder, long, "[NUM] Å of [NUM]", "1.5 Å").isfinite().all()


def test_the_encoder_reads_its_own_files_and_gives_the_same_vectors():
    encoder = make()
    again = Bert.restore(encoder.settings, encoder.files()).eval()
    again.load_state_dict(encoder.state_dict())
    texts = ("Bond length 2.06 Å.", "TiO2 is an oxide.")
    torch.testing.assert_close(encode(again, *texts), encode(encoder, *texts), rtol=0, atol=0)


def test_a_published_encoder_is_refused_with_values():
    with pytest.raises(ConfigError, match="no token for numbers"):
        Bert.prepare(Bert.Settings(numbers="values", pretrained="somewhere"), CAPTIONS)
