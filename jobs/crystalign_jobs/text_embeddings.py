"""Text embeddings in `crystalign derive`: choose the language model, and embed the texts of a shard."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from crystalign.errors import ConfigError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from crystalign.encoders.language_model import LanguageModel
    from crystalign.material import Material
    from crystalign.modalities.text_embedding import LanguageModelEntry, TokenPooling
    from crystalign.modalities.vector import Vector
    from crystalign.model import Model
    from crystalign.rejects import Reject
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.manifest import Manifest

NAME = "text_embedding"


def choose_language_model(
    manifest: Manifest, data: str, folder: str, *, pooling: TokenPooling, max_tokens: int | None
) -> LanguageModelEntry:
    """The language model that embeds the texts of a dataset.

    Args:
        manifest: manifest of the dataset.
        data: URI of the dataset, for messages.
        folder: URI of the folder of the language model.
        pooling: how the vectors of the tokens of a text are combined.
        max_tokens: longer texts are truncated; None means the maximum of the language model.

    Raises:
        ConfigError: the language model cannot be used, or the dataset already holds embeddings of another or an unknown
            language model.
    """
    from crystalign.encoders.language_model import LanguageModel

    entry = LanguageModel.open(folder, pooling=pooling, max_tokens=max_tokens).entry
    unrecorded = sum(shard.counts.get(NAME, 0) for shard in manifest.shards if shard.language_model is None)
    if unrecorded:
        raise ConfigError(
            f"{data} holds {unrecorded:,} text embeddings from a table, whose language model is not recorded; they "
            f"cannot be mixed with those of {entry.label}. Ingest without that column, then derive"
        )
    stored = manifest.language_model
    if stored is not None and stored.identity != entry.identity:
        raise ConfigError(
            f"{data} holds text embeddings by {stored.label}, not by {entry.label}; a dataset can hold those of one "
            "language model only. Use the stored one, or ingest to another --out and derive there"
        )
    return stored or entry


def same_language_model(model: Model, dataset: Dataset, modalities: Collection[str] | None = None) -> None:
    """Check that model and dataset use the same language model, if the model reads text embeddings.

    Args:
        model: the model.
        dataset: the dataset.
        modalities: modalities of the model that are used; None means all.

    Raises:
        ConfigError: the model was trained on embeddings of another language model.
    """
    from crystalign.modalities.text_embedding import settings_of_language_model

    spec = model.config.modalities.get(NAME)
    if spec is not None and (modalities is None or NAME in modalities):
        settings_of_language_model(spec.features, dataset.manifest.language_model, origin=dataset.uri)


def embed_texts(
    materials: Sequence[Material], folder: str, language_model: LanguageModelEntry, rejects: list[Reject]
) -> list[Material]:
    """The materials, with the embedding of their text added where it is missing.

    Args:
        materials: the rows of a shard.
        folder: URI of the folder of the language model.
        language_model: the language model that the driver chose.
        rejects: materials without a text are appended.

    Raises:
        ConfigError: the folder holds another language model on this machine.
    """
    from crystalign.rejects import Reject

    model = _opened(folder, language_model)
    extended = list(materials)
    missing = [row for row, material in enumerate(materials) if material.value(NAME) is None]
    texts = {row: text.description for row in missing if (text := materials[row].value("text")) is not None}
    vectors = dict(zip(texts, model.embed(list(texts.values())), strict=True))
    for row in missing:
        material = materials[row]
        try:
            embedding = _embedding(vectors.get(row))
        except InputError as error:
            reject = Reject(material.id, f"derive {NAME}", error.reason, str(error), material.provenance.reference)
            rejects.append(reject)
        else:
            extended[row] = replace(material, modalities={**material.modalities, NAME: embedding})
    return extended


def _embedding(vector: NDArray[np.float32] | None) -> Vector:
    from crystalign.modalities.vector import Vector

    if vector is None:
        raise InputError("there is no text to embed; derive `text` too", reason="no-text")
    return Vector(vector)


@functools.lru_cache(maxsize=1)
def _opened(folder: str, expected: LanguageModelEntry) -> LanguageModel:
    """Load the language model once per process, for many tasks."""
    from crystalign.encoders.language_model import LanguageModel

    model = LanguageModel.open(folder, pooling=expected.pooling, max_tokens=expected.max_tokens)
    if model.entry.identity != expected.identity:
        raise ConfigError(
            f"{folder} holds {model.entry.label} on this worker, but the job started with {expected.label}; use a "
            "folder that is the same for every worker and does not change"
        )
    return model
