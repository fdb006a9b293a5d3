"""The optimiser and its learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from crystalign.encoders.encoder import Encoder
from crystalign.training.config import OptimiserConfig

UNDECAYED = ("log_scales", "logit_biases", "positions", "summary", "embeddings")


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) with weight decay on matrices only.

    Norms, biases, embeddings and temperatures have no decay, because zero is not a neutral value for them.
    Parameters that an encoder names in `lr_scales` are in separate groups.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    scales = lr_scales(model)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = parameter.ndim < 2 or id(parameter) in embeddings or any(part in UNDECAYED for part in name.split("."))
        groups.setdefault((scales.get(name, 1.0), not exempt), []).append(parameter)
    described = [
        {"params": parameters, "weight_decay": config.weight_decay if decayed else 0.0, "lr_scale": scale}
        for (scale, decayed), parameters in groups.items()
    ]
    optimiser = torch.optim.AdamW(described, lr=config.lr, betas=config.betas, eps=1e-8)
    set_learning_rate(optimiser, config.lr)
    return optimiser


def lr_scales(model: nn.Module) -> dict[str, float]:
    """Parameter → factor of its learning rate, for parameters whose encoder sets one.

    Published weights are often tuned at a hundredth of the learning rate of the run.
    """
    return {
        f"{path}.{part}.{name}".lstrip("."): scale
        for path, module in model.named_modules()
        if isinstance(module, Encoder)
        for part, scale in module.lr_scales.items()
        for name, _ in module.get_submodule(part).named_parameters()
    }


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of each group: that of the run times the factor of the group."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_scale"]


def learning_rate(config: OptimiserConfig, progress: float) -> float:
    """The learning rate: linear warm-up, then half a cosine to zero, or constant.

    Args:
        config: peak learning rate, fraction of the warm-up, and schedule.
        progress: fraction of the run that is done, 0 to 1.
    """
    if progress < config.warmup_fraction:
        return config.lr * progress / config.warmup_fraction
    if config.schedule == "constant":
        return config.lr
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
    """Restore the state that `optimiser_tensors` returned."""
    parameters = dict(model.named_parameters())
    optimiser.state.clear()
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        parameter = parameters[name]
        moved = value.clone() if key == "step" else value.to(parameter.device, parameter.dtype)
        optimiser.state[parameter][key] = moved
