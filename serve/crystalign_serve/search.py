"""`crystalign search` and `crystalign similar`: ask a running service, print a table."""

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
"""Characters of the columns that are always there, and of one more; what does not fit stays in the JSON."""
MAX_PROPERTY_COLUMNS = 3


class SearchArgs(Config):
    """What `search` and `similar` share."""

    filter: str | None = None
    """OPTIMADE filter, e.g. 'elements HAS "Li" AND _crystalign_band_gap>1'; evaluated before the search."""
    k: int = Field(default=10, ge=1, le=1000)
    """Results wanted."""
    url: str | None = None
    """The service; default: CRYSTALIGN_URL, else http://127.0.0.1:8000."""
    api_key_file: str | None = None
    """File with the API key, where the service asks for one; default: CRYSTALIGN_API_KEY_FILE."""
    json_output: bool = False
    """Print the answer as JSON instead of a table."""


class SearchSettings(SearchArgs):
    """Query a served index by DOS, XRD, CIF, text, formula or id, or by any mixture of them.

    Example: crystalign search --dos dos.csv --filter 'elements HAS ALL "Li","O"'
    """

    wavelength: str | None = None
    """Of a powder pattern, where its file does not say: CuKa, CoKa, MoKa, …, or Å."""
    id: str | None = None
    """A material of the index."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Part and weight in a mixed query, e.g. --weights text 0.5 xrd 2; 1 where none is given."""
    rerank: int = Field(default=200, ge=0, le=1000)
    """Candidates of a powder pattern, asked alone, that a match of patterns looks at again, at least k; 0: none."""

    @property
    def asked(self) -> dict[str, str]:
        """What is there of what the modalities declare, and the id, by name."""
        names = [*flags(), "id"]
        return {name: value for name in names if (value := getattr(self, name, None)) is not None}


def search_model() -> type[SearchSettings]:
    """The settings of `crystalign search`, with a flag for each modality that can be asked for."""
    fields: dict[str, Any] = {
        name: (str | None, Field(default=None, description=part.field.flag)) for name, part in flags().items()
    }
    return create_model(
        "Search", __base__=SearchSettings, __doc__=SearchSettings.__doc__, __module__=__name__, **fields
    )


def __getattr__(name: str) -> Any:
    """`Search`, made when it is asked for: which flags it has depends on the packages that are installed."""
    if name == "Search":
        return search_model()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Similar(SearchArgs):
    """Find the crystals most similar to one of the index, or to the structure in a file.

    Example: crystalign similar mp-149 --k 20
    """

    material: Positional[str]
    """An id, or a file with a structure."""


def main(config: SearchSettings | Similar) -> Answer:
    """Ask and print.

    Raises:
        ConfigError: nothing is asked.
        QueryError: the service cannot use the query.
    """
    from crystalign_serve.client import Client
    from crystalign_serve.security import read_key

    key = None if config.api_key_file is None else read_key(config.api_key_file)
    with Client(config.url, api_key=key) as client:
        if isinstance(config, Similar):
            answer = client.find_similar(config.material, config.k, filter=config.filter)
        else:
            if not config.asked:
                names = ", ".join(f"--{name}" for name in [*flags(), "id"])
                raise ConfigError(f"nothing to search for; give at least one of {names}")
            answer = client.search(
                **config.asked,
                wavelength=config.wavelength,
                filter=config.filter,
                k=config.k,
                weights=config.weights,
                rerank=config.rerank,
            )
        if config.json_output:
            print(json.dumps(answer.raw, indent=1))
        else:
            show(answer, client.url)
    return answer


def show(answer: Answer, url: str) -> None:
    """Print the results as a table, and what to do with them."""
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
    for hit in answer:
        symbol = " ".join(str(x) for x in (hit.raw.get("spacegroup_symbol"), hit.spacegroup_number) if x is not None)
        values = [_number(hit.properties.get(key)) for key in columns]
        fixed = (str(hit.rank), hit.id, f"{hit.score:.4f}", hit.formula, symbol, str(hit.n_sites))
        table.add_row(*fixed, *((hit.source, *values) if room else ()))
    for notice in answer.raw["query"].get("notices") or ():
        console.print(f"note: {notice}", highlight=False, markup=False)
    console.print(table)
    for line in _explanations(answer):
        console.print(line, highlight=False, markup=False)
    shards = "" if answer.complete else f", {answer.raw['shards_ok']} of {answer.raw['shards_total']} shards answered"
    everything = ", which is all that the filter allows" if answer.exhausted else ""
    console.print(f"{len(answer)} of {answer.allowed:,} rows{everything}{shards}, {answer.raw['elapsed_ms']:.0f} ms")
    if len(answer):
        console.print(f"next: crystalign similar {answer[0].id}   or open {url}", highlight=False)


def _explanations(answer: Answer) -> list[str]:
    """Notes below the table: why scores are not in rank order, and the remarks of single rows."""
    scores = [hit.score for hit in answer]
    lines = []
    if scores != sorted(scores, reverse=True):
        ordered_by = answer.raw["query"].get("ordered_by", "the service")
        what = "patterns alone" if "pattern" in ordered_by else "embeddings alone"
        lines.append(f"The rows are ordered by {ordered_by}; the scores are of the {what}, so they need not fall.")
    return lines + [f"{hit.id}: {hit.raw['remarks']}" for hit in answer if hit.raw.get("remarks")]


def _property_columns(answer: Answer) -> dict[str, str]:
    """The properties that most results have, with unit."""
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
