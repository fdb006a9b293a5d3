"""Ask an index queries whose right answers are known, through the same code as a service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from crystalign.errors import ConfigError, DatasetError, InputError, ModelError
from crystalign.evaluation.held_out_queries import HeldOutQueries, HeldOutQuery, Pool, held_out_queries, is_answered
from crystalign.evaluation.seen import require_same_ids, split_of_card
from crystalign.index.calibration import FIRST
from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Segment
from crystalign.shards.dataset import Dataset
from crystalign.shards.splits import SplitRule
from crystalign_serve import queries
from crystalign_serve.backend import LocalBackend
from crystalign_serve.queries import Interpreter, QueryPart
from crystalign_serve.query_fields import spec_of
from crystalign_serve.requests import SearchOptions, query_model
from crystalign_serve.searching import Searcher
from crystalign_serve.service import open_service

if TYPE_CHECKING:
    from crystalign.material import Material
    from crystalign.model import Model

PATIENCE = 3600.0
"""Seconds that each part of the work may take; a service, whose users wait, stops much earlier."""
Place = tuple[int, int]
"""Shard and row of a material in its dataset."""


class Asked(NamedTuple):
    """A query and its outcome."""

    half: int
    """0 for the queries that fit the probabilities, 1 for those that test them."""
    signals: dict[str, float]
    """Signals of the answer."""
    answered: bool
    """Whether the first results fit."""
    query: HeldOutQuery
    """The query."""


@dataclass(frozen=True)
class Examiner:
    """An index with its model and dataset, and a search over it in this process."""

    manifest: IndexManifest
    """Manifest of the index."""
    model: Model
    """The model that made it."""
    dataset: Dataset
    """The dataset of its materials."""
    rule: SplitRule
    """The split of the model."""
    segment: Segment
    """Every row of the index."""
    searcher: Searcher
    """The search."""

    @classmethod
    def open(cls, index: str, model_uri: str | None = None, dataset_uri: str | None = None) -> Self:
        """Open an index with its model and dataset, at the given URIs or those recorded in the index.

        Raises:
            ModelError: the model is not the one of the index, or has no split.
            DatasetError: the dataset is not the one of the index, or its materials cannot be told from those of the
                training.
        """
        from crystalign.model import load

        manifest = IndexManifest.read(index)
        if manifest.added_datasets:
            raise DatasetError(
                f"{index} has materials of {1 + len(manifest.added_datasets)} datasets, and queries are made from one: "
                "merge the datasets, embed the result and build a new index"
            )
        model, dataset = load(model_uri or manifest.model_uri), Dataset.open(dataset_uri or manifest.dataset_uri)
        if model.sha256 != manifest.model_sha256:
            raise ModelError(
                f"model {model.sha256[:12]} is not the one that made the index, {manifest.model_sha256[:12]}; give "
                "that one with --model"
            )
        rule = split_of_card(model.card)
        require_same_ids(rule, model.card, dataset)
        lexicon, segment = manifest.read_lexicon(index), Segment.load(index, manifest)
        service = open_service(manifest, model.config, model.card, dataset_uri=dataset.uri, shards=1, lexicon=lexicon)
        searcher = Searcher(service, LocalBackend(model, [segment]), patience=PATIENCE)
        return cls(manifest, model, dataset, rule, segment, searcher)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the model reads, that a search can ask for, and that the dataset holds."""
        held = {"crystal", *(name for name, count in self.dataset.manifest.modalities.items() if count)}
        return tuple(name for name in self.model.config.modalities if spec_of(name) is not None and name in held)

    async def ask(self, modality: str, most: int, seed: int) -> list[Asked]:
        """Make queries of a modality from at most `most` unseen materials, and ask them.

        Raises:
            ConfigError: the modality cannot be asked for.
        """
        if modality not in self.modalities:
            raise ConfigError(f"no queries by {modality!r}; this index can be asked by {', '.join(self.modalities)}")
        making, rng = held_out_queries(modality), np.random.default_rng([seed, *modality.encode()])
        unseen = self._unseen(modality)
        chosen = [unseen[number] for number in rng.permutation(len(unseen))[:most].tolist()]
        materials: dict[Place, Material] = {}
        pool = Pool(self._keys(making, modality, set(chosen), materials))
        made = [(n % 2, making.query(materials[place], pool, rng, n % 2)) for n, place in enumerate(chosen)]
        made += [(half, query) for half in (0, 1) for query in making.unrelated(half)]
        asked = []
        for half, query in _counted(modality, made):
            outcome = None if query is None else await self._ask(modality, query)
            if query is not None and outcome is not None:
                ids, signals = outcome
                asked.append(Asked(half, signals, is_answered(ids, pool.fitting(query), FIRST), query))
        return asked

    def _unseen(self, modality: str) -> list[Place]:
        """The materials of the index that have a modality and that the model was not trained on.

        Raises:
            DatasetError: there are none.
        """
        indexed = set(self._indexed())
        table = self.dataset.table(list(self.rule.columns))
        places = zip(table.column("shard").to_pylist(), table.column("row").to_pylist(), strict=True)
        shards = range(len(self.dataset.manifest.shards))
        has = [one for shard in shards for one in self._has(shard, modality)]
        rows = zip(places, self.rule.mask(table, "test").tolist(), has, strict=True)
        unseen = [place for place, test, present in rows if test and present and place in indexed]
        if not unseen:
            raise DatasetError(f"the index holds no {modality} of a material that the model was not trained on")
        return unseen

    def _has(self, shard: int, modality: str) -> list[bool]:
        rows = self.dataset.manifest.shards[shard].rows
        present: list[bool] = [True] * rows if modality == "crystal" else self.dataset.has(shard, modality).tolist()
        return present

    def _indexed(self) -> list[Place]:
        """The places of the rows that a search without a filter can find; hypothetical ones are not among them."""
        mask = np.unpackbits(self.segment.allowed(None).bits, bitorder="little", count=len(self.segment)).astype(bool)
        columns = self.segment.table.select(["shard", "row"]).filter(mask).to_pydict()
        return list(zip(columns["shard"], columns["row"], strict=True))

    def _keys(
        self, making: HeldOutQueries, modality: str, chosen: set[Place], materials: dict[Place, Material]
    ) -> Iterator[tuple[str, frozenset[str]]]:
        """Id and keys of every material of the index; the chosen ones are kept in `materials`."""
        indexed = set(self._indexed())
        stored = [] if modality == "crystal" else [modality]
        places = ((shard, row) for shard, entry in enumerate(self.dataset.manifest.shards) for row in range(entry.rows))
        for place, material in zip(places, self.dataset.materials(stored), strict=True):
            if place in chosen:
                materials[place] = material
            if place in indexed:
                yield material.id, making.keys(material)

    async def _ask(self, modality: str, query: HeldOutQuery) -> tuple[list[str], dict[str, float]] | None:
        """Ids of the results and signals of the answer; None if the query is refused or has no results."""
        options = SearchOptions(k=FIRST, filter=_without(query.leave_out))

        async def read() -> list[QueryPart]:
            return self._parts(modality, query.value)

        try:
            found = await self.searcher.find_best(read, options, None)
        except InputError:
            return None
        return ([record["id"] for record in found.best.records], found.signals) if found.signals else None

    def _parts(self, modality: str, value: Any) -> list[QueryPart]:
        """The query as a service would read it."""
        spec = spec_of(modality)
        assert spec is not None
        name = spec.fields[0].name
        if spec.is_words:
            query = query_model().model_validate({name: value})
            service = self.searcher.service
            interpret = Interpreter(service.fields)
            return queries.parts_of(query, service.modalities, self.manifest.modality, interpret)
        return [QueryPart(name, modality, self.model.modality(modality).featurise(value), None, value)]


def _without(ids: Sequence[str]) -> str | None:
    """A filter that leaves out some ids."""
    quoted = [name.replace("\\", "\\\\").replace('"', '\\"') for name in ids]
    return "NOT (" + " OR ".join(f'id="{name}"' for name in quoted) + ")" if ids else None


def _counted(modality: str, made: Sequence[Any]) -> Iterator[Any]:
    """The queries, with a bar of progress."""
    from rich.progress import track

    yield from track(made, description=f"asking {modality}", transient=True)
