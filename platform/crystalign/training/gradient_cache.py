r"""Gradient caching: the exact gradient of a batch whose graph does not fit into memory.

A contrastive loss couples all rows, an encoder none: with embeddings z(θ) and the loss L(z, τ),

    ∂L/∂θ = Σ_parts ⟨∂L/∂z_part, ∂z_part/∂θ⟩

1. Each micro-batch passes the encoders without a graph; its embeddings are kept.
2. The objective is taken once, of all embeddings, with gradients to them and to its own parameters.
3. Each micro-batch passes the encoders again, with the same random numbers, and takes its share of
   the cached gradients backward.

Memory is that of one micro-batch's graph, and of the features and embeddings of all. GradCache: Gao
et al., RepL4NLP 2021, arXiv:2101.06983.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crystalign.errors import ConfigError
from crystalign.model import Model
from crystalign.objectives import Loss
from crystalign.training.batch import MicroBatches
from crystalign.training.objective import objective

Autocast = Callable[[], AbstractContextManager[None]]
"""A fresh context each: within one, autocast would hand the weights it cast without a graph to the passes with one."""


class CachedGradients(NamedTuple):
    """What the loss asks of some rows' embeddings, and of the parameters it has itself."""

    embeddings: dict[str, Tensor]
    """Modality → (n, D), ∂L/∂z."""
    parameters: dict[str, Tensor]
    """Name → ∂L/∂τ of temperatures, biases and whatever else the objective reads."""

    def surrogate(self, model: Model, embeddings: Mapping[str, Tensor]) -> Loss:
        """Σ ⟨z, ∂L/∂z⟩ + Σ ⟨τ, ∂L/∂τ⟩: a scalar whose gradient is the share of these rows in that of the loss."""
        terms = [(embeddings[name] * gradient).sum() for name, gradient in self.embeddings.items()]
        terms += [(model.get_parameter(name) * gradient).sum() for name, gradient in self.parameters.items()]
        return Loss(torch.stack(terms).sum(), {}, {})


class RandomState:
    """The generators from which dropout draws, at one moment."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._gpu = {device: torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}

    def restore(self) -> None:
        """Draw the same numbers again."""
        torch.set_rng_state(self._cpu)
        for device, state in self._gpu.items():
            torch.cuda.set_rng_state(state, device)


def cached_backward(
    module: nn.Module, model: Model, batch: MicroBatches, *, device: torch.device, autocast: Autocast = nullcontext
) -> Loss:
    """Add to the parameters the gradient of the objective on the whole batch.

    Args:
        module: called with (micro-batch, `CachedGradients`), returns the surrogate and its parts; where it is a
            `DistributedDataParallel`, gradients cross the network once, with the last micro-batch.
        model: inside the module.
        batch: of this rank; micro-batches are moved to the device one at a time.
        device: where to compute.
        autocast: the precision of each pass.

    Returns:
        The objective's value and parts, without gradient.
    """
    states: list[RandomState] = []
    embeddings: list[dict[str, Tensor]] = []
    for part in batch.parts:
        states.append(RandomState(device))
        with torch.no_grad(), autocast():
            embeddings.append(model(part.to(device)))
    with autocast():
        loss, shares = _gradients(model, embeddings, batch, device)
    del embeddings
    last = len(batch.parts) - 1
    for number, (part, state, share) in enumerate(zip(batch.parts, states, shares, strict=True)):
        state.restore()
        with _synchronised(module, now=number == last):
            with autocast():
                surrogate, _ = module(part.to(device), share)
            surrogate.backward()
    return loss


def _gradients(
    model: Model, embeddings: Sequence[Mapping[str, Tensor]], batch: MicroBatches, device: torch.device
) -> tuple[Loss, list[CachedGradients]]:
    """The objective, and each micro-batch's share of its gradients.

    Those of the objective's own parameters are in the last share alone: all shares are added, and
    what the last one uses is what `DistributedDataParallel` reduces.
    """
    leaves = {name: torch.cat([part[name] for part in embeddings]).requires_grad_() for name in embeddings[0]}
    present = {name: mask.to(device) for name, mask in batch.present.items()}
    keys = {name: key.to(device) for name, key in batch.keys.items()}
    loss = objective(model, leaves, present, keys)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad(loss.total, [*leaves.values(), *trained.values()], allow_unused=True)
    by_name = dict(zip([*leaves, *trained], found, strict=True))
    # A modality in no pair has no gradient, but its encoder stays in the graph, as it does without caching.
    rows = {name: torch.zeros_like(z) if (g := by_name[name]) is None else g for name, z in leaves.items()}
    own = {name: gradient for name in trained if (gradient := by_name[name]) is not None}
    edges = [0, *accumulate(len(part) for part in batch.parts)]
    shares = [CachedGradients({name: g[a:b] for name, g in rows.items()}, {}) for a, b in pairwise(edges)]
    shares[-1] = shares[-1]._replace(parameters=own)
    return Loss(loss.total.detach(), loss.pairs, loss.counts), shares


def _synchronised(module: nn.Module, *, now: bool) -> AbstractContextManager[None]:
    """Whether gradients are reduced with this backward pass, or only added up until a later one."""
    if now or not isinstance(module, nn.parallel.DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def refuse_batch_statistics(model: nn.Module) -> None:
    """Gradient caching is exact where a row's embedding depends on that row alone.

    Raises:
        ConfigError: a module that takes statistics over the rows that pass together.
    """
    for name, module in model.named_modules():
        counts = isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 (the family's only common name)
        if module.training and (counts or isinstance(getattr(module, "running_mean", None), Tensor)):
            raise ConfigError(
                f"micro_batch_size cuts the batch over which {name} ({type(module).__name__}) takes its statistics, "
                "so the gradient would be another: leave micro_batch_size out, or choose an encoder without batch "
                "statistics (LayerNorm, GroupNorm)"
            )
