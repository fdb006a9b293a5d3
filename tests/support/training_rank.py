"""One rank of a short training in float64, run as a program: `forked_ranks.py training_rank FOLDER WORLD_SIZE`.

Six samples a step, some without a modality and one modality that no rank has at first: cut into
⌈6/W⌉ rows per rank, the last rank with surplus rows.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import torch
import torch.distributed as dist

from synthetic import synthetic_material

BATCH, STEPS = 7, 3


@functools.cache
def materials() -> list:
    """Seven materials; the first three lack a text, and only the last has a charge density."""
    made = [synthetic_material(13 * i) for i in range(BATCH)]
    lacking = [("charge_density", *(("composition",) if i < 3 else ())) if i < BATCH - 1 else () for i in range(BATCH)]
    return [
        dataclasses.replace(m, modalities={k: v for k, v in m.modalities.items() if k not in names})
        for m, names in zip(made, lacking, strict=True)
    ]


def run(rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """The weights after a few steps of this rank's share."""
    from crystalign.batch import make_batch
    from crystalign.model import Model, ModelConfig
    from crystalign.training.config import PretrainConfig
    from crystalign.training.loop import train

    config = ModelConfig(
        modalities={
            "crystal": {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1, "width": 16}},
            "composition": {"encoder": "composition-transformer", "options": {"hidden": 8, "layers": 1}},
            "charge_density": {"encoder": "conv3d", "options": {"channels": (2, 4), "width": 8}},
            "dos": {"encoder": "dos-transformer", "options": {"hidden": 8, "layers": 1, "patch": 100}},
        },
        embedding_dim=8,
    )
    settings = PretrainConfig(data="none", out="none", model=config, batch_size=BATCH, optimiser={"lr": 1e-3})
    torch.manual_seed(1)
    model = Model(config).double()
    share = -(-BATCH // world_size)
    rows = [*materials(), *[None] * (share * world_size - BATCH)][rank * share : (rank + 1) * share]
    batch = make_batch(rows, model.modalities)
    state = train(settings, model, [batch] * STEPS, total_steps=STEPS + 1, rank=rank, world_size=world_size)
    assert state.samples == BATCH * STEPS
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def save_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """For the test to compare."""
    from safetensors.torch import save_file

    save_file(weights, path)


def prepare() -> None:
    """What every rank needs, before they part."""
    import torch_geometric.utils  # noqa: F401 (seconds, which a graph network would spend in every rank)

    materials()


def main(rank: int, world_size: int, folder: Path) -> None:
    """Train, and save what rank 0 has."""
    meeting = f"file://{folder}/rendezvous-{world_size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    found = run(rank, world_size)
    if rank == 0:
        save_weights(folder / f"of-{world_size}.safetensors", found)
    dist.destroy_process_group()
