r"""Gradient caching: the exact gradient of a batch whose computation graph does not fit into memory.

The contrastive loss L(z, τ) couples all rows, but each embedding z(θ) depends on its own row only. Hence

    ∂L/∂θ = Σ_parts ⟨∂L/∂z_part, ∂z_part/∂θ⟩

1. Each micro-batch passes the encoders without a graph; its embeddings are kept.
2. The objective is computed once from all embeddings, with gradients with respect to them and to its own parameters.
3. Each micro-batch passes the encoders again with the same random numbers, and its share of the cached
   gradients is propagated backward.

Memory holds the graph of one micro-batch, and the features and embeddings of the whole batch. GradCache: Gao
et al., RepL4NLP 2021, arXiv:2101.06983.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crystalign.batch import MicroBatches
from crystalign.errors import ConfigError
from crystalign.model import Model
from crystalign.objectives import Loss

Autocast = Callable[[], AbstractContextManager[None]]
"""Returns a new context for each pass. A shared one would cache the weights that autocast casts in the passes without
a graph and reuse them in the passes with one, which would lose their gradients."""


class CachedGradients(NamedTuple):
    """Gradients of the loss with respect to the embeddings of some rows and to the objective's own parameters."""

    embeddings: dict[str, Tensor]
    """Modality → (n, D), ∂L/∂z."""
    parameters: dict[str, Tensor]
    """Name → ∂L/∂τ, for temperatures, biases and other parameters of the objective."""

    def surrogate(self, model: Model, embeddings: Mapping[str, Tensor]) -> Loss:
        """Σ ⟨z, ∂L/∂z⟩ + Σ ⟨τ, ∂L/∂τ⟩: a scalar whose gradient is the share of these rows in that of the loss."""
        terms = [(embeddings[name] * gradient).sum() for name, gradient in self.embeddings.items()]
        terms += [(model.get_parameter(name) * gradient).sum() for name, gradient in self.parameters.items()]
        return Loss(torch.stack(terms).sum(), {}, {})


class RandomState:
    """A snapshot of the random number generators used by dropout."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._gpu = {device: torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}

    def restore(self) -> None:
        """Reset the generators, so that the same numbers are drawn again."""
        torch.set_rng_state(self._cpu)
        for device, state in self._gpu.items():
            torch.cuda.set_rng_state(state, device)


def cached_backward(
    module: nn.Module, model: Model, batch: MicroBatches, *, device: torch.device, autocast: Autocast = nullcontext
) -> Loss:
    """Add the gradient of the objective on the whole batch to the gradients of the parameters.

    Args:
        module: called with (micro-batch, `CachedGradients`), returns the surrogate and its parts. With a
            `DistributedDataParallel`, gradients are communicated once, with the last micro-batch.
        model: the model inside the module.
        batch: the batch of this rank; micro-batches are moved to the device one at a time.
        device: device of the computation.
        autocast: precision of each pass.

    Returns:
        The loss and its parts as plain numbers; the gradients are already in the parameters.
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

    The gradients of the objective's own parameters are only in the last share, because the shares are summed and
    `DistributedDataParallel` reduces the parameters used in the last backward pass.
    """
    leaves = {name: torch.cat([part[name] for part in embeddings]).requires_grad_() for name in embeddings[0]}
    present = {name: mask.to(device) for name, mask in batch.present.items()}
    keys = {name: key.to(device) for name, key in batch.keys.items()}
    loss = model.loss(leaves, present, keys)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(loss.total, [*leaves.values(), *trained.values()], allow_unused=True)
    by_name = dict(zip([*leaves, *trained], gradients, strict=True))
    # A modality without a pair has no gradient, but its encoder stays in the graph, as without caching.
    rows = {name: torch.zeros_like(z) if (g := by_name[name]) is None else g for name, z in leaves.items()}
    own = {name: gradient for name in trained if (gradient := by_name[name]) is not None}
    edges = [0, *accumulate(len(part) for part in batch.parts)]
    shares = [CachedGradients({name: g[a:b] for name, g in rows.items()}, {}) for a, b in pairwise(edges)]
    shares[-1] = shares[-1]._replace(parameters=own)
    return Loss(loss.total.detach(), loss.pairs, loss.counts), shares


def _synchronised(module: nn.Module, *, now: bool) -> AbstractContextManager[None]:
    """A context in which gradients are reduced over ranks (`now`) or only accumulated until a later pass."""
    if now or not isinstance(module, nn.parallel.DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def refuse_batch_statistics(model: nn.Module) -> None:
    """Refuse models with batch statistics: gradient caching is exact only if an embedding depends on its row alone.

    Raises:
        ConfigError: a module computes statistics over the rows of a micro-batch.
    """
    for name, module in model.named_modules():
        counts = isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 (the family's only common name)
        if module.training and (counts or isinstance(getattr(module, "running_mean", None), Tensor)):
            raise ConfigError(
                f"micro_batch_size cuts the batch over which {name} ({type(module).__name__}) takes its statistics, "
                "which would change the gradient: leave micro_batch_size out, or choose an encoder without batch "
                "statistics (LayerNorm, GroupNorm)"
            )
