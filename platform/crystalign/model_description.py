"""What the directory of an aligned model says of it, without its weights; importing this imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from crystalign.errors import ConfigError, ModelError
from crystalign.modalities import modality_class
from crystalign.model_config import FLAT, ModelFile
from crystalign.model_directory import CONFIG, check_format, check_paths, parse_config, read_config

FORMAT = 3
"""2: networks of charge densities and pictures see them in settings that do not depend on the crystal's description.
3: the settings of the objective are in a section of their own."""
READABLE = (*FLAT, FORMAT)
KIND = "model"
"""What it is called in messages."""


def read_description(uri: str) -> ModelFile:
    """The settings and the card of the model at a path or URI, without its weights.

    Raises:
        ModelError: there is no model, or it is of a version that is not known.
    """
    return parse_description(read_config(uri, kind=KIND), uri)


def parse_description(data: bytes, origin: str) -> ModelFile:
    """The content of a model's `config.json`.

    Raises:
        ModelError: it is of no aligned model, or of a version that is not known.
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
    """Refuse a model whose networks were trained on something else than this release would show them.

    Raises:
        ModelError: it reads such a modality.
    """
    for name in modalities:
        if model_format < modality_class(name).seen_since:
            raise ModelError(
                f"the model at {origin} has format {model_format}: an earlier release trained it on {name} in other "
                "settings than this one makes, so that it would answer wrongly. Train it again"
            )
