"""Milliseconds to parse, compile and evaluate the costliest filters that are accepted, on 100,000 rows.

    python tests/benchmarks/bench_filters.py

Each filter is as long as filters may be, or as long as its cost allows, and no two of its comparisons
are the same. In the same run, as a baseline, the parser of optimade-python-tools reads the same text.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import tyro
from rich.console import Console
from rich.table import Table

from crystalign.config import Config
from crystalign.crystal import SYMBOLS, reduced_formula
from crystalign.errors import QueryError
from crystalign.index.filters import MAX_FILTER_LENGTH, Fields, compile_filter, element_bits, make_fields
from crystalign.index.search import evaluate
from crystalign.properties import PropertySpec, Quantity

GAP = PropertySpec(quantity=Quantity.BAND_GAP, method="pbe", source="mp", vintage="2026")
LETTERS = "ABCDEFGHI"


class BenchFilters(Config):
    """Time filters."""

    rows: int = 100_000
    """Of the table."""
    repeats: int = 5
    """Each is timed this often, and the fastest counts: what else runs on the machine only adds."""
    limit: float = 150.0
    """Milliseconds; slower filters are marked."""


def main(config: BenchFilters) -> None:
    """Print the table."""
    rows, fields = make_table(config.rows), make_fields([GAP])
    table = Table("filter", "characters", "comparisons", "parse, ms", "evaluate, ms", "together, ms", "by optimade, ms")
    for name, pieces, sign in worst():
        text, number = longest(pieces, sign, fields)
        parse = best(lambda: compile_filter(text, fields), config.repeats)  # noqa: B023
        expression = compile_filter(text, fields).expression
        run = best(lambda: evaluate(rows, expression), config.repeats)  # noqa: B023
        late = " !" if parse + run > config.limit else ""
        cells = (f"{parse:.1f}", f"{run:.1f}", f"{parse + run:.1f}{late}", f"{best(other(text), 1):.0f}")
        table.add_row(name, str(len(text)), str(number), *cells)
    Console(width=120).print(table)


def worst() -> Iterator[tuple[str, Iterator[str], str]]:
    """A name, comparisons without end, and what joins them."""
    words = ["".join(letters) for letters in itertools.product("abcdefghijklm0123456789", repeat=2)]
    for sign in (" OR ", " AND "):
        yield f"nsites>n{sign}", (f"nsites>{n}" for n in range(10_000)), sign
        yield f"band gap<x{sign}", (f"_crystalign_band_gap<0.{n}" for n in range(1, 10_000)), sign
        yield f"id=…{sign}", (f'id="{word}"' for word in words), sign
        yield f"id<…{sign}", (f'id<"{word}"' for word in words), sign
        yield f"id CONTAINS{sign}", (f'id CONTAINS "{word}"' for word in words), sign
        yield f"id STARTS{sign}", (f'id STARTS "{word}"' for word in words), sign
        yield f"id ENDS{sign}", (f'id ENDS "{word}"' for word in words), sign
        pairs = itertools.combinations(SYMBOLS[1:95], 2)
        yield f"elements HAS ANY{sign}", (f'elements HAS ANY "{a}","{b}"' for a, b in pairs), sign
        yield f"formula=…{sign}", (f'chemical_formula_reduced="{s}O"' for s in SYMBOLS[9:95]), sign
        shares = itertools.permutations([0.123, 0.457, 0.791, 0.333])
        mixed = (f'chemical_formula_reduced="Ca{a}Fe{b}Mg{c}O{d}"' for a, b, c, d in shares)
        yield f"mixed formula=…{sign}", mixed, sign
        yield f"anonymous{sign}", (f'chemical_formula_anonymous="A{n}B2C"' for n in range(3, 99)), sign
        yield f"IS KNOWN{sign}", itertools.cycle(["nsites IS KNOWN", "id IS UNKNOWN"]), sign
        yield f"NOT (id …){sign}", (f'NOT (id CONTAINS "{w}" AND nsites>{i})' for i, w in enumerate(words)), sign
    yield "30 × (…)", iter(["(" * 30 + 'id CONTAINS "a"' + ")" * 30]), ""
    nested = "".join(f'NOT (id<"{word}" OR ' for word in words[:30])
    yield "30 × NOT (…)", iter([nested + "nsites>1" + ")" * 30]), ""
    many = "".join(f"{letter}{9 - i}" for i, letter in enumerate(LETTERS[:6]))
    yield "anonymous, 6 amounts", iter([f'chemical_formula_anonymous="{many}"']), ""


def longest(pieces: Iterator[str], sign: str, fields: Fields) -> tuple[str, int]:
    """As many comparisons as are accepted together, and how many those are."""
    taken: list[str] = []
    for piece in pieces:
        text = sign.join([*taken, piece])
        if len(text) > MAX_FILTER_LENGTH:
            break
        try:
            compile_filter(text, fields)
        except QueryError as error:
            if error.reason != "filter-too-costly":
                raise
            break
        taken.append(piece)
    return sign.join(taken), len(taken)


def best(work: Callable[[], object], repeats: int) -> float:
    """Milliseconds of the fastest of several runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)


def other(text: str) -> Callable[[], object]:
    """The same text through the grammar and parser of optimade-python-tools."""
    from optimade.filterparser import LarkParser

    parser = LarkParser(version=(1, 2, 0))
    return lambda: parser.parse(text)


def make_table(n: int) -> pa.Table:
    """Random materials, as a segment holds them."""
    rng = np.random.default_rng(0)
    chosen = [np.sort(rng.choice(np.arange(1, 95), k, replace=False)).tolist() for k in rng.integers(1, 7, n)]
    bits = [element_bits(zs) for zs in chosen]
    columns = {
        "id": [f"mp-{i}" for i in rng.permutation(10 * n)[:n]],
        "formula": [reduced_formula(dict(zip(zs, rng.integers(1, 9, len(zs)).tolist(), strict=True))) for zs in chosen],
        "chemsys": ["-".join(sorted(SYMBOLS[z] for z in zs)) for zs in chosen],
        "n_sites": pa.array(rng.integers(1, 200, n), pa.int32()),
        "spacegroup_number": pa.array([None if i % 7 == 0 else 225 for i in range(n)], pa.int16()),
        GAP.column: pa.array([None if i % 3 == 0 else x for i, x in enumerate(rng.random(n))], pa.float64()),
        "elements_low": pa.array([b[0] for b in bits], pa.uint64()),
        "elements_high": pa.array([b[1] for b in bits], pa.uint64()),
        "nelements": pa.array([len(zs) for zs in chosen], pa.int32()),
    }
    return pa.table(columns)


if __name__ == "__main__":
    main(tyro.cli(BenchFilters))
