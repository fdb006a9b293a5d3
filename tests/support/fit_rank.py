"""One rank of a fit, run as a program: `forked_ranks.py fit_rank FOLDER WORLD_SIZE`, with FOLDER/trials.json."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist

from crystalign.finetuning.data.features import FeatureStore
from crystalign.finetuning.fitting.fit import fit
from crystalign.finetuning.fitting.ranks import Ranks
from crystalign.finetuning.fitting.recipe import Recipe
from crystalign.finetuning.trials.config import TrialConfig
from crystalign.finetuning.trials.plan import plan
from crystalign.finetuning.trials.trial import build_model, run_trial

MUTATIONS = {
    "counts of one rank": {"summed": lambda self, tensor: tensor},
    "gradients of one rank": {"sum_gradients": lambda self, parameters: None},
    "every rank the first rows": {"share": lambda self, rows: rows[: len(rows) // self.size]},
}
"""Name → methods of `Ranks`, and what they must not be."""
BRIEF = Recipe(max_epochs=2, warmup_epochs=1, batch_size=32)


def fitted(trial: TrialConfig) -> dict[str, torch.Tensor]:
    """The weights after a few epochs in double precision, and what was said of them."""
    planned = plan(trial)
    model = build_model(planned).double()
    found = fit(model, planned.split, FeatureStore(planned.dataset), trial.recipe, lr=trial.lr, seed=trial.seed)
    metrics = torch.tensor([[record[name] for name in ("loss", "grad_norm", "score")] for record in found.history])
    return {**{name: tensor.clone() for name, tensor in model.state_dict().items()}, "history": metrics}


def main(rank: int, world_size: int, folder: Path) -> None:
    """Fit every trial together, save what rank 0 has, and compare the ranks."""
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet-{world_size}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=120),
    )
    given = json.loads((folder / "trials.json").read_text())
    trials = {name: TrialConfig.model_validate(values) for name, values in given.items()}
    for name, trial in trials.items():
        found = fitted(trial)
        for tensor in found.values():
            assert torch.equal(Ranks().joined(tensor.flatten()[None].double(), world_size)[0], tensor.flatten())
        if rank == 0:
            save_file(found, folder / f"{name}-{world_size}.safetensors")
    for name, wrong in MUTATIONS.items():
        with patch.multiple(Ranks, **wrong):
            found = fitted(trials["late"].model_copy(update={"recipe": BRIEF}))
        if rank == 0:
            save_file(found, folder / f"{name}-{world_size}.safetensors")
    torch.set_default_dtype(torch.float32)
    result = run_trial(trials["early"], str(folder / f"run-{world_size}"))
    (folder / f"result-{world_size}-{rank}.json").write_text(result.model_dump_json())
    dist.destroy_process_group()
