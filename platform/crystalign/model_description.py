"""Read settings and card of an aligned model without its weights. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Iterable

from crystalign.errors import ConfigError, ModelError
from crystalign.modalities import modality_class
from crystalign.model_config import FLAT, ModelFile
from crystalign.model_directory import CONFIG, check_format, check_paths, parse_config, read_config

FORMAT = 3
"""2: charge densities and pictures are given in a setting that does not depend on how the crystal is described.
3: the settings of the objective are in a section of their own."""
READABLE = (*FLAT, FORMAT)
KIND = "model"
"""Name used in messages."""


def read_description(uri: str) -> ModelFile:
    """Read settings and card of the model at a path or URI, without its weights.

    Raises:
        ModelError: there is no model, or its version is not supported.
    """
    return parse_description(read_config(uri, kind=KIND), uri)


def parse_description(data: bytes, origin: str) -> ModelFile:
    """Parse the content of a model's `config.json`.

    Raises:
        ModelError: it does not describe an aligned model, or its version is not supported.
    """
    values = parse_config(data, origin)
    if values.get("kind") == "property":
        raise ModelError(
            f"the model at {origin} predicts properties and aligns nothing: name the pre-trained model it was made from"
        )
    version = check_format(values, READABLE, origin)
    try:
        described = ModelFile.from_mapping(values, origin=f"{origin}/{CONFIG}")
    except ConfigError as error:
        raise ModelError(str(error)) from error
    refuse_older(described.config.modalities, version, origin)
    check_paths(described.files, origin)
    return described


def refuse_older(modalities: Iterable[str], model_format: int, origin: str) -> None:
    """Refuse a model that was trained on other inputs than this release would give it.

    Raises:
        ModelError: the model reads a modality whose inputs have changed since it was trained.
    """
    for name in modalities:
        if model_format < modality_class(name).seen_since:
            raise ModelError(
                f"the model at {origin} has format {model_format}: an earlier release trained it on {name} prepared "
                "differently from this release, so its results would be wrong. Train it again"
            )
