"""`Index`: a whole index, opened and searched in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from crystalign.index.facets import Facets
from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Found, Search, Segment
from crystalign.index.versions import read_version

if TYPE_CHECKING:
    from crystalign.model import Model


@dataclass(frozen=True, slots=True)
class Index:
    """The vectors of a collection of materials, their metadata, and the model that made them.

    A service spreads the segments of an index over several processes; this class holds all of them in one.
    """

    uri: str
    """URI of the index."""
    manifest: IndexManifest
    """Model, dataset, modality, properties and licences of the index."""
    segment: Segment
    """Every row of the index."""

    @classmethod
    def open(cls, uri: str, *, version: int | None = None) -> Self:
        """Read an index and check every file against its manifest. Later versions do not change what was opened.

        Args:
            uri: path or URI of what `crystalign index` or `build_index` wrote.
            version: number of a version; None means the current one.

        Raises:
            DatasetError: there is no index.
            ConfigError: there is no such version.
            VerificationError: a file is missing or differs from the manifest.
        """
        manifest = IndexManifest.read(uri) if version is None else read_version(uri, version)
        return cls(uri, manifest, Segment.load(uri, manifest))

    def __len__(self) -> int:
        """The number of materials; removed ones do not count."""
        return self.segment.live

    def search(
        self,
        queries: NDArray[np.floating[Any]],
        k: int = 10,
        filter_text: str | None = None,
        *,
        modality: str | None = None,
    ) -> list[list[dict[str, Any]]]:
        """The k best materials for each query vector, best first.

        Args:
            queries: (q, D) unit vectors of the model that made the index, as `Model.embed` returns them.
            k: the number of materials, at least 1.
            filter_text: OPTIMADE filter; only materials that satisfy it are searched.
            modality: modality of the queries. An approximate index searches exactly if it is None or was not measured.

        Returns:
            For each query, at most k records: `score` (cosine similarity), `id`, `formula` and the other columns.

        Raises:
            QueryError: the queries have another dimension, or the filter cannot be read.
        """
        modalities = () if modality is None else (modality,)
        searches = [Search(query, k, filter_text, modalities) for query in np.atleast_2d(queries)]
        return [self._records(result) for result in self.segment.search_many(searches)]

    def count(self, filter_text: str | None = None) -> int:
        """The number of materials that satisfy a filter, without a search.

        Raises:
            QueryError: the filter cannot be read.
        """
        return self.segment.count(filter_text)

    def facets(self, filter_text: str | None = None) -> Facets:
        """How many of the materials that satisfy a filter have each element, crystal system and source.

        Raises:
            QueryError: the filter cannot be read.
        """
        return self.segment.facets(filter_text)

    def check_model(self, model: Model) -> None:
        """Check that a model is the one that made this index; vectors of another model are not comparable.

        Raises:
            QueryError: it is another model.
        """
        from crystalign.errors import QueryError

        if model.sha256 != self.manifest.model_sha256:
            raise QueryError(
                f"the index {self.uri} was made by model {self.manifest.model_sha256[:12]}, this is model "
                f"{model.sha256[:12]}; embed and index the dataset with this model, or load the model of the index",
                reason="other-model",
            )

    def _records(self, result: Found) -> list[dict[str, Any]]:
        rows = self.segment.records(result.rows)
        return [{"score": float(score)} | row for score, row in zip(result.scores, rows, strict=True)]
