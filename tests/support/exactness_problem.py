"""What the exactness suite computes: a network, batches that are hard to average, and every objective on them."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

SAMPLES = 24
MODALITIES = ("crystal", "dos", "charge_density", "text", "xrd")
PAIRS = (("crystal", "dos"), ("crystal", "charge_density"), ("crystal", "text"), ("dos", "text"), ("crystal", "xrd"))
ALL_PAIRS = tuple(combinations(MODALITIES, 2))
WEIGHTS = {("crystal", "dos"): 3.0, ("dos", "text"): 0.25, ("charge_density", "text"): 2.0}
TWO, THREE = ("crystal", "text"), ("crystal", "dos", "text")
FOUR, ABSENT = ("crystal", "dos", "charge_density", "text"), ("crystal", "dos", "xrd")
TRAJECTORY_STEPS = 4


class Net(nn.Module):
    """Five small encoders and a temperature and a bias for everything that is aligned, in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 8)) for name in MODALITIES}
        )
        aligned = ["/".join(names) for names in (*ALL_PAIRS, THREE, ABSENT)]
        self.scales = nn.ParameterDict({n: nn.Parameter(torch.tensor(1.5 + 0.1 * i)) for i, n in enumerate(aligned)})
        self.biases = nn.ParameterDict({n: nn.Parameter(torch.tensor(-1.0)) for n in aligned})
        self.double()

    def embed(self, x: dict, present: dict) -> dict:
        return {m: F.normalize(self.encoders[m](x[m]), dim=-1) * present[m][:, None] for m in MODALITIES}

    def scale(self) -> dict:
        return {tuple(names.split("/")): value.exp() for names, value in self.scales.items()}

    def bias(self) -> dict:
        return {tuple(names.split("/")): value for names, value in self.biases.items()}


def _chosen(batch: tuple, names: tuple) -> list[dict]:
    return [{name: t for name, t in tensors.items() if name.partition("/")[0] in names} for tensors in batch]


OBJECTIVES = {
    "clip": lambda f, net, batch: f.contrastive_loss(*batch, net.scale(), PAIRS),
    "clip of all pairs, weighted": lambda f, net, batch: f.contrastive_loss(
        *batch, net.scale(), ALL_PAIRS, weights=WEIGHTS
    ),
    "clip of fixed temperature": lambda f, net, batch: f.contrastive_loss(
        *batch, {pair: torch.tensor(5.0) for pair in PAIRS}, PAIRS
    ),
    "siglip": lambda f, net, batch: f.sigmoid_loss(*batch, net.scale(), net.bias(), PAIRS, weights=WEIGHTS),
    "cosface": lambda f, net, batch: f.cosface_loss(*batch, PAIRS),
    "cosface, weighted": lambda f, net, batch: f.cosface_loss(*batch, PAIRS, scale=8.0, margin=0.2, weights=WEIGHTS),
    "tensorclip": lambda f, net, batch: f.tensor_loss(*_chosen(batch, THREE), net.scale()[THREE]),
    "tensorclip of what nobody has": lambda f, net, batch: f.tensor_loss(*_chosen(batch, ABSENT), net.scale()[ABSENT]),
    "barlow of two": lambda f, net, batch: f.barlow_twins_loss(*_chosen(batch, TWO)),
    "barlow of three": lambda f, net, batch: f.barlow_twins_loss(*_chosen(batch, THREE)),
    "barlow of four": lambda f, net, batch: f.barlow_twins_loss(*_chosen(batch, FOUR), off_diagonal_weight=0.3),
    "barlow of what nobody has": lambda f, net, batch: f.barlow_twins_loss(*_chosen(batch, ABSENT)),
}
"""Name → (loss functions, network, (embeddings, present, keys)) → Loss; the functions may be the plain formulas."""


def uneven() -> tuple[dict, dict, dict]:
    """Uneven masks, surplus rows, a modality that half of the ranks lack, one that nobody has, equal keys, copies."""
    generator = torch.Generator().manual_seed(1)
    share = dict(zip(MODALITIES, (1.0, 0.6, 0.7, 0.8, 0.0), strict=True))
    x, present, keys = _drawn(generator, share)
    present["charge_density"][: SAMPLES // 2] = False
    keys["text"] = torch.arange(SAMPLES) % 5 + 1  # every fifth row has the same words
    keys["dos"][3] = keys["dos"][20]
    structures = torch.arange(SAMPLES) + 1
    structures[[9, 17]] = int(structures[2])  # copies, in every modality
    for m in MODALITIES:
        present[m][-2:] = False  # surplus rows
        keys[m] = torch.stack([keys[m], structures], dim=1)
        keys[m][~present[m]] = 0
    keys |= _texts(present["text"])
    return x, present, keys


def _texts(present: torch.Tensor) -> dict:
    """Row i has the claims of a text: rows 4 to 7 fit rows 8 to 15, but not the other way round; few others fit."""
    rows = torch.arange(SAMPLES)
    facts = torch.stack([rows % 4, 10 + rows % 3, 100 + rows, 200 + rows // 8], dim=1)
    claims = torch.stack([100 + rows, torch.zeros_like(rows), torch.zeros_like(rows)], dim=1)
    claims[4:8] = torch.tensor([201, 0, 0])
    claims[10] = torch.tensor([2, 11, 0])
    claims[12] = 0  # a text of which nothing is known
    facts[~present], claims[~present] = 0, 0
    return {"text/claims": claims, "text/facts": facts}


def sparse() -> tuple[dict, dict, dict]:
    """Most ranks have nothing of most modalities; some pairs have one row, or rows without a negative."""
    generator = torch.Generator().manual_seed(2)
    x, present, keys = _drawn(generator, dict.fromkeys(MODALITIES, 0.0))
    for name, rows in {
        "crystal": [0, 1, 2, 7, 19, 20, 21, 22],
        "dos": [1, 7, 19, 20, 21],
        "charge_density": [21],
        "text": [1, 19, 20, 21],
        "xrd": [],
    }.items():
        present[name][rows] = True
    keys["text"][:] = 7  # no row is another's negative
    keys["dos"][19] = keys["dos"][1]
    return x, present, keys


def complete() -> tuple[dict, dict, dict]:
    """Every row has everything, and no two rows are alike."""
    return _drawn(torch.Generator().manual_seed(3), dict.fromkeys(MODALITIES, 2.0))


def _drawn(generator: torch.Generator, share: dict) -> tuple[dict, dict, dict]:
    x = {m: torch.randn(SAMPLES, 6, generator=generator, dtype=torch.float64) for m in MODALITIES}
    present = {m: torch.rand(SAMPLES, generator=generator) < share[m] for m in MODALITIES}
    return x, present, {m: torch.arange(SAMPLES) + 1 for m in MODALITIES}


PROBLEMS = {"uneven": uneven, "sparse": sparse, "complete": complete}


def rolled(problem: tuple, step: int) -> tuple:
    """The batch of a step of a trajectory: other rows come to other ranks."""
    return tuple({m: t.roll(5 * step, dims=0) for m, t in tensors.items()} for tensors in problem)


class Step(nn.Module):
    """What DDP wraps: the loss inside, so that temperatures are in its graph."""

    def __init__(self, functions: SimpleNamespace, objective: str) -> None:
        super().__init__()
        self.net, self.functions, self.objective = Net(), functions, objective

    def forward(self, x: dict, present: dict, keys: dict):
        loss = OBJECTIVES[self.objective](self.functions, self.net, (self.net.embed(x, present), present, keys))
        return loss.total, loss.pairs
