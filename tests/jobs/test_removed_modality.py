"""A modality that is removed from a preset on the command line takes its pairs along."""

from __future__ import annotations

import pytest

from crystalign.errors import ConfigError
from crystalign.model_config import ModelConfig
from crystalign.training.presets import default_model
from crystalign_jobs.settings import changed


def without(*names: str) -> ModelConfig:
    config = default_model()
    for name in names:
        config = changed(ModelConfig, config, f"modalities.{name}=null")
    return ModelConfig.model_validate(config.model_dump())


def test_its_pairs_and_weights_go():
    assert without("composition").aligned == (("crystal", "xrd"), ("crystal", "text"), ("xrd", "text"))
    left = without("text")
    assert left.aligned == (("crystal", "xrd"), ("crystal", "composition"))
    assert left.objective.pair_weights == {"crystal-xrd": 2.0}
    assert without("text", "composition").aligned == (("crystal", "xrd"),)


def test_other_settings_stay():
    assert without("composition").objective.pair_weights == default_model().objective.pair_weights
    assert set(without("composition").modalities) == {"crystal", "xrd", "text"}


def test_pairs_that_the_user_lists_are_not_dropped_silently():
    config = changed(ModelConfig, default_model(), "objective.pairs=[[crystal,xrd],[crystal,dos]]")
    with pytest.raises((ConfigError, ValueError), match="dos"):
        ModelConfig.model_validate(config.model_dump())
