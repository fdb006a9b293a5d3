"""The fixed state of a search service: index, model and dataset, and its description for `/api/info`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import crystalign
from crystalign.index.calibration import Calibration
from crystalign.index.filters import Fields
from crystalign.index.lexical import Lexicon
from crystalign.index.manifest import IndexManifest
from crystalign.licences import is_non_commercial
from crystalign.modalities import MODALITIES, Modality, make_modality, modality_class, query_specs
from crystalign.modalities.query import resolved
from crystalign.model_config import ModelCard, ModelConfig
from crystalign_serve.materials import Materials, open_materials
from crystalign_serve.query_fields import described, spec_of

NOTICES = {
    "crystalign-dft-demo": "Demonstration data: unrelaxed, partly hypothetical crystals with quick calculations.",
    "crystalign-prototypes": "Rows of crystalign-prototypes are hypothetical crystals, made by element substitution.",
}
"""Source → notice that must be shown with its rows."""


@dataclass(frozen=True)
class Service:
    """The fixed state of a search service."""

    manifest: IndexManifest
    """Manifest of the index."""
    model: ModelConfig
    """Settings of the model that made the index."""
    card: ModelCard
    """Model card: data and steps of its training."""
    modalities: Mapping[str, Modality[Any]]
    """Modalities of the model, with the feature settings of its training."""
    fields: Fields
    """Fields that filters may use."""
    materials: Materials
    """The dataset of the index."""
    shards: int
    """Number of shards of the index."""
    models: Sequence[dict[str, Any]] = ()
    """Descriptions of the fine-tuned models, as in `/api/info`."""
    lexicon: Lexicon | None = None
    """The words of the index; None if its dataset has no texts."""
    calibration: Calibration | None = None
    """How sure an answer is; None if the index was not calibrated."""

    def word_weights(self, words: str) -> dict[str, float] | None:
        """Word → weight for the search by words; None if the index holds none of the words."""
        return None if self.lexicon is None else self.lexicon.weights(words) or None

    def info(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """The response of `/api/info`."""
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
            "modalities": listed_modalities(self.modalities, manifest.modality),
            "fields": [
                {"name": field.name, "label": field.label, "unit": field.unit, "type": field.type}
                for field in manifest.listed_fields
            ],
            "sources": self.materials.sources,
            "licences": list(manifest.licences),
            "notice": self.notice(),
            "models": list(self.models),
            "example_queries": examples,
        }

    def notice(self) -> str | None:
        """Notices about sources and licences that must be shown with the results; None if there are none."""
        notices = [NOTICES[source["name"]] for source in self.materials.sources if source["name"] in NOTICES]
        restricted = [name for name in self.manifest.licences if is_non_commercial(name)]
        if restricted:
            notices.append(f"Contains rows licensed for non-commercial use only ({', '.join(restricted)}).")
        return " ".join(dict.fromkeys(notices)) or None


def listed_modalities(read: Collection[str], index_modality: str) -> list[dict[str, Any]]:
    """All registered modalities, and how each can be queried.

    Args:
        read: modalities that the model reads.
        index_modality: modality of the index, which a query by id uses.
    """
    listed = []
    for name in MODALITIES:
        spec = spec_of(name)
        flags = [] if spec is None else [field.name for field in spec.fields if field.flag is not None]
        accepts = flags if spec is None or spec.is_words else ["file"]
        accepts = [*accepts, "id"] if accepts and name == index_modality else accepts
        label, queryable = modality_class(name).label, name in read and bool(accepts)
        listed.append(
            {"name": name, "label": label, "accepts": accepts, "queryable": queryable, "query": described(name)}
        )
    return listed


def open_service(
    manifest: IndexManifest,
    config: ModelConfig,
    card: ModelCard,
    *,
    dataset_uri: str | None,
    shards: int,
    models: Sequence[dict[str, Any]] = (),
    lexicon: Lexicon | None = None,
    calibration: Calibration | None = None,
) -> Service:
    """Collect the fixed state of a service; opens the dataset.

    Raises:
        DatasetError: the dataset does not exist, or is not the one that was embedded.
    """
    modalities = {name: make_modality(name, spec.features) for name, spec in config.modalities.items()}
    fields = manifest.fields
    materials = open_materials(manifest, dataset_uri)
    return Service(manifest, config, card, modalities, fields, materials, shards, models, lexicon, calibration)


def examples_for(service: Service, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Example queries that this index can answer, made from the metadata of one row."""
    specs = [spec for name, spec in query_specs() if name in service.modalities]
    labelled = [spec.example(record) for spec in specs if spec.example is not None]
    examples: list[dict[str, Any]] = [{"label": label, "request": {"query": query}} for label, query in labelled]
    element = record["elements"][0]
    examples.append(
        {
            "label": f"Similar to {record['id']}, without {element}",
            "request": {"query": {"id": record["id"]}, "filter": f'NOT elements HAS "{element}"'},
        }
    )
    return examples


def phrases_for(service: Service) -> list[tuple[dict[str, Any], str]]:
    """Example queries in words. Each comes with a filter; a row that satisfies it is a good result."""
    phrases = []
    for name, spec in query_specs():
        if name not in service.modalities or spec.understand is None:
            continue
        for text in spec.phrases:
            understood = resolved(spec.understand)(text, service.fields)
            condition = understood.tiers()[0]
            if condition is not None and not understood.rest:
                query = {spec.fields[0].name: text}
                phrases.append(({"label": f"“{text}”", "request": {"query": query}}, condition))
    return phrases
