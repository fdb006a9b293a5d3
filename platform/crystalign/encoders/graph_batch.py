"""Convert between the tensors of a batch of crystals and PyTorch Geometric's `Batch`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crystalign.errors import ConfigError
from crystalign.modalities import Inputs

if TYPE_CHECKING:
    from torch_geometric.data import Batch

NAMES = {"x": "z", "edge_length": "edge_weight", "edge_vector": "edge_vec", "lattice": "cell"}
"""Name in `Inputs` → name in a `Batch`; the others have one name. `species_site` becomes `species_index`."""


def to_batch(inputs: Inputs) -> Batch:
    """Convert the tensors of `CrystalModality.collate` to a `Batch` without copying.

    For n crystals with A atoms and E edges: `z` (A,) atomic numbers, `edge_index` (2, E) sender above receiver,
    `edge_weight` (E,) and `edge_vec` (E, 3) lengths and vectors from receiver to sender in Å, `cell` (n, 3, 3) in Å
    with vectors as rows, `volume` (n,) in Å³, `n_atoms` (n,), `batch` (A,) and `ptr` (n + 1,); and whatever else
    `inputs` holds. There is no `pos`, because networks over periodic images only need the edges. `to_data_list` does
    not work on it; `Crystal.to_pyg` makes single graphs.
    """
    from torch_geometric.data import Batch

    n_atoms = inputs["n_atoms"]
    ptr = torch.cat([n_atoms.new_zeros(1), n_atoms.cumsum(0)])  # (n + 1,)
    names = NAMES | {"species_site": "species_index"}
    return Batch(**{names.get(name, name): tensor for name, tensor in inputs.items()}, ptr=ptr)


def from_batch(batch: Batch) -> Inputs:
    """Convert a `Batch` to the tensors of `CrystalModality.collate`: edges sorted by receiver, nearest first.

    Accepts the output of `to_batch` and a `Batch` made from `Crystal.to_pyg(cutoff)`.

    Raises:
        ConfigError: it has no edges with lengths and vectors, no atomic numbers, no cells or no `batch`.
    """
    needed = ("z", "edge_index", "edge_weight", "edge_vec", "cell", "batch")
    missing = [name for name in needed if batch.get(name) is None]
    if missing:
        raise ConfigError(
            f"the Batch has no {', '.join(missing)}; make it of Crystal.to_pyg(cutoff) by Batch.from_data_list"
        )
    names = {new: old for old, new in NAMES.items()} | {"species_index": "species_site"}
    left_out = {"ptr", "pos", "pbc", "edge_shift"}
    inputs: Inputs = {
        names.get(k, k): t for k, t in batch.to_dict().items() if isinstance(t, Tensor) and k not in left_out
    }
    order = torch.argsort(inputs["edge_length"], stable=True)
    order = order[torch.argsort(inputs["edge_index"][1, order], stable=True)]
    for name in [name for name in inputs if name.startswith("edge_")]:
        inputs[name] = inputs[name][:, order] if name == "edge_index" else inputs[name][order]
    if "n_atoms" not in inputs:
        inputs["n_atoms"] = torch.bincount(inputs["batch"], minlength=len(inputs["lattice"]))
    if "volume" not in inputs:
        inputs["volume"] = torch.linalg.det(inputs["lattice"]).abs()
    return inputs


def as_inputs(graph: Inputs | Batch) -> Inputs:
    """Return the tensors of a batch in either form; each crystal encoder calls this first."""
    return graph if isinstance(graph, dict) else from_batch(graph)
