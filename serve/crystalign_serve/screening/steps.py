"""The steps of a screening.

1. `FindIds`, for queries by id: the stored vectors of these ids in a group of segments.
2. `Encode`: the queries of a block are read and encoded; those that cannot be used are recorded with the reason.
3. `Scan`: a group of segments is loaded once and answers all queries.
4. `Conclude`: the answers of all groups are merged, reranked, and become hits.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crystalign.errors import InputError
from crystalign.index.manifest import SegmentEntry
from crystalign.index.search import Segment
from crystalign_serve.backend import (
    IndexAnswer,
    IndexRow,
    IndexSearch,
    LocalBackend,
    find_in_shard,
    search_words,
)
from crystalign_serve.errors import NotFoundError
from crystalign_serve.materials import Place, place_of
from crystalign_serve.queries import QueryPart
from crystalign_serve.sandbox.answers import text_of
from crystalign_serve.sandbox.limits import SandboxLimits
from crystalign_serve.sandbox.pool import Sandbox
from crystalign_serve.screening.hits import Concluded, hit_table, outcome_table
from crystalign_serve.screening.plan import Plan, open_model, open_plan
from crystalign_serve.screening.source import Block, Question
from crystalign_serve.screening.step import Step
from crystalign_serve.screening.stored import (
    Encoded,
    Group,
    GroupAnswer,
    answer_tables,
    encoded_queries,
    encoded_table,
    merged,
    searches_of,
)
from crystalign_serve.searching import Searcher, matched_part

if TYPE_CHECKING:
    from crystalign.model import Model

PATIENCE = 3600.0
"""Seconds that each part of the work on a query may take; a service, whose users wait, stops much earlier."""
FILE_SECONDS = 120.0
"""Seconds that a file may take to be parsed, which stands for a file that never ends; a service stops after 10."""
AT_A_TIME = 4
"""Queries that are read at the same time: files are parsed in processes of their own while others are encoded."""
SCAN_TOGETHER = 1024
"""Searches that share a pass through the vectors; they bound the memory of a scan."""
RERANK_TOGETHER = 64
"""Queries whose candidates' stored values are read from the dataset at once; they bound the memory of that."""


class FoundIds(LocalBackend):
    """Encodes with a model in this process, and knows the stored vectors of some ids."""

    def __init__(self, model: Model, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        super().__init__(model, ())
        self._vectors = vectors

    async def find(self, material_id: str) -> IndexRow | None:
        """The stored vector of an id, without metadata; None if the index does not contain it."""
        vector = self._vectors.get(material_id)
        return None if vector is None else IndexRow({}, vector)


class FindIds(Step):
    """Find the stored vectors of the ids among the queries, in a group of segments."""

    def __init__(self, plan: Plan, folder: str, blocks: Sequence[Block]) -> None:
        super().__init__(plan, folder)
        self._blocks = list(blocks)

    def names(self, row: dict[str, Any]) -> list[str]:
        """One file of ids and vectors."""
        return [f"ids-{row['group']:05d}"]

    def units(self, row: dict[str, Any]) -> int:
        """Rows of the segments."""
        return sum(entry.rows for entry in _entries(row))

    def make(self, row: dict[str, Any]) -> Iterator[pa.Table]:
        """The ids that these segments hold, with their vectors."""
        segment = Segment.load(self.plan.index, open_plan(self.plan).manifest, _entries(row))
        ids = dict.fromkeys(self.plan.queries.ids(self._blocks))
        found = {name: stored.vector for name in ids if (stored := find_in_shard(segment, name)) is not None}
        vectors = pa.array(list(found.values()), pa.list_(pa.float32()))
        yield pa.table({"id": pa.array(list(found), pa.string()), "vector": vectors})


class Encode(Step):
    """Read and encode a block of queries, one by one as a service would."""

    def __init__(self, plan: Plan, folder: str, id_groups: int) -> None:
        super().__init__(plan, folder)
        self._id_groups = id_groups

    def names(self, row: dict[str, Any]) -> list[str]:
        """One file of encoded queries."""
        return [encoded_name(_block(row).number)]

    def units(self, row: dict[str, Any]) -> int:
        """Queries of the block."""
        block = _block(row)
        return block.stop - block.start

    def make(self, row: dict[str, Any]) -> Iterator[pa.Table]:
        """The encoded queries, and the refused ones with the reason."""
        questions = list(self.plan.queries.questions(_block(row)))
        yield encoded_table(asyncio.run(self._encode(questions)))

    async def _encode(self, questions: Sequence[Question]) -> list[Encoded]:
        service = open_plan(self.plan).service
        model = open_model(self.plan.model, self.plan.model_sha256)
        backend = FoundIds(model, self._vectors(questions))
        searcher = Searcher(service, backend, _sandbox(), patience=PATIENCE, needs_dataset=True)
        free = asyncio.Semaphore(AT_A_TIME)

        async def one(question: Question) -> Encoded:
            async with free:
                return await self._one(searcher, question)

        return list(await asyncio.gather(*(one(question) for question in questions)))

    async def _one(self, searcher: Searcher, question: Question) -> Encoded:
        options, query, upload = self.plan.options, question.query, question.upload

        async def read() -> list[QueryPart]:
            return await searcher.parts(query, [] if upload is None else [upload], options)

        try:
            if question.refusal is not None:
                raise question.refusal
            found = await searcher.encoded(read, options, None if query is None else query.material_id)
        except InputError as error:
            return Encoded(question.name, reason=text_of(error.reason), problem=text_of(error, None))
        except NotFoundError as error:
            return Encoded(question.name, reason="unknown-id", problem=text_of(error, None))
        return Encoded(question.name, found)

    def _vectors(self, questions: Sequence[Question]) -> dict[str, NDArray[np.float32]]:
        """The stored vectors of the ids among some queries."""
        asked = {question.query.material_id for question in questions if question.query is not None} - {None}
        found: dict[str, NDArray[np.float32]] = {}
        for number in range(self._id_groups if asked else 0):
            table = self.read(f"ids-{number:05d}")
            for place, name in enumerate(table.column("id").to_pylist()):
                if name in asked:
                    found[name] = np.asarray(table.column("vector")[place].values.to_numpy(), np.float32)
        return found


class Scan(Step):
    """Load a group of segments once, and answer all queries.

    The vectors are searched exactly, whatever the kind of the index: a pass through all of them costs little for each
    of many queries, and the answers then do not depend on the groups.
    """

    def __init__(self, plan: Plan, folder: str, blocks: int) -> None:
        super().__init__(plan, folder)
        self._blocks = blocks

    def names(self, row: dict[str, Any]) -> list[str]:
        """Two files for each block of queries: the rows that were found, and the answers."""
        group = row["group"]
        return [name for block in range(self._blocks) for name in answer_names(group, block)]

    def units(self, row: dict[str, Any]) -> int:
        """Rows of the segments."""
        return sum(entry.rows for entry in _entries(row))

    def make(self, row: dict[str, Any]) -> Iterator[pa.Table]:
        """The answers to each block, the blocks in order."""
        segment = Segment.load(self.plan.index, open_plan(self.plan).manifest, _entries(row))
        pending: list[list[tuple[int, int, IndexSearch]]] = []
        for block in range(self._blocks):
            queries = searches_of(self.read(encoded_name(block)))
            exact = [[search._replace(modalities=()) for search in searches] for searches in queries]
            pending.append([(n, tier, search) for n, tiers in enumerate(exact) for tier, search in enumerate(tiers)])
            if sum(map(len, pending)) >= SCAN_TOGETHER or block == self._blocks - 1:
                yield from _scanned(segment, pending)
                pending = []


def _scanned(segment: Segment, blocks: Sequence[Sequence[tuple[int, int, IndexSearch]]]) -> Iterator[pa.Table]:
    """The tables of some blocks, whose searches share the passes through the vectors."""
    every = [search for block in blocks for _, _, search in block]
    hits = iter(segment.search_many([search.by_vector for search in every]))
    for block in blocks:
        found = [GroupAnswer(n, tier, next(hits), search_words(segment, search)) for n, tier, search in block]
        answers, rows = answer_tables(segment, found)
        yield rows
        yield answers


class Conclude(Step):
    """Merge the answers of all groups to a block of queries, rerank, and make the hits."""

    def __init__(self, plan: Plan, folder: str, groups: int) -> None:
        super().__init__(plan, folder)
        self._groups = groups

    def names(self, row: dict[str, Any]) -> list[str]:
        """The hits of the block, and what became of each of its queries."""
        return list(hit_names(_block(row).number))

    def units(self, row: dict[str, Any]) -> int:
        """Queries of the block."""
        block = _block(row)
        return block.stop - block.start

    def make(self, row: dict[str, Any]) -> Iterator[pa.Table]:
        """The hits, and the outcomes of the queries."""
        block = _block(row)
        concluded = asyncio.run(self._conclude(block))
        service = open_plan(self.plan).service
        yield hit_table(concluded, block.start, service.manifest)
        yield outcome_table(concluded, block.start)

    async def _conclude(self, block: Block) -> list[Concluded]:
        backend = FoundIds(open_model(self.plan.model, self.plan.model_sha256), {})
        service = open_plan(self.plan).service
        searcher = Searcher(service, backend, _sandbox(), patience=PATIENCE, needs_dataset=True)
        names = [answer_names(group, block.number) for group in range(self._groups)]
        groups = [Group(self.read(answers), self.read(rows)) for rows, answers in names]
        queries, concluded = encoded_queries(self.read(encoded_name(block.number))), []
        for start in range(0, len(queries), RERANK_TOGETHER):
            some = queries[start : start + RERANK_TOGETHER]
            answers = [
                [] if one.query is None else merged(groups, number, one.query.searches)
                for number, one in enumerate(some, start)
            ]
            searcher.gather = self._stored(searcher, some, answers)
            for one, own in zip(some, answers, strict=True):
                concluded.append(await self._one(searcher, one, own))
        return concluded

    async def _one(self, searcher: Searcher, one: Encoded, answers: Sequence[IndexAnswer]) -> Concluded:
        if one.query is None:
            return Concluded(one.name, reason=one.reason, problem=one.problem)
        found = await searcher.conclude(one.query, answers, self.plan.options)
        return Concluded(one.name, found, searcher.results(found), searcher.confidence(found, self.plan.options))

    def _stored(self, searcher: Searcher, queries: Sequence[Encoded], answers: Sequence[Sequence[IndexAnswer]]) -> Any:
        """A `gather` that knows the stored values of the candidates of some queries, each read once."""
        places: dict[str, set[Place]] = {}
        for one, own in zip(queries, answers, strict=True):
            part = None if one.query is None else matched_part(one.query.parts)
            if part is not None and self.plan.options.rerank:
                rows = (place_of(record) for answer in own for record in answer.records)
                places.setdefault(part.modality, set()).update(rows)
        gather = searcher.service.materials.gather
        values = {m: dict(zip(sorted(p), gather(sorted(p), m), strict=True)) for m, p in places.items()}
        return lambda rows, modality: [values[modality][row] for row in rows]


# --- names of the files between the steps ----------------------------------------------------------------------------


def encoded_name(block: int) -> str:
    """Name of the encoded queries of a block."""
    return f"encoded-{block:05d}"


def answer_names(group: int, block: int) -> tuple[str, str]:
    """Names of the rows and the answers of a group of segments to a block."""
    return f"answers-{block:05d}-{group:05d}.rows", f"answers-{block:05d}-{group:05d}"


def hit_names(block: int) -> tuple[str, str]:
    """Names of the hits and the outcomes of a block."""
    return f"hits-{block:05d}", f"outcomes-{block:05d}"


def block_row(block: Block) -> dict[str, Any]:
    """The row of work of a block."""
    return {"block": block.model_dump_json()}


def group_row(number: int, entries: Sequence[SegmentEntry]) -> dict[str, Any]:
    """The row of work of a group of segments."""
    return {"group": number, "entries": json.dumps([entry.model_dump(mode="json") for entry in entries])}


def _sandbox() -> Sandbox:
    return Sandbox(SandboxLimits(seconds=FILE_SECONDS, queue_seconds=PATIENCE))


def _block(row: dict[str, Any]) -> Block:
    return Block.model_validate_json(row["block"])


def _entries(row: dict[str, Any]) -> list[SegmentEntry]:
    return [SegmentEntry.model_validate(values) for values in json.loads(row["entries"])]
