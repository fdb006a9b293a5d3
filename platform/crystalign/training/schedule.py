"""The optimiser and its schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from crystalign.training.config import OptimiserConfig

UNDECAYED = ("log_scales", "logit_biases", "positions", "summary", "embeddings")


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) with decay on matrices alone.

    Norms, biases, embeddings and temperatures have none: decay would pull them to values that mean something.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = parameter.ndim < 2 or id(parameter) in embeddings or any(part in UNDECAYED for part in name.split("."))
        (free if exempt else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=1e-8)


def learning_rate(config: OptimiserConfig, progress: float) -> float:
    """Linear warm-up, then half a cosine to zero.

    Args:
        config: the top of the schedule and the share of the warm-up.
        progress: share of the run that is done, 0 to 1.
    """
    if progress < config.warmup_fraction:
        return config.lr * progress / config.warmup_fraction
    rest = (min(progress, 1.0) - config.warmup_fraction) / (1.0 - config.warmup_fraction)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * rest))


def optimiser_tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state as named tensors: `<parameter>/exp_avg` and so on."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": torch.as_tensor(value).detach().cpu().clone()
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
    }


def restore_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `optimiser_tensors` took."""
    parameters = dict(model.named_parameters())
    optimiser.state.clear()
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        parameter = parameters[name]
        moved = value.clone() if key == "step" else value.to(parameter.device, parameter.dtype)
        optimiser.state[parameter][key] = moved
