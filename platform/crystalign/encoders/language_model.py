"""Frozen language model that embeds texts, and its identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from crystalign.encoders.bert import Bert, published_tokenizer
from crystalign.encoders.published import published_description
from crystalign.errors import ConfigError
from crystalign.modalities.text_embedding import LanguageModelEntry, TokenPooling
from crystalign.model_directory import folder_files, folder_sha256, local_folder

READ = (".json", ".txt", ".model", ".safetensors")
"""Endings of the files that are read and that define the identity; other files, e.g. pickles, are ignored."""
MOST_TOKENS = 512
"""Default maximum of tokens; the cost of attention grows with the square."""
TEXTS_PER_BATCH = 32
"""Texts of similar length per forward pass."""
_SAME = 1e-5


class LanguageModel:
    """A published text encoder, frozen, from a folder: `config.json`, the tokenizer's files, safetensors weights.

    The vector of a text is h_1 (`cls`) or Σ_t h_t / T (`mean`) over the states h_t of the last layer: what the
    encoder `bert` with `pretrained` and `frozen` gives to its head.
    """

    def __init__(self, encoder: Bert, entry: LanguageModelEntry) -> None:
        self._encoder = encoder.eval()
        self.entry = entry
        """Identity of the language model."""

    @classmethod
    def open(cls, uri: str, *, pooling: TokenPooling = "cls", max_tokens: int | None = None) -> Self:
        """Load the model and check that different texts get different vectors.

        Args:
            uri: the folder, any URI.
            pooling: how token vectors are reduced to one.
            max_tokens: longer texts are truncated; None for the model's maximum, at most 512.

        Raises:
            ConfigError: there is no model, it has no safetensors weights, or its vectors do not distinguish texts.
        """
        with local_folder(uri, READ) as folder:
            try:
                encoder = _encoder(folder, pooling, max_tokens)
            except (ConfigError, OSError, ValueError) as error:
                message = f"no language model at {uri}: {error}"
                raise ConfigError(message) from error
            entry = LanguageModelEntry(
                name=uri.rstrip("/").rpartition("/")[2],
                sha256=folder_sha256(folder, READ),
                pooling=pooling,
                max_tokens=encoder.settings.max_tokens,
                width=encoder.width,
            )
        model = cls(encoder, entry)
        _check(model, uri)
        return model

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (n, W) vectors of n texts, each independent of the others.

        Texts of similar length pass the network together and padding is masked.
        """
        vectors = np.empty((len(texts), self.entry.width), np.float32)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), TEXTS_PER_BATCH):
            rows = order[start : start + TEXTS_PER_BATCH]
            vectors[rows] = self._encoder.read([texts[row] for row in rows], torch.device("cpu")).numpy()
        return vectors


def _check(model: LanguageModel, uri: str) -> None:
    """Embed a short and a long text with the same beginning; reveals too many tokens or a causal first token."""
    entry = model.entry
    try:
        short, long = model.embed(["a crystal", "a crystal " + "of lithium " * entry.max_tokens])
    except (RuntimeError, IndexError, TypeError, ValueError, AttributeError) as error:
        message = (
            f"the language model at {uri} does not read texts of {entry.max_tokens} tokens: {error}; lower max_tokens, "
            "or give an encoder such as BERT"
        )
        raise ConfigError(message) from error
    if not np.isfinite([short, long]).all():
        message = f"the language model at {uri} gives numbers that are not finite; its weights are broken"
        raise ConfigError(message)
    if np.allclose(short, long, rtol=_SAME, atol=_SAME):
        message = (
            f"the language model at {uri} gives a text of two words and one of many the same vector with pooling "
            f"{entry.pooling!r}: its first token does not attend to the others; choose pooling 'mean'"
        )
        raise ConfigError(message)


def _encoder(folder: str, pooling: TokenPooling, max_tokens: int | None) -> Bert:
    if "config.json" not in folder_files(folder, READ):
        message = (
            "it needs config.json, the tokenizer's files and model.safetensors, as `save_pretrained` writes them or "
            "`hf download NAME --local-dir FOLDER` fetches them"
        )
        raise ConfigError(message)
    if published_description(folder).get("is_encoder_decoder"):
        message = "it is an encoder and a decoder; save its encoder alone"
        raise ConfigError(message)
    if max_tokens is None:
        max_tokens = min(published_tokenizer(folder)[1], MOST_TOKENS)
    settings = Bert.Settings(pretrained=folder, frozen=True, pooling=pooling, max_tokens=max_tokens)
    return Bert.build(settings, Bert.prepare(settings, []))
