"""Space groups learned from powder patterns, and what was learned put into a model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from crystalign.encoders import encoder_class, encoder_settings
from crystalign.encoders.pretrained import save_weights
from crystalign.errors import ConfigError, DatasetError
from crystalign.material import Material
from crystalign.physics.diffraction import powder_peaks
from crystalign.rejects import Reject
from crystalign.sources.prototypes import PrototypeSource
from crystalign.training.spacegroup import SpaceGroupConfig, labelled_patterns, pretrain_space_groups

OPTIONS = {"channels": (16, 32, 64), "blocks": (1, 1, 1)}


@pytest.fixture(scope="module")
def materials() -> list[Material]:
    source = PrototypeSource(count=100, seed=0)
    found = [m for item in source.items() for m in source.read(item)]
    return [replace(m, modalities={"xrd": powder_peaks(m.crystal)}) for m in found if not isinstance(m, Reject)]


def test_the_label_is_the_space_group_of_the_row_or_of_the_crystal(materials):
    known = labelled_patterns(materials[:20])
    asked = labelled_patterns([replace(m, spacegroup_number=None) for m in materials[:20]])
    assert [p.number for p in known] == [p.number for p in asked]
    assert len({p.number for p in known}) > 5
    assert labelled_patterns([replace(materials[0], modalities={})]) == []


def test_the_loss_falls_and_what_was_learned_enters_an_encoder(materials, tmp_path, capsys):
    config = SpaceGroupConfig(epochs=8, batch_size=16, lr=3e-3, augment=False)
    network, result = pretrain_space_groups("matbind-xrd", labelled_patterns(materials), config, options=OPTIONS)
    assert result.losses[-1] < 0.75 * result.losses[0]
    assert 0.0 <= result.accuracy <= 1.0
    assert "unseen patterns" in capsys.readouterr().out
    path = tmp_path / "spacegroup.safetensors"
    path.write_bytes(save_weights(network))
    cls, settings = encoder_class("matbind-xrd"), encoder_settings("matbind-xrd", OPTIONS | {"pretrained": str(path)})
    again = cls.build(settings, cls.prepare(settings, []))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))


def test_equal_seeds_learn_the_same(materials):
    patterns, config = labelled_patterns(materials[:24]), SpaceGroupConfig(epochs=1, batch_size=8)
    size = {"channels": (8, 16), "hidden": 16}
    losses = [pretrain_space_groups("xrd-resnet", patterns, config, options=size)[1].losses for _ in range(2)]
    assert losses[0] == losses[1]


def test_an_encoder_of_something_else_or_no_pattern_is_refused():
    with pytest.raises(ConfigError, match="'dos'"):
        pretrain_space_groups("dos-transformer", [])
    with pytest.raises(DatasetError, match="none of 0 patterns"):
        pretrain_space_groups("matbind-xrd", [])
