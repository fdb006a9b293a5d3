"""Named settings of a pre-training run, as functions: a variant is a call and a changed value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crystalign.errors import ConfigError
from crystalign.model_config import ModalitySpec, ModelConfig


def tiny_model() -> ModelConfig:
    """The six modalities of the demo, small enough for about 1,200 crystals in two minutes on two cores."""
    return ModelConfig(
        embedding_dim=96,
        modalities={
            "crystal": ModalitySpec(
                encoder="dual-space", options={"direct": {"hidden": 48, "layers": 3}, "hidden": 192}
            ),
            "dos": ModalitySpec(encoder="dos-transformer", options={"hidden": 64, "layers": 2, "patch": 10}),
            "charge_density": ModalitySpec(encoder="conv3d", options={"channels": [8, 16, 24]}),
            "xrd": ModalitySpec(encoder="xrd-resnet", options={"channels": [16, 32, 48], "reduced": 32, "hidden": 192}),
            "text": ModalitySpec(encoder="bert", options={"hidden": 64, "layers": 1, "vocabulary": 1500}),
            "composition": ModalitySpec(encoder="composition-transformer", options={"hidden": 64, "layers": 1}),
        },
    )


def default_model() -> ModelConfig:
    """Crystal, powder pattern, text and composition: what 20,000 to 150,000 real crystals train in an hour."""
    return ModelConfig(
        embedding_dim=192,
        modalities={
            "crystal": ModalitySpec(encoder="dual-space", options={"direct": {"hidden": 64, "layers": 4}}),
            "xrd": ModalitySpec(encoder="xrd-resnet"),
            "text": ModalitySpec(encoder="bert", options={"hidden": 96, "layers": 2, "max_tokens": 96}),
            "composition": ModalitySpec(encoder="composition-transformer", options={"hidden": 96, "layers": 1}),
        },
    )


def tiny() -> dict[str, Any]:
    """The demo: every modality, two minutes."""
    return {
        "model": tiny_model(),
        "batch_size": 128,
        "epochs": 24,
        "max_minutes": 2.0,
        "optimiser": {"lr": 2e-3, "weight_decay": 0.05, "warmup_fraction": 0.08},
        "checkpoint_every_steps": 100,
        "log_every_steps": 5,
    }


def default() -> dict[str, Any]:
    """Real data on two cores within an hour."""
    return {
        "model": default_model(),
        "batch_size": 256,
        "epochs": 60,
        "max_minutes": 40.0,
        "optimiser": {"lr": 1.5e-3, "weight_decay": 0.05, "warmup_fraction": 0.05},
        "checkpoint_every_steps": 200,
    }


PRESETS: dict[str, Callable[[], dict[str, Any]]] = {"tiny": tiny, "default": default}


def preset(name: str) -> dict[str, Any]:
    """The settings of a preset, to be completed with `data` and `out` into a `PretrainConfig`.

    Raises:
        ConfigError: no such preset.
    """
    if name not in PRESETS:
        message = f"no preset {name!r}; there are {', '.join(PRESETS)}"
        raise ConfigError(message)
    return PRESETS[name]()
