"""One rank of a short training in float64, run as a program: `training_worker.py RANK WORLD_SIZE FOLDER`.

Six samples a step, some without a modality and one modality that no rank has at first: cut into
⌈6/W⌉ rows per rank, the last rank with surplus rows.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import torch
import torch.distributed as dist

BATCH, STEPS = 7, 3


def materials() -> list:
    """Seven materials; the first three lack a text, and only the last has a charge density."""
    path = Path(__file__).parents[1] / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = [module.synthetic_material(13 * i) for i in range(BATCH)]
    lacking = [("charge_density", *(("composition",) if i < 3 else ())) if i < BATCH - 1 else () for i in range(BATCH)]
    return [
        dataclasses.replace(m, modalities={k: v for k, v in m.modalities.items() if k not in names})
        for m, names in zip(made, lacking, strict=True)
    ]


def run(rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """The weights after a few steps of this rank's share."""
    from crystalign.model import Model, ModelConfig
    from crystalign.training.batch import make_batch
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    me, total, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=me, world_size=total)
    found = run(me, total)
    if me == 0:
        save_weights(folder / "several.safetensors", found)
    dist.destroy_process_group()
