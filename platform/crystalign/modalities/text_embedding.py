"""Text as a vector from a frozen language model. `derive` computes the vectors once and stores them in the shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from crystalign.config import Config
from crystalign.errors import ConfigError
from crystalign.modalities.vector import MAX_WIDTH, VectorModality, VectorSettings

TokenPooling = Literal["cls", "mean"]
"""Pooling of token vectors: the first token, or the mean over tokens."""


class LanguageModelEntry(Config):
    """Language model that made the embeddings, with its settings."""

    name: str
    """Name of its folder, for display."""
    sha256: str
    """sha256 of its configuration, tokenizer and weights."""
    pooling: TokenPooling
    """Pooling of the token vectors."""
    max_tokens: int
    """Longest text in tokens; longer texts were truncated."""
    width: int
    """Length of the vectors."""

    @property
    def identity(self) -> str:
        """Identity: equal for models that give equal texts equal vectors, independent of the folder's name."""
        content = json.dumps(self.model_dump(mode="json", exclude={"name"}), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def label(self) -> str:
        """Label for display."""
        return f"{self.name} ({self.sha256[:12]}, {self.pooling}, {self.max_tokens} tokens, {self.width} numbers)"


class TextEmbeddingModality(VectorModality["TextEmbeddingModality.Settings"]):
    """Text embedding by a published language model, the same for all rows of a dataset.

    `crystalign derive --modalities text_embedding` makes it and records the language model in the dataset's
    manifest. A table may contain its own vectors; their language model is then not recorded.
    """

    name: ClassVar[str] = "text_embedding"
    label: ClassVar[str] = "Text embedding"
    instead_of: ClassVar[Mapping[str, str]] = {
        "text": (
            "It was trained on embeddings of texts, and the language model that makes them is no part of it: to "
            "ask in words, train a model with the modality text, for example with its encoder text-multimat and "
            "that language model as `pretrained`"
        )
    }

    class Settings(VectorSettings):
        """Settings of the conversion to tensors."""

        width: int = Field(default=768, ge=1, le=MAX_WIDTH)
        """Length W of the vector: the hidden size of the language model (768 for BERT, MatBERT, SciBERT)."""
        language_model: str = ""
        """Identity of the language model that made the vectors; empty if it is not recorded."""


def settings_of_language_model(
    features: Mapping[str, Any], entry: LanguageModelEntry | None, *, origin: str
) -> dict[str, Any]:
    """Return the settings for a model that reads the text embeddings of a dataset.

    Missing settings are filled in from the dataset, so the model records the language model of its inputs. Nothing is
    compared if the dataset does not record it, or if the model was trained before it was recorded.

    Args:
        features: the current settings.
        entry: language model of the dataset's embeddings; None if it is not recorded.
        origin: the dataset, for the message.

    Raises:
        ConfigError: the settings ask for another language model than the dataset's.
    """
    if entry is None:
        return dict(features)
    identity = features.get("language_model") or entry.identity
    if identity != entry.identity:
        raise ConfigError(
            f"the text embeddings of {origin} were made by {entry.label}, and the model reads those of the language "
            f"model {identity[:12]}; derive a copy of the dataset with that one, or train on this one"
        )
    return {"width": entry.width} | dict(features) | {"language_model": identity}
