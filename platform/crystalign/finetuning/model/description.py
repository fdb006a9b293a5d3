"""Read settings and card of a fine-tuned model without its weights.

Besides the files of every model directory (`crystalign.model_directory`) it may contain `domain.safetensors`: vectors
of training materials, for out-of-domain scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

from crystalign import storage
from crystalign.errors import ConfigError, ModelError
from crystalign.finetuning.network.config import READABLE, PropertyModelFile
from crystalign.finetuning.prediction.domain import Domain
from crystalign.model_description import refuse_older
from crystalign.model_directory import CONFIG, check_format, check_paths, parse_config, read_config
from crystalign.properties import PropertySpec

DOMAIN = "domain.safetensors"
KIND = "fine-tuned model"
"""Name used in messages."""


def domain_file(domain: Domain) -> bytes:
    """Make the file of training vectors from which out-of-domain scores are computed."""
    from safetensors.torch import save

    return save({"reference": torch.from_numpy(domain.reference)})


def is_property_model(uri: str) -> bool:
    """Whether there is a fine-tuned (not an aligned) model at a path or URI."""
    config_uri = storage.join(uri, CONFIG)
    if not storage.exists(config_uri):
        return False
    try:
        values = json.loads(storage.read_bytes(config_uri))
    except ValueError:
        return False
    return isinstance(values, dict) and values.get("kind") == "property"


def read_description(uri: str) -> PropertyModelFile:
    """Read settings and card of the model at a path or URI, without its weights.

    Raises:
        ModelError: there is no such model, or its version is not supported.
    """
    return parse_description(read_config(uri, kind=KIND), uri)


def parse_description(data: bytes, origin: str) -> PropertyModelFile:
    """Parse the content of a `config.json`.

    Raises:
        ModelError: it does not describe a fine-tuned model, or its version is not supported.
    """
    values = parse_config(data, origin)
    if values.get("kind") != "property":
        raise ModelError(
            f"the model at {origin} predicts no property; fine-tune it, or name the `model` folder of a finished trial"
        )
    check_format(values, READABLE, origin)
    try:
        described = PropertyModelFile.from_mapping(values, origin=f"{origin}/{CONFIG}")
    except ConfigError as error:
        raise ModelError(str(error)) from error
    refuse_older(described.config.modalities, READABLE[described.format], origin)
    check_paths(described.files, origin)
    return described


def readme(described: PropertyModelFile, parameters: int) -> str:
    """Format the card for human readers.

    Args:
        described: the content of `config.json`.
        parameters: number of parameters of the network.
    """
    config, card = described.config, described.card
    facts = {
        "Predicts": ", ".join(spec.label for spec in config.targets),
        "Reads": ", ".join(f"{name} ({spec.encoder})" for name, spec in config.modalities.items()),
        "Fusion": config.fusion.kind if len(config.modalities) > 1 else "one modality",
        "Head": f"{config.head.kind}, on the {config.vectors}",
        "Parameters": f"{parameters:,}",
        "Initialisation": card.initialisation + (f" (sha256 {card.base_sha256[:16]})" if card.base_sha256 else ""),
        "Dataset": f"{card.dataset_uri or 'not recorded'} (sha256 {card.dataset_sha256[:16] or 'not recorded'})",
        "Split": json.dumps(card.split) if card.split else "not recorded",
        "Materials": ", ".join(f"{name} {n:,}" for name, n in card.sizes.items()) or "not recorded",
        "Sources": ", ".join(card.sources) or "not recorded",
        "Licences of the data": ", ".join(card.licences) or "not recorded",
        "Intervals": _levels(described),
    }
    lines = [f"# {card.name or 'A Crystalign property model'}", ""]
    lines += [f"- **{key}**: {text or 'not recorded'}" for key, text in facts.items()]
    if card.metrics:
        lines += [
            "",
            "On the test part, which was looked at once:",
            "",
            "| target | metric | value |",
            "|---|---|---:|",
        ]
        units = {spec.column: spec for spec in config.targets}
        lines += [
            f"| {_name(units, target)} | {metric} | {value:.4g} |"
            for target, metrics in card.metrics.items()
            for metric, value in metrics.items()
        ]
    usage = (
        "```python\nfrom crystalign.finetuning.model.property_model import PropertyModel\n\n"
        'model = PropertyModel.from_pretrained("<this directory>")\nmodel.predict([crystal]).mean\n```'
    )
    return "\n".join([*lines, "", usage, ""])


def _levels(described: PropertyModelFile) -> str:
    if described.calibration is None:
        return "none"
    levels = ", ".join(f"{100 * float(level):g} %" for level in described.calibration.radii)
    counts = " and ".join(f"{n:,}" for n in dict.fromkeys(described.calibration.n))
    return f"{levels or 'none'}, from {counts} calibration materials"


def _name(specs: Mapping[str, PropertySpec], target: str) -> str:
    return specs[target].label if target in specs else target
