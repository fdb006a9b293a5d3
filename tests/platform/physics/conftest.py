"""Entries of the Materials Project, by id."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest

from crystalign.crystal import Crystal


@pytest.fixture(scope="session")
def database_entries(real_data) -> Callable[[Iterable[str]], dict[str, Crystal]]:
    """A function from ids to crystals."""
    import pyarrow.parquet as pq
    from pymatgen.core import Lattice

    def read(ids: Iterable[str]) -> dict[str, Crystal]:
        path = real_data / "materials_project" / "crystals.parquet"
        rows = pq.read_table(path, filters=[("material_id", "in", list(ids))]).to_pylist()
        return {
            row["material_id"]: Crystal(
                Lattice.from_parameters(*row["lattice"]).matrix,
                np.reshape(row["frac_coords"], (-1, 3)),
                np.array(row["atomic_numbers"], int),
            )
            for row in rows
        }

    return read
