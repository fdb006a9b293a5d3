"""The part of `crystalign derive` that embeds texts: by which language model, and all texts of a shard together."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from crystalign.errors import ConfigError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from crystalign.encoders.language_model import LanguageModel
    from crystalign.material import Material
    from crystalign.modalities.text_embedding import LanguageModelEntry
    from crystalign.modalities.vector import Vector
    from crystalign.model import Model
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.manifest import Manifest
    from crystalign.shards.writer import Reject
    from crystalign_jobs.derive import Derive

NAME = "text_embedding"


def choose_language_model(config: Derive, manifest: Manifest) -> LanguageModelEntry | None:
    """Who embeds the texts: the language model that is asked for, if the dataset holds no other one's vectors.

    Raises:
        ConfigError: none is named or it is of no use, or the dataset's vectors are another one's or nobody knows whose.
    """
    if (NAME in config.modalities) != (config.language_model is not None):
        raise ConfigError(f"`--modalities {NAME}` and `--language-model FOLDER` go together: give both or neither")
    if config.language_model is None:
        return None
    from crystalign.encoders.language_model import LanguageModel

    entry = LanguageModel.open(config.language_model, pooling=config.pooling, max_tokens=config.max_tokens).entry
    unrecorded = sum(shard.counts.get(NAME, 0) for shard in manifest.shards if shard.language_model is None)
    if unrecorded:
        raise ConfigError(
            f"{config.data} holds {unrecorded:,} text embeddings whose language model is not recorded, for a table "
            f"brought them; they are not mixed with those of {entry.label}. Ingest without that column, then derive"
        )
    held = manifest.language_model
    if held is not None and held.identity != entry.identity:
        raise ConfigError(
            f"{config.data} holds text embeddings by {held.label}, and {entry.label} is asked for; a dataset has those "
            "of one language model. Ask for that one, or ingest again to another place and derive there"
        )
    return held or entry


def same_language_model(model: Model, dataset: Dataset) -> None:
    """Check that a model reads the text embeddings that a dataset holds.

    Raises:
        ConfigError: it was trained on those of another language model.
    """
    from crystalign.modalities.text_embedding import settings_of_language_model

    features = model.config.modalities[NAME].features
    settings_of_language_model(features, dataset.manifest.language_model, origin=dataset.uri)


def embed_texts(
    materials: Sequence[Material], folder: str, language_model: LanguageModelEntry, rejects: list[Reject]
) -> list[Material]:
    """The materials with the embedding of their text where they lack it; `rejects` gets those without a text.

    Args:
        materials: the rows of a shard.
        folder: of the language model, any URI.
        language_model: the one that was chosen.
        rejects: is appended to.

    Raises:
        ConfigError: this process finds another language model in the folder.
    """
    from crystalign.shards.writer import Reject

    model = _opened(folder, language_model)
    extended = list(materials)
    lacking = [row for row, material in enumerate(materials) if material.value(NAME) is None]
    texts = {row: text.description for row in lacking if (text := materials[row].value("text")) is not None}
    vectors = dict(zip(texts, model.embed(list(texts.values())), strict=True))
    for row in lacking:
        material = materials[row]
        try:
            found = _embedding(vectors.get(row))
        except InputError as error:
            reject = Reject(material.id, f"derive {NAME}", error.reason, str(error), material.provenance.reference)
            rejects.append(reject)
        else:
            extended[row] = replace(material, modalities={**material.modalities, NAME: found})
    return extended


def _embedding(vector: NDArray[np.float32] | None) -> Vector:
    from crystalign.modalities.vector import Vector

    if vector is None:
        raise InputError("there is no text to embed; derive `text` too", reason="no-text")
    return Vector(vector)


@functools.lru_cache(maxsize=1)
def _opened(folder: str, expected: LanguageModelEntry) -> LanguageModel:
    """Read once per process, which runs many tasks."""
    from crystalign.encoders.language_model import LanguageModel

    model = LanguageModel.open(folder, pooling=expected.pooling, max_tokens=expected.max_tokens)
    if model.entry.identity != expected.identity:
        raise ConfigError(
            f"{folder} holds {model.entry.label} here, and the job started with {expected.label}; give a folder that "
            "is the same for every worker and does not change"
        )
    return model
