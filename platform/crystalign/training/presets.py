"""Named settings of a pre-training run, as functions: a variant is a call and a changed value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crystalign.errors import ConfigError
from crystalign.model_config import ModalitySpec, ModelConfig

UNKNOWN_ENDS = {"beyond": "unknown"}
"""Features of a density of states whose window a calculation may not cover."""


def tiny_model() -> ModelConfig:
    """The six modalities of the demo, small enough for about 1,200 crystals in two minutes on two cores."""
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


def multimat_paper() -> dict[str, Any]:
    """MultiMat (Moro et al., Newton 1, 100016 (2025)): AnchoredCLIP at a fixed temperature, as its paper trains it.

    Text is the frozen language model's vector: `crystalign derive --modalities text_embedding
    --language-model FOLDER`, with MatBERT there. Two things are not the paper's: gradients are clipped,
    and a projection to the shared space follows each encoder.
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
            initial_temperature=0.2,
            learn_temperature=False,
        ),
        "batch_size": 360,
        "epochs": 500,
        "optimiser": {"lr": 1e-4, "weight_decay": 5e-4, "betas": (0.9, 0.95), "warmup_fraction": 10 / 500},
    }


def matbind_paper() -> dict[str, Any]:
    """MatBind (ICLR workshop, 2025): the crystal as hub of DOS, powder pattern and text, at a fixed temperature.

    Its text network is MatBERT, tuned at a hundredth of the learning rate: give its folder as
    `pretrained` in the options of `text`, or a small one is trained from scratch.
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
            initial_temperature=0.07,
            learn_temperature=False,
        ),
        "batch_size": 250,
        "epochs": 250,
        "optimiser": {"lr": 5e-4, "weight_decay": 1e-4, "betas": (0.9, 0.95), "warmup_fraction": 0.1},
    }


def _specs(encoders: dict[str, str]) -> dict[str, ModalitySpec]:
    """Published encoders by modality. Energies outside a calculation are marked unknown, like the papers' masks."""
    return {
        name: ModalitySpec(encoder=encoder, features=dict(UNKNOWN_ENDS) if name == "dos" else {})
        for name, encoder in encoders.items()
    }


def clasp_paper() -> dict[str, Any]:
    """CLaSP (Suzuki et al., Mach. Learn.: Sci. Technol. 6, 035006 (2025)): crystal and title, CosFace, batch 16,384.

    Text is the frozen language model's vector, as in `multimat_paper`, with SciBERT there. Rows pass
    the encoders 256 at a time.
    """
    return {
        "model": ModelConfig(
            modalities={
                "crystal": ModalitySpec(encoder="cgcnn-clasp"),
                "text_embedding": ModalitySpec(encoder="text-embedding-clasp"),
            },
            embedding_dim=768,
            objective="cosface",
            cosface_scale=3.0,
            cosface_margin=0.5,
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
    """The settings of a preset, to be completed with `data` and `out` into a `PretrainConfig`.

    Raises:
        ConfigError: no such preset.
    """
    if name not in PRESETS:
        message = f"no preset {name!r}; there are {', '.join(PRESETS)}"
        raise ConfigError(message)
    return PRESETS[name]()
