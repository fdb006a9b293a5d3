"""The directory of a fine-tuned model: no pickle, every file by its checksum.

model/
├── config.json         settings, calibration, card, and the sha256 of every other file; written last
├── model.safetensors   weights
├── domain.safetensors  vectors of training materials, for out-of-domain scores; where there are any
├── README.md           the card, for people
└── text/tokenizer.json whatever files an encoder needs, in a folder named after its modality
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch

from crystalign import storage
from crystalign.encoders.encoder import Files
from crystalign.errors import ConfigError, ModelError, StorageError, VerificationError
from crystalign.finetuning.domain import Domain
from crystalign.finetuning.network import PropertyModel, fresh_encoders, fresh_projection
from crystalign.finetuning.network_config import READABLE, PropertyModelFile
from crystalign.model import refuse_older
from crystalign.properties import PropertySpec
from crystalign.storage import FileEntry

CONFIG, WEIGHTS, DOMAIN, README = "config.json", "model.safetensors", "domain.safetensors", "README.md"


def to_files(model: PropertyModel) -> Files:
    """Every file of the model's directory, `config.json` last."""
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    files: Files = {WEIGHTS: save(state)}
    if model.domain is not None:
        files[DOMAIN] = save({"reference": torch.from_numpy(model.domain.reference)})
    for name, encoder in model.encoders.items():
        files |= {f"{name}/{path}": data for path, data in encoder.files().items()}  # type: ignore[operator]
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())}
    described = PropertyModelFile(
        format=model.format,
        config=model.config,
        calibration=model.calibration,
        domain_scale=None if model.domain is None else model.domain.scale,
        card=model.card,
        files=digests,
    )
    files[README] = _readme(model, described).encode()
    files[CONFIG] = (described.model_dump_json(indent=2) + "\n").encode()
    return files


def model_sha256(model: PropertyModel) -> str:
    """Identity of what the model computes: its settings, weights and files, without the card."""
    return PropertyModelFile.model_validate_json(to_files(model)[CONFIG]).identity


def write_model(model: PropertyModel, uri: str) -> list[FileEntry]:
    """Write the model's directory to any URI, every file read back, `config.json` last.

    Returns:
        The files, with paths relative to `uri`.

    Raises:
        StorageError: the store refuses, or does not return what was written.
    """
    return [
        storage.write_bytes(storage.join(uri, *path.split("/")), data).model_copy(update={"path": path})
        for path, data in to_files(model).items()
    ]


def is_property_model(uri: str) -> bool:
    """Whether a fine-tuned model, rather than an aligned one or nothing, is at a path or URI."""
    place = storage.join(uri, CONFIG)
    if not storage.exists(place):
        return False
    try:
        values = json.loads(storage.read_bytes(place))
    except ValueError:
        return False
    return isinstance(values, dict) and values.get("kind") == "property"


def read_description(uri: str) -> PropertyModelFile:
    """The settings and the card of the model at a path or URI, without its weights.

    Raises:
        ModelError: there is no such model, or it is of a version that is not known.
    """
    try:
        return _described(storage.read_bytes(storage.join(uri, CONFIG)), uri)
    except StorageError as error:
        raise ModelError(f"no fine-tuned model at {uri}: {error}") from error


def read_model(uri: str) -> PropertyModel:
    """Read a model from a path or URI, and verify it.

    Raises:
        ModelError: there is no such model, or it is broken or of a version that is not known.
    """
    try:
        files = {CONFIG: storage.read_bytes(storage.join(uri, CONFIG))}
        described = _described(files[CONFIG], uri)
        for path in described.files:
            files[path] = storage.read_bytes(storage.join(uri, *path.split("/")))
    except VerificationError:
        raise
    except StorageError as error:
        raise ModelError(f"no fine-tuned model at {uri}: {error}") from error
    return from_files(files, origin=uri)


def from_files(files: Mapping[str, bytes], *, origin: str) -> PropertyModel:
    """The model of a directory's files, verified.

    Raises:
        ModelError: a file is missing, altered, or of a version that is not known.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    described = _described(files[CONFIG], origin)
    for path, digest in described.files.items():
        if path not in files or hashlib.sha256(files[path]).hexdigest() != digest:
            state = "missing" if path not in files else "not what config.json says it is"
            raise ModelError(f"the model at {origin} is broken: {path} is {state}. Copy it again")
    config = described.config
    try:
        own = {path: files[path] for path in described.files if "/" in path}
        encoders = fresh_encoders(config.modalities, own, restore=True)
        projections = {
            name: fresh_projection(encoder.width, config.embedding_dim)
            for name, encoder in encoders.items()
            if config.embedding_dim is not None
        }
        model = PropertyModel(config, encoders, projections)
        model.config = config  # as it was saved: it keeps its identity when a version adds a setting
        model.load_state_dict(load(files[WEIGHTS]))
        if DOMAIN in described.files and described.domain_scale is not None:
            model.domain = Domain(load(files[DOMAIN])["reference"].numpy(), described.domain_scale)
    except (ConfigError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the model at {origin} does not fit this version of Crystalign: {error}") from error
    model.card, model.calibration, model.format = described.card, described.calibration, described.format
    return model.eval()


def _described(data: bytes, origin: str) -> PropertyModelFile:
    try:
        values = json.loads(data)
    except ValueError as error:
        raise ModelError(f"{origin} is not a model directory: its config.json is not JSON") from error
    if not isinstance(values, dict) or values.get("kind") != "property":
        raise ModelError(
            f"the model at {origin} predicts no property; fine-tune it, or name the `model` folder of a finished trial"
        )
    if values.get("format") not in READABLE:
        readable = " and ".join(map(str, READABLE))
        raise ModelError(
            f"the model at {origin} has format {values.get('format')}, this version reads {readable}. Update Crystalign"
        )
    try:
        described = PropertyModelFile.from_mapping(values, origin=f"{origin}/{CONFIG}")
    except ConfigError as error:
        raise ModelError(str(error)) from error
    refuse_older(described.config.modalities, READABLE[described.format], origin)
    for path in described.files:
        if path.startswith("/") or ".." in path.split("/") or WEIGHTS not in described.files:
            raise ModelError(f"the model at {origin} names {path!r}: a file outside its directory, or no weights")
    return described


def _readme(model: PropertyModel, described: PropertyModelFile) -> str:
    config, card = model.config, described.card
    facts = {
        "Predicts": ", ".join(spec.label for spec in config.targets),
        "Reads": ", ".join(f"{name} ({spec.encoder})" for name, spec in config.modalities.items()),
        "Fusion": config.fusion.kind if len(config.modalities) > 1 else "one modality",
        "Head": f"{config.head.kind}, on the {config.vectors}",
        "Parameters": f"{sum(p.numel() for p in model.parameters()):,}",
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
            for target, found in card.metrics.items()
            for metric, value in found.items()
        ]
    usage = (
        "```python\nfrom crystalign.finetuning.network import PropertyModel\n\n"
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
