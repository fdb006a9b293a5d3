"""What a service knows before the first request: index, model, dataset, and what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import crystalign
from crystalign import storage
from crystalign.crystal import pretty_formula
from crystalign.errors import ModelError, StorageError
from crystalign.index.filters import Fields, listed_fields, make_fields
from crystalign.index.manifest import IndexManifest
from crystalign.modalities import NAMES, Modality, make_modality, modality_class
from crystalign.model_config import ModelCard, ModelConfig, ModelFile
from crystalign_serve.materials import Materials, open_materials
from crystalign_serve.queries import ACCEPTS

NON_COMMERCIAL = "NC"
NOTICES = {
    "crystalign-dft-demo": "Demonstration data: unrelaxed, partly hypothetical crystals with quick calculations.",
    "crystalign-prototypes": "Rows of crystalign-prototypes are hypothetical crystals, made by element substitution.",
}
"""What must be said of rows of a source, wherever they are shown."""


@dataclass(frozen=True)
class Service:
    """The fixed part of an API."""

    manifest: IndexManifest
    """Of the index."""
    model: ModelConfig
    """Of the model that made it."""
    card: ModelCard
    """What that model was trained on."""
    modalities: Mapping[str, Modality[Any]]
    """Of the model, with the settings it was trained with."""
    fields: Fields
    """Names that filters may use."""
    materials: Materials
    """The dataset."""
    shards: int
    """Into how many the index is spread."""
    models: Sequence[dict[str, Any]] = ()
    """Name, targets and more of each fine-tuned model."""

    def info(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """The answer of `/api/info`."""
        manifest = self.manifest
        return {
            "version": crystalign.__version__,
            "index": {
                "version": manifest.version,
                "rows": manifest.rows,
                "modality": manifest.modality,
                "dimension": manifest.dimension,
                "created": manifest.created,
                "shards": self.shards,
            },
            "model": {
                "name": self.card.name,
                "sha256": manifest.model_sha256,
                "pairs": [list(pair) for pair in self.model.aligned],
                "trained_steps": self.card.steps,
            },
            "modalities": [self._modality(name) for name in NAMES],
            "fields": [
                {"name": field.name, "label": field.label, "unit": field.unit, "type": field.type}
                for field in listed_fields(manifest.properties)
            ],
            "sources": self.materials.sources,
            "licences": list(manifest.licences),
            "notice": self.notice(),
            "models": list(self.models),
            "example_queries": examples,
        }

    def notice(self) -> str | None:
        """What a reader of the results must know; None if there is nothing to say."""
        said = [NOTICES[source["name"]] for source in self.materials.sources if source["name"] in NOTICES]
        restricted = [name for name in self.manifest.licences if NON_COMMERCIAL in name.upper().split("-")]
        if restricted:
            said.append(f"Holds rows licensed for non-commercial use only ({', '.join(restricted)}).")
        return " ".join(dict.fromkeys(said)) or None

    def _modality(self, name: str) -> dict[str, Any]:
        accepts = ACCEPTS.get(name, ())
        queryable = name in self.modalities and bool(accepts)
        return {"name": name, "label": modality_class(name).label, "accepts": list(accepts), "queryable": queryable}


def open_service(
    manifest: IndexManifest,
    config: ModelConfig,
    card: ModelCard,
    *,
    dataset_uri: str | None,
    shards: int,
    models: Sequence[dict[str, Any]] = (),
) -> Service:
    """Everything an API needs but the encoders and the vectors.

    Raises:
        DatasetError: the dataset of the index cannot be found.
    """
    modalities = {name: make_modality(name, spec.features) for name, spec in config.modalities.items()}
    fields = make_fields(manifest.properties)
    return Service(manifest, config, card, modalities, fields, open_materials(manifest, dataset_uri), shards, models)


def read_model(uri: str) -> ModelFile:
    """Settings, card and identity of a model, without its weights.

    Raises:
        ModelError: there is no model.
    """
    try:
        values = json.loads(storage.read_bytes(storage.join(uri, "config.json")))
    except (StorageError, ValueError) as error:
        message = f"no model at {uri}: {error}"
        raise ModelError(message) from error
    return ModelFile.from_mapping(values, origin=f"the model at {uri}")


def examples_for(service: Service, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Queries that this index can answer, made from one of its rows."""
    examples: list[dict[str, Any]] = []
    if "text" in service.modalities:
        text = "cubic perovskite with corner-sharing octahedra"
        examples.append({"label": f"“{text}”", "request": {"query": {"text": text}}})
    if "composition" in service.modalities:
        formula = pretty_formula(record["formula"])
        examples.append({"label": f"Crystals like {formula}", "request": {"query": {"formula": formula}}})
    element = record["elements"][0]
    examples.append(
        {
            "label": f"Similar to {record['id']}, without {element}",
            "request": {"query": {"id": record["id"]}, "filter": f'NOT elements HAS "{element}"'},
        }
    )
    return examples
