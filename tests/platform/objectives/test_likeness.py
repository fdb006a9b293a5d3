"""Rows that a text fits are not its negatives; compared with sets in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crystalign.batch import Batch, make_batch
from crystalign.material import Material, Provenance
from crystalign.modalities import make_modality
from crystalign.modalities.text import Text
from crystalign.objectives.likeness import CLAIMS, Likeness, fits, indistinct
from crystalign.physics.caption import caption_of
from crystalign.physics.facts import crystal_facts
from crystalign.physics.symmetry import symmetry
from crystalign.sources.prototypes import library


@pytest.mark.parametrize("seed", range(20))
def test_a_row_fits_where_all_its_claims_are_facts(seed):
    rng = np.random.default_rng(seed)
    claims, facts = rng.integers(0, 8, (30, 4)), rng.integers(0, 8, (25, 6))
    for row in claims:  # every claim once, as in a batch
        row[[bool(row[i] in row[:i]) for i in range(4)]] = 0
    claims[claims == 7] = -(2**62)
    facts[facts == 7] = -(2**62)
    expected = [[bool(set(c) - {0}) and set(c) - {0} <= set(f) - {0} for f in facts.tolist()] for c in claims.tolist()]
    found = fits(torch.from_numpy(claims), torch.from_numpy(facts))
    assert found.tolist() == expected
    assert 0 < found.sum() < found.numel()


def test_the_direction_of_a_text_matters():
    text = Likeness(torch.arange(2), torch.tensor([[5], [6]]), torch.tensor([[5, 6], [6, 7]]))
    crystal = Likeness(torch.arange(2) + 10)
    assert indistinct(text, crystal, 0, 2).tolist() == [[False, False], [True, False]]  # text 1 is true of crystal 0
    assert indistinct(crystal, text, 0, 2).tolist() == [[False, True], [False, False]]
    assert indistinct(text, crystal, 1, 2).tolist() == [[True, False]]


@pytest.fixture(scope="module")
def batch() -> Batch:
    materials: list[Material | None] = []
    for label, crystal in library()[:60:3]:
        facts = crystal_facts(crystal, symmetry(crystal))
        text = Text(caption_of(facts), generated=True, facts_json=facts.model_dump_json())
        materials.append(Material(label, crystal, Provenance("test", "CC0-1.0"), {"text": text}))
    materials.append(Material("person", library()[1][1], Provenance("test", "CC0-1.0"), {"text": Text("by a person")}))
    materials.append(None)
    modality = make_modality("text", {"phrasing": 1.0})
    return make_batch(materials, {"text": modality}, [np.random.default_rng(n) for n in range(len(materials))])


def test_a_training_batch_has_the_claims_of_its_texts(batch):
    claims, facts = batch.keys["text/claims"], batch.keys["text/facts"]
    assert claims.shape[1] == CLAIMS
    own = fits(claims, facts).diagonal()
    assert own[:-2].all(), "a text is true of its own crystal"
    assert not claims[-2:].any(), "nothing is known about a text by a person, nor of a surplus row"
    assert not own[-2:].any()


def test_claims_survive_the_way_to_the_worker(batch):
    again = Batch.from_bytes(batch.to_bytes())
    assert again.keys.keys() == batch.keys.keys()
    assert all(torch.equal(again.keys[name], key) for name, key in batch.keys.items())
