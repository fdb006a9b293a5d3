"""Named settings of a pre-training run, as functions that return them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crystalign.errors import ConfigError
from crystalign.model_config import ModalitySpec, ModelConfig
from crystalign.objectives.clip import Clip
from crystalign.objectives.cosface import CosFace

UNKNOWN_ENDS = {"beyond": "unknown"}
"""Feature settings for a density of states: bins outside the calculated energy range are marked as unknown."""


def tiny_model() -> ModelConfig:
    """A model of six modalities for the demo: trains on about 1,200 crystals in two minutes on two cores."""
    return ModelConfig(
        embedding_dim=96,
        modalities={
            "crystal": ModalitySpec(
                encoder="dual-space", options={"direct": {"hidden": 48, "layers": 3}, "hidden": 192}
            ),
            "dos": ModalitySpec(
                encoder="dos-transformer", options={"hidden": 64, "layers": 2, "patch": 10}, features=dict(UNKNOWN_ENDS)
            ),
            "charge_density": ModalitySpec(encoder="conv3d", options={"channels": [8, 16, 24]}),
            "xrd": ModalitySpec(encoder="xrd-resnet", options={"channels": [16, 32, 48], "reduced": 32, "hidden": 192}),
            "text": ModalitySpec(encoder="bert", options={"hidden": 64, "layers": 1, "vocabulary": 1500}),
            "composition": ModalitySpec(encoder="composition-transformer", options={"hidden": 64, "layers": 1}),
        },
    )


def default_model() -> ModelConfig:
    """A model of crystal, powder pattern, text and composition: trains on 20,000 to 150,000 crystals in an hour.

    The texts are captions, queries of a few words drawn from the same facts, and masked captions. Text is also aligned
    with pattern and composition, so that a query of words does not have to pass through the crystal.
    """
    return ModelConfig(
        embedding_dim=192,
        modalities={
            "crystal": ModalitySpec(encoder="dual-space", options={"direct": {"hidden": 64, "layers": 4}}),
            "xrd": ModalitySpec(encoder="xrd-resnet"),
            "text": ModalitySpec(
                encoder="bert",
                options={"hidden": 128, "layers": 2, "max_tokens": 128, "numbers": "values"},
                features={"phrasing": 0.4, "masking": 0.2, "clause_dropout": 0.2},
            ),
            "composition": ModalitySpec(encoder="composition-transformer", options={"hidden": 96, "layers": 1}),
        },
        objective=Clip(
            pairs=(
                ("crystal", "xrd"),
                ("crystal", "text"),
                ("crystal", "composition"),
                ("xrd", "text"),
                ("text", "composition"),
            ),
            pair_weights={"crystal-xrd": 2.0, "crystal-text": 2.0},
        ),
    )


def tiny() -> dict[str, Any]:
    """Settings of the demo: six modalities, at most two minutes of training."""
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


def multimat_paper() -> dict[str, Any]:
    """MultiMat (Moro et al., Newton 1, 100016 (2025)): AnchoredCLIP at a fixed temperature, as in the paper.

    Text is embedded by a frozen language model: `crystalign derive --modalities text_embedding
    --language-model FOLDER`, with a folder of MatBERT. There are two differences from the paper: gradients are
    clipped, and each encoder is followed by a projection to the shared space.
    """
    encoders = {
        "crystal": "potnet",
        "dos": "dos-transformer-multimat",
        "charge_density": "resnext3d",
        "text_embedding": "text-embedding-multimat",
    }
    return {
        "model": ModelConfig(
            modalities=_specs(encoders),
            embedding_dim=128,
            objective=Clip(initial_temperature=0.2, learn_temperature=False),
        ),
        "batch_size": 360,
        "epochs": 500,
        "optimiser": {"lr": 1e-4, "weight_decay": 5e-4, "betas": (0.9, 0.95), "warmup_fraction": 10 / 500},
    }


def matbind_paper() -> dict[str, Any]:
    """MatBind (ICLR workshop, 2025): DOS, powder pattern and text aligned with the crystal at a fixed temperature.

    The text encoder of the paper is MatBERT, tuned at a hundredth of the learning rate. Give its folder as
    `pretrained` in the options of `text`; otherwise a small text encoder is trained from scratch.
    """
    encoders = {
        "crystal": "matbind-gcn",
        "dos": "dos-transformer-matbind",
        "xrd": "matbind-xrd",
        "text": "text-matbind",
    }
    return {
        "model": ModelConfig(
            modalities=_specs(encoders),
            embedding_dim=128,
            objective=Clip(initial_temperature=0.07, learn_temperature=False),
        ),
        "batch_size": 250,
        "epochs": 250,
        "optimiser": {"lr": 5e-4, "weight_decay": 1e-4, "betas": (0.9, 0.95), "warmup_fraction": 0.1},
    }


def _specs(encoders: dict[str, str]) -> dict[str, ModalitySpec]:
    """Modality specs of published encoders; energies outside the calculated range are unknown, as in the papers."""
    return {
        name: ModalitySpec(encoder=encoder, features=dict(UNKNOWN_ENDS) if name == "dos" else {})
        for name, encoder in encoders.items()
    }


def clasp_paper() -> dict[str, Any]:
    """CLaSP (Suzuki et al., Mach. Learn.: Sci. Technol. 6, 035006 (2025)): crystal and title, CosFace, batch 16,384.

    Text is embedded by a frozen language model, SciBERT, as described in `multimat_paper`. Rows pass
    the encoders 256 at a time.
    """
    return {
        "model": ModelConfig(
            modalities={
                "crystal": ModalitySpec(encoder="cgcnn-clasp"),
                "text_embedding": ModalitySpec(encoder="text-embedding-clasp"),
            },
            embedding_dim=768,
            objective=CosFace(scale=3.0, margin=0.5),
        ),
        "batch_size": 16384,
        "micro_batch_size": 256,
        "epochs": 2000,
        "optimiser": {"lr": 2e-5, "warmup_fraction": 0.0, "schedule": "constant"},
    }


PRESETS: dict[str, Callable[[], dict[str, Any]]] = {
    "tiny": tiny,
    "default": default,
    "multimat-paper": multimat_paper,
    "matbind-paper": matbind_paper,
    "clasp-paper": clasp_paper,
}


def preset(name: str) -> dict[str, Any]:
    """The settings of a preset; with `data` and `out` they make a `PretrainConfig`.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]()
