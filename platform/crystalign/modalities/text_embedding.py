"""The embedding of the description by a language model that is not trained: brought in with a table, kept in shards."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from crystalign.modalities.vector import MAX_WIDTH, VectorModality, VectorSettings


class TextEmbeddingModality(VectorModality["TextEmbeddingModality.Settings"]):
    """A vector of a published language model; all rows of a dataset must come from the same one."""

    name: ClassVar[str] = "text_embedding"
    label: ClassVar[str] = "Text embedding"

    class Settings(VectorSettings):
        """How an embedding becomes a tensor."""

        width: int = Field(default=768, ge=1, le=MAX_WIDTH)
        """Its length W, the hidden size of the language model (768: BERT, MatBERT, SciBERT)."""
