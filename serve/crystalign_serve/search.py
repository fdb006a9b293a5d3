"""`crystalign search` and `crystalign similar`: query a running service and print a table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model
from tyro.conf import Positional

from crystalign.config import Config
from crystalign.errors import ConfigError
from crystalign_serve.query_fields import flags

if TYPE_CHECKING:
    from crystalign_serve.client import Answer

TABLE_WIDTH, COLUMN_WIDTH = 78, 20
"""Width of the fixed columns, and of each further column. Columns that do not fit are only in the JSON output."""
MAX_PROPERTY_COLUMNS = 3


class SearchArgs(Config):
    """Options that `search` and `similar` share."""

    filter: str | None = None
    """OPTIMADE filter, e.g. 'elements HAS "Li" AND _crystalign_band_gap>1'; evaluated before the search."""
    hypothetical: bool = False
    """Search hypothetical crystals, too; without it only a filter that names `_crystalign_hypothetical` finds them."""
    k: int = Field(default=10, ge=1, le=1000)
    """Number of results."""
    url: str | None = None
    """URL of the service; default: CRYSTALIGN_URL, or else http://127.0.0.1:8000."""
    api_key_file: str | None = None
    """File with the API key, if the service requires one; default: CRYSTALIGN_API_KEY_FILE."""
    json_output: bool = False
    """Print the response as JSON instead of a table."""

    @property
    def whole_filter(self) -> str | None:
        """The filter, with a condition that hypothetical rows satisfy as well as others if they are asked for."""
        if not self.hypothetical:
            return self.filter
        every = "_crystalign_hypothetical IS KNOWN"
        return every if self.filter is None else f"({self.filter}) AND {every}"


class SearchSettings(SearchArgs):
    """Search a served index by DOS, XRD, CIF, text, formula or id, or by any combination of them.

    Words are read as conditions: --text "layered lithium oxide" finds oxides of lithium that are layered.

    Example: crystalign search --dos dos.csv --filter 'elements HAS ALL "Li","O"'
    """

    wavelength: str | None = None
    """Wavelength of a powder pattern if its file does not state it: CuKa, CoKa, MoKa, …, or Å."""
    id: str | None = None
    """Id of a material in the index."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Weight of each part of a combined query, e.g. --weights text 0.5 xrd 2; default 1."""
    rerank: int = Field(default=200, ge=0, le=1000)
    """For a query by a powder pattern alone: number of candidates (at least k) to rerank by pattern match; 0: none."""
    literal: bool = False
    """Do not read the words of a text or formula as conditions ("layered oxide"); only compare them."""
    ignore: tuple[str, ...] = ()
    """Words of the text not to read as conditions, e.g. --ignore layered "lithium oxide"; they are compared as text."""

    @property
    def parts(self) -> dict[str, str]:
        """The given parts of the query, by name."""
        names = [*flags(), "id"]
        return {name: value for name in names if (value := getattr(self, name, None)) is not None}


def search_model() -> type[SearchSettings]:
    """Build the settings of `crystalign search`, with a flag for each searchable modality."""
    fields: dict[str, Any] = {
        name: (str | None, Field(default=None, description=part.field.flag)) for name, part in flags().items()
    }
    return create_model(
        "Search", __base__=SearchSettings, __doc__=SearchSettings.__doc__, __module__=__name__, **fields
    )


def __getattr__(name: str) -> Any:
    """Build `Search` on first access, because its flags depend on the installed packages."""
    if name == "Search":
        return search_model()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Similar(SearchArgs):
    """Find the crystals most similar to a material of the index, or to the structure in a file.

    Example: crystalign similar mp-149 --k 20
    """

    material: Positional[str]
    """Id of a material, or path of a structure file."""


def main(config: SearchSettings | Similar) -> Answer:
    """Send the query and print the results.

    Raises:
        ConfigError: the query is empty.
        QueryError: the service cannot use the query.
    """
    from crystalign_serve.client import Client
    from crystalign_serve.security import read_key

    key = None if config.api_key_file is None else read_key(config.api_key_file)
    with Client(config.url, api_key=key) as client:
        if isinstance(config, Similar):
            answer = client.find_similar(config.material, config.k, filter=config.whole_filter)
        else:
            if not config.parts:
                names = ", ".join(f"--{name}" for name in [*flags(), "id"])
                raise ConfigError(f"nothing to search for; give at least one of {names}")
            answer = client.search(
                **config.parts,
                wavelength=config.wavelength,
                filter=config.whole_filter,
                k=config.k,
                weights=config.weights,
                rerank=config.rerank,
                literal=config.literal,
                ignore=config.ignore,
            )
        if config.json_output:
            print(json.dumps(answer.raw, indent=1))
        else:
            show(answer, client.url)
    return answer


def show(answer: Answer, url: str) -> None:
    """Print the results as a table, with notes and a next command."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    room = max(0, console.width - TABLE_WIDTH) // COLUMN_WIDTH
    columns = dict(list(_property_columns(answer).items())[: max(0, room - 1)])
    table = Table()
    for name in ("#", "id", "score", "formula", "space group", "sites"):
        table.add_column(name, no_wrap=True)
    if room:
        table.add_column("source", no_wrap=True)
    for label in columns.values():
        table.add_column(label, justify="right")
    tiers = [hit.raw.get("tier", 0) for hit in answer]
    for hit, tier, before in zip(answer, tiers, [*tiers[:1], *tiers], strict=False):
        if tier != before:
            table.add_section()  # a line between those that satisfy everything and those that follow
        symbol = " ".join(str(x) for x in (hit.raw.get("spacegroup_symbol"), hit.spacegroup_number) if x is not None)
        values = [_number(hit.properties.get(key)) for key in columns]
        fixed = (str(hit.rank), hit.id, f"{hit.score:.4f}", hit.formula, symbol, str(hit.n_sites))
        table.add_row(*fixed, *((hit.source, *values) if room else ()))
    for line in (
        *_doubt(answer),
        *_understood(answer),
        *(f"note: {x}" for x in answer.raw["query"].get("notices") or ()),
    ):
        console.print(line, highlight=False, markup=False)
    console.print(table)
    for line in _explanations(answer):
        console.print(line, highlight=False, markup=False)
    shards = "" if answer.complete else f", {answer.raw['shards_ok']} of {answer.raw['shards_total']} shards answered"
    exhausted = ", all that pass the filter" if answer.exhausted else ""
    console.print(f"{len(answer)} of {answer.allowed:,} rows{exhausted}{shards}, {answer.raw['elapsed_ms']:.0f} ms")
    if len(answer):
        console.print(f"next: crystalign similar {answer[0].id}   or open {url}", highlight=False)


def _doubt(answer: Answer) -> list[str]:
    """A line above the table if the results may not fit."""
    confidence = answer.confidence
    return [] if confidence is None or confidence["level"] == "high" else [confidence["text"]]


def _understood(answer: Answer) -> list[str]:
    """Lines above the table: the conditions that the words were read as, and the words that were only compared."""
    understood = answer.raw["query"].get("understood") or {}
    lines = []
    if chips := answer.understood:
        conditions = "; ".join(chip["label"] if chip["strict"] else f"first {chip['label']}" for chip in chips)
        lines.append(f"understood: {conditions}")
        lines += [f"  {chip['words']}: {chip['note']}" for chip in chips if chip["note"]]
    if chips and understood["rest"]:
        lines.append(f"compared as text: {understood['rest']}")
    return lines + [f"note: {note}" for note in understood.get("notes", ())]


def _explanations(answer: Answer) -> list[str]:
    """Notes below the table: why the scores are not in rank order, and the remarks of single rows."""
    scores = [hit.score for hit in answer]
    lines = []
    if scores != sorted(scores, reverse=True):
        ordered_by = answer.raw["query"].get("ordered_by", "the service")
        what = "patterns alone" if "pattern" in ordered_by else "embeddings alone"
        lines.append(
            f"The rows are ordered by {ordered_by}. The scores are those of the {what}, so they may not decrease."
        )
    made_up = [hit.id for hit in answer if hit.raw.get("hypothetical")]
    if made_up:
        lines.append(f"hypothetical, neither measured nor relaxed: {', '.join(made_up)}")
    return lines + [f"{hit.id}: {hit.raw['remarks']}" for hit in answer if hit.raw.get("remarks")]


def _property_columns(answer: Answer) -> dict[str, str]:
    """The most frequent properties of the results, with unit."""
    counts: dict[str, int] = {}
    labels: dict[str, str] = {}
    for hit in answer:
        for entry in hit.raw["properties"]:
            counts[entry["key"]] = counts.get(entry["key"], 0) + 1
            labels[entry["key"]] = f"{entry['label']} ({entry['unit']})" if entry["unit"] else entry["label"]
    best = sorted(counts, key=lambda key: (-counts[key], key))[:MAX_PROPERTY_COLUMNS]
    return {key: labels[key] for key in best}


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"
