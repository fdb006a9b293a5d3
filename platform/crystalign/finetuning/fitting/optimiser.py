"""AdamW for a network with pre-trained encoders and a fresh head."""

from __future__ import annotations

import torch

from crystalign.finetuning.fitting.recipe import Recipe
from crystalign.finetuning.model.property_model import PropertyModel
from crystalign.training.config import OptimiserConfig
from crystalign.training.schedule import make_optimiser, set_learning_rate


def fitting_optimiser(model: PropertyModel, recipe: Recipe, lr: float) -> torch.optim.AdamW:
    """Make AdamW for all parameters that are not frozen, with separate learning rates for the encoders.

    A parameter learns at lr · s, where s is the product of what its encoder asks for (`Encoder.lr_scales`) and, in an
    encoder, `recipe.encoder_lr` · `recipe.layer_decay` to the power of the number of blocks that follow.
    """
    plain = make_optimiser(model, OptimiserConfig(lr=lr, weight_decay=recipe.weight_decay, betas=recipe.betas))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scales = _depth_scales(model, recipe)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for group in plain.param_groups:
        for parameter in group["params"]:
            scale = group["lr_scale"] * scales.get(names[id(parameter)], 1.0)
            groups.setdefault((scale, group["weight_decay"]), []).append(parameter)
    described = [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]
    optimiser = torch.optim.AdamW(described, lr=lr, betas=recipe.betas, eps=1e-8)
    set_learning_rate(optimiser, lr)
    return optimiser


def _depth_scales(model: PropertyModel, recipe: Recipe) -> dict[str, float]:
    """Parameter of an encoder → factor on the heads' learning rate, without the encoder's own `lr_scales`."""
    scales = {f"projections.{name}": recipe.encoder_lr for name, _ in model.projections.named_parameters()}
    for modality, encoder in model.encoders.items():
        blocks = {name: _block(name) for name, _ in encoder.named_parameters()}
        order = list(dict.fromkeys(blocks.values()))
        for name, block in blocks.items():
            after = len(order) - 1 - order.index(block)
            scales[f"encoders.{modality}.{name}"] = recipe.encoder_lr * recipe.layer_decay**after
    return scales


def _block(name: str) -> str:
    """The layer that a parameter belongs to: `direct.convolutions.2.edge.weight` → `direct.convolutions.2`.

    Blocks follow each other as an encoder declares them, which is the order of its forward pass.
    """
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: index + 1])
    return ".".join(parts[:-1][:2] or parts)
