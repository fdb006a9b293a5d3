"""The embedding of the description by a language model that is not trained: made once, kept in shards."""

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
"""The vector of a text: that of its first token, or the mean over its tokens."""


class LanguageModelEntry(Config):
    """Who made the embeddings: a network, and how it was asked."""

    name: str
    """Of its folder, for people."""
    sha256: str
    """Of its configuration, tokenizer and weights."""
    pooling: TokenPooling
    """How the vectors of tokens became one."""
    max_tokens: int
    """Longer texts were cut."""
    width: int
    """Length of the vectors."""

    @property
    def identity(self) -> str:
        """Equal for whoever gives equal texts equal vectors; the folder's name is no part of it."""
        content = json.dumps(self.model_dump(mode="json", exclude={"name"}), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name} ({self.sha256[:12]}, {self.pooling}, {self.max_tokens} tokens, {self.width} numbers)"


class TextEmbeddingModality(VectorModality["TextEmbeddingModality.Settings"]):
    """A vector of a published language model; all rows of a dataset come from the same one.

    `crystalign derive --modalities text_embedding` makes it and records the language model in the dataset's
    manifest. A table may bring vectors of its own; whose they are is then not recorded.
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
        """How an embedding becomes a tensor."""

        width: int = Field(default=768, ge=1, le=MAX_WIDTH)
        """Its length W, the hidden size of the language model (768: BERT, MatBERT, SciBERT)."""
        language_model: str = ""
        """Identity of the language model whose vectors are read; empty where it is not recorded."""


def settings_of_language_model(
    features: Mapping[str, Any], entry: LanguageModelEntry | None, *, origin: str
) -> dict[str, Any]:
    """The settings by which a model reads the text embeddings of a dataset.

    What is not set is filled in from the dataset: a model trained so knows whose vectors it reads. Where the
    dataset does not record it, or the model was trained before one was recorded, nothing can be compared.

    Args:
        features: the settings as they are.
        entry: who made the dataset's embeddings; None where it is not recorded.
        origin: the dataset, for the message.

    Raises:
        ConfigError: the settings ask for another language model than the dataset's.
    """
    if entry is None:
        return dict(features)
    wanted = features.get("language_model") or entry.identity
    if wanted != entry.identity:
        raise ConfigError(
            f"the text embeddings of {origin} were made by {entry.label}, and the model reads those of the language "
            f"model {wanted[:12]}; derive a copy of the dataset with that one, or train on this one"
        )
    return {"width": entry.width} | dict(features) | {"language_model": wanted}
