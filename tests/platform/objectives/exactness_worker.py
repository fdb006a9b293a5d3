"""One rank of the exactness test, run as a program: `exactness_worker.py RANK WORLD_SIZE FOLDER`.

The problem has uneven masks, surplus rows, a modality that the first half of the ranks lack, a pair
that nobody has, and rows that other rows cannot be told apart from.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import nn

SAMPLES = 24
MODALITIES = ("crystal", "dos", "charge_density", "text", "xrd")
PAIRS = (("crystal", "dos"), ("crystal", "charge_density"), ("crystal", "text"), ("dos", "text"), ("crystal", "xrd"))

GATHER, CLIP = "crystalign.objectives.gather", "crystalign.objectives.clip"
MUTATIONS = {
    "without the factor W": [(CLIP, "total * everyone.world_size /", "total /")],
    "divided by the local count": [
        (CLIP, "total * everyone.world_size / len(rows.candidates)", "total / max(1, len(rows.targets))")
    ],
    "gathered without gradient": [
        (
            GATHER,
            "all_gather_single_autograd(local, 0, chosen)",
            "all_gather_single_autograd(local.detach(), 0, chosen)",
        )
    ],
    "local negatives only": [
        (
            GATHER,
            "candidates = both.nonzero().flatten()",
            "candidates = everyone.offset + both[everyone.offset:][:b].nonzero().flatten()",
        )
    ],
    "mean over the pairs of this rank": [
        (CLIP, "/ len(shares)", "/ max(1, sum(len(r.targets) > 0 for r in pair_rows(everyone, pairs, b)))")
    ],
    "equivalent rows as negatives": [(CLIP, "logits.masked_fill(rows.indistinct, -torch.inf)", "logits")],
    "temperature of one direction detached": [
        (CLIP, "scale * anchors @", "(scale if query == first else scale.detach()) * anchors @")
    ],
}


class Net(nn.Module):
    """Five small encoders and five temperatures, in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 8)) for name in MODALITIES}
        )
        self.scales = nn.ParameterDict(
            {"/".join(pair): nn.Parameter(torch.tensor(1.5 + 0.1 * i)) for i, pair in enumerate(PAIRS)}
        )
        self.biases = nn.ParameterDict({"/".join(pair): nn.Parameter(torch.tensor(-1.0)) for pair in PAIRS})
        self.double()

    def embed(self, x: dict, present: dict) -> dict:
        return {m: F.normalize(self.encoders[m](x[m]), dim=-1) * present[m][:, None] for m in MODALITIES}

    def scale(self) -> dict:
        return {pair: self.scales["/".join(pair)].exp() for pair in PAIRS}

    def bias(self) -> dict:
        return {pair: self.biases["/".join(pair)] for pair in PAIRS}


class Step(nn.Module):
    """What DDP wraps: the loss inside, so that temperatures are in its graph."""

    def __init__(self, objective: str, loss) -> None:
        super().__init__()
        self.net, self.objective, self.loss = Net(), objective, loss

    def forward(self, x: dict, present: dict, keys: dict):
        z = self.net.embed(x, present)
        if self.objective == "siglip":
            return self.loss(z, present, keys, self.net.scale(), self.net.bias(), PAIRS).total
        return self.loss(z, present, keys, self.net.scale(), PAIRS).total


def problem() -> tuple[dict, dict, dict]:
    """Inputs, masks and keys of the global batch."""
    generator = torch.Generator().manual_seed(1)
    share = dict(zip(MODALITIES, (1.0, 0.6, 0.7, 0.8, 0.0), strict=True))
    x = {m: torch.randn(SAMPLES, 6, generator=generator, dtype=torch.float64) for m in MODALITIES}
    present = {m: torch.rand(SAMPLES, generator=generator) < share[m] for m in MODALITIES}
    present["charge_density"][: SAMPLES // 2] = False
    keys = {m: torch.arange(SAMPLES) + 1 for m in MODALITIES}
    keys["text"] = torch.arange(SAMPLES) % 5 + 1  # every fifth row has the same words
    keys["dos"][3] = keys["dos"][20]
    for m in MODALITIES:
        present[m][-2:] = False  # surplus rows
        keys[m][~present[m]] = 0
    return x, present, keys


def mutated(changes: list[tuple[str, str, str]]):
    """`contrastive_loss` with changed source; each change must find what it changes."""
    kept = sys.modules[GATHER]
    made = {}
    try:
        for name in (GATHER, CLIP):
            source = inspect.getsource(importlib.import_module(name) if name == CLIP else kept)
            for where, old, new in changes:
                if where == name:
                    assert old in source, f"nothing to mutate: {old}"
                    source = source.replace(old, new)
            module = types.ModuleType(name)
            exec(compile(source, name, "exec"), module.__dict__)
            made[name] = module
            if name == GATHER:
                sys.modules[GATHER] = module
    finally:
        sys.modules[GATHER] = kept
    return made[CLIP].contrastive_loss


def variants() -> dict:
    """Name → (objective, loss function)."""
    from crystalign.objectives import contrastive_loss, sigmoid_loss

    found = {"clip": ("clip", contrastive_loss), "siglip": ("siglip", sigmoid_loss)}
    return found | {name: ("clip", mutated(changes)) for name, changes in MUTATIONS.items()}


def main(rank: int, world_size: int, folder: Path) -> None:
    """Every variant: its loss, averaged over ranks, and its gradients as DDP leaves them."""
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    x, present, keys = problem()
    mine = slice(rank * SAMPLES // world_size, (rank + 1) * SAMPLES // world_size)
    local = [{m: t[mine] for m, t in tensors.items()} for tensors in (x, present, keys)]
    for name, (objective, loss) in variants().items():
        step = Step(objective, loss)
        wrapped = nn.parallel.DistributedDataParallel(step, find_unused_parameters=True)
        total = wrapped(*local)
        total.backward()
        mean = total.detach().clone()
        dist.all_reduce(mean)
        if rank == 0:
            tensors = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in step.net.named_parameters()}
            save_file(tensors | {"loss": mean[None] / world_size}, folder / f"{name}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
