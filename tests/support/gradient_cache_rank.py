"""One rank of the gradients of one step, run as a program: `forked_ranks.py gradient_cache_rank FOLDER WORLD_SIZE`.

In float64 and with dropout: 19 rows in a batch of 23, the last of an epoch, so that the last rank
has surplus rows; the masks are uneven, the first rank has no charge density, nobody has a phonon
density of states, and some rows cannot be told apart.
"""

from __future__ import annotations

import dataclasses
import functools
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from crystalign.batch import Batch, MicroBatches, make_batch
from crystalign.modalities import stable_hash
from crystalign.model import Model, ModelConfig
from crystalign.objectives import Loss
from crystalign.training import gradient_cache
from crystalign.training.config import PretrainConfig
from crystalign.training.loop import Step, train
from synthetic import synthetic_material

BATCH, REAL = 23, 19
CASES = (("clip", 1), ("clip", 2), ("clip", 4), ("siglip", 4), ("cosface", 4), ("tensorclip", 4), ("barlow", 4))
MUTATIONS = ("temperature in every part", "other random numbers", "without W", "every part by itself")
Gradients = dict[str, torch.Tensor]


@functools.cache
def materials() -> tuple[Any, ...]:
    """The rows of the step; the first eight lack a charge density, and all lack a phonon density of states."""
    made = [synthetic_material(13 * i) for i in range(REAL - 2)]
    made += [dataclasses.replace(made[1], id="again"), dataclasses.replace(made[5], id="once more")]
    lacking = [
        {"phonon_dos"}
        | ({"charge_density"} if i < 12 or i % 2 else set())
        | ({"composition"} if i % 3 == 1 else set())
        | ({"dos"} if i % 5 == 2 else set())
        for i in range(REAL)
    ]
    return tuple(
        dataclasses.replace(m, modalities={k: v for k, v in m.modalities.items() if k not in names})
        for m, names in zip(made, lacking, strict=True)
    )


ENCODERS: dict[str, dict[str, Any]] = {
    "crystal": {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1, "width": 16}},
    "composition": {"encoder": "composition-transformer", "options": {"hidden": 8, "layers": 1}},
    "dos": {"encoder": "dos-transformer", "options": {"hidden": 8, "layers": 1, "patch": 100, "dropout": 0.2}},
    "charge_density": {"encoder": "conv3d", "options": {"channels": (2, 4), "width": 8}},
    "phonon_dos": {"encoder": "phonon-dos-transformer", "options": {"hidden": 8, "layers": 1}},
}
PAIRS = (("crystal", "composition"), ("crystal", "dos"), ("dos", "composition"), ("crystal", "charge_density"))


def fresh(kind: str) -> Model:
    """A small model, the same in every process; of three modalities where the objective takes all at once."""
    joint = kind in {"tensorclip", "barlow"}
    config = ModelConfig(
        modalities={name: ENCODERS[name] for name in list(ENCODERS)[: 3 if joint else 5]},
        objective={"kind": kind} if joint else {"kind": kind, "pairs": PAIRS},
        embedding_dim=8,
    )
    torch.manual_seed(1)
    return Model(config).double()


def share(model: Model, rank: int, world_size: int, parts: int) -> Batch | MicroBatches:
    """The rows of a rank, cut as the feed cuts them."""
    rows = -(-BATCH // world_size)
    size = -(-rows // parts)
    real = materials()[REAL * rank // world_size : REAL * (rank + 1) // world_size]
    mine = [*real, *[None] * (rows - len(real))]
    cut = [make_batch(mine[start : start + size], model.modalities) for start in range(0, rows, size)]
    return cut[0] if parts == 1 else MicroBatches(tuple(cut))


@functools.cache
def retained(world_size: int, parts: int, kind: str = "clip") -> tuple[float, Gradients]:
    """One process, one graph over the micro-batches of all ranks, each with its rank's random numbers."""
    model = fresh(kind).train()
    found: list[Gradients] = []
    batches = [share(model, rank, world_size, parts) for rank in range(world_size)]
    for rank, batch in enumerate(batches):
        torch.manual_seed(stable_hash(f"0/0/{rank}"))
        found += [model(part) for part in batch.parts]
    embeddings = {name: torch.cat([part[name] for part in found]) for name in found[0]}
    present = {name: torch.cat([batch.present[name] for batch in batches]) for name in found[0]}
    keys = {name: torch.cat([batch.keys[name] for batch in batches]) for name in found[0]}
    loss = model.loss(embeddings, present, keys).total
    loss.backward()
    return float(loss.detach()), gradients(model)


def trained(rank: int, world_size: int, parts: int, kind: str = "clip") -> tuple[float, Gradients]:
    """The loss and the gradients of one step of the training loop, not clipped."""
    model = fresh(kind)
    batch = share(model, rank, world_size, parts)
    size = max(len(part) for part in batch.parts) if parts > 1 else None
    settings = {"model": model.config, "batch_size": BATCH, "micro_batch_size": size, "log_every_steps": 1}
    config = PretrainConfig(data="none", out="none", optimiser={"clip": 1e9}, **settings)
    records: list[dict[str, float]] = []
    train(config, model, [batch], total_steps=2, rank=rank, world_size=world_size, on_log=records.append)
    return records[0]["loss"] if rank == 0 else 0.0, gradients(model)


def gradients(model: Model) -> Gradients:
    """By name; those of encoders that nothing asks for are zero, or not there."""
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}


def mutated(name: str) -> Any:
    """The loop with a mistake in it."""
    shares, exact = gradient_cache._gradients, Model.loss

    def everywhere(*arguments: Any) -> Any:
        loss, found = shares(*arguments)
        return loss, [share._replace(parameters=found[-1].parameters) for share in found]

    def without_w(model: Model, *arguments: Any) -> Loss:
        loss = exact(model, *arguments)
        return loss._replace(total=loss.total / (dist.get_world_size() if dist.is_initialized() else 1))

    def apart(model: Model, embeddings: list[Gradients], batch: MicroBatches, device: torch.device) -> Any:
        pieces = zip(embeddings, batch.parts, strict=True)
        alone = [shares(model, [z], MicroBatches((part,)), device) for z, part in pieces]
        return alone[-1][0], [found for _, (found,) in alone]

    return {
        "temperature in every part": mock.patch.object(gradient_cache, "_gradients", everywhere),
        "other random numbers": mock.patch.object(gradient_cache.RandomState, "restore", return_value=None),
        "without W": mock.patch.object(Model, "loss", without_w),
        "every part by itself": mock.patch.object(gradient_cache, "_gradients", apart),
        "reduced with every part": mock.patch.object(gradient_cache, "_synchronised", return_value=nullcontext()),
    }[name]


def reductions(rank: int, world_size: int, parts: int) -> int:
    """How many buckets of gradients cross the network in a second step."""
    model = fresh("clip")
    module = DistributedDataParallel(Step(model), find_unused_parameters=True)
    counted: list[int] = []

    def count(state, bucket):  # DDP compares annotations with classes, and those of this file are text
        counted.append(bucket.index())
        return allreduce_hook(state, bucket)

    module.register_comm_hook(None, count)
    batch = share(model, rank, world_size, parts)
    for _ in range(2):
        counted.clear()
        if isinstance(batch, MicroBatches):
            gradient_cache.cached_backward(module, model, batch, device=torch.device("cpu"))
        else:
            module(batch)[0].backward()
    return len(counted)


def restarted(rank: int, world_size: int) -> bool:
    """Whether four steps in float32 are, bit for bit, two steps and two after a restart."""
    whole, first, second = (fresh("clip").float() for _ in range(3))
    batches = [share(whole, rank, world_size, 3)] * 4
    size = max(len(part) for part in batches[0].parts)
    config = PretrainConfig(data="none", out="none", model=whole.config, batch_size=BATCH, micro_batch_size=size)
    ranks = {"rank": rank, "world_size": world_size, "total_steps": 5}
    train(config, whole, batches, **ranks)
    state = train(config, first, batches[:2], **ranks)
    second.load_state_dict(first.state_dict())
    train(config, second, batches[2:], start_step=2, state=state, **ranks)
    return all(torch.equal(second.state_dict()[name], tensor) for name, tensor in whole.state_dict().items())


def run(rank: int, world_size: int, folder: Path) -> None:
    """Everything that needs several ranks, into one file."""
    from safetensors.torch import save_file

    cases = {f"{kind}/{parts}": trained(rank, world_size, parts, kind) for kind, parts in CASES}
    for name in MUTATIONS:
        with mutated(name):
            cases[f"{name}/4"] = trained(rank, world_size, 4)
    tensors = {f"{case}/{name}": grad for case, (_, found) in cases.items() for name, grad in found.items()}
    tensors |= {f"{case}/loss": torch.tensor(loss, dtype=torch.float64) for case, (loss, _) in cases.items()}
    tensors |= {f"reductions/{parts}": torch.tensor(reductions(rank, world_size, parts)) for parts in (1, 4)}
    with mutated("reduced with every part"):
        tensors["reductions/mutated"] = torch.tensor(reductions(rank, world_size, 4))
    tensors["restarted"] = torch.tensor(restarted(rank, world_size))
    save_file(tensors, folder / f"{rank}-of-{world_size}.safetensors")


def prepare() -> None:
    """What every rank needs, before they part."""
    import torch_geometric.utils  # noqa: F401 (seconds, which a graph network would spend in every rank)

    materials()


def main(rank: int, world_size: int, folder: Path) -> None:
    """Every case and every mutation, by each rank."""
    meeting = f"file://{folder}/rendezvous-{world_size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    run(rank, world_size, folder)
    dist.destroy_process_group()
