"""Sums of many terms in the memory of one: each term's gradient is taken before the next term is computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 2**20
"""Numbers in a chunk of logits; in float32, 4 MiB for each tensor of that size."""
LEAST = 64
"""Rows in a chunk of a pair, at least. A chunk also passes over the gradient of all candidates: N·D numbers, which
are to be few beside its logits."""

Inputs = Mapping[Any, Tensor]
"""Tensors by whatever names the terms use."""
Term = Callable[[Inputs], Tensor]
"""A scalar of the inputs."""


def chunks(start: int, stop: int, width: int, least: int = 1) -> Iterator[tuple[int, int]]:
    """[start, stop) in parts of at most `CHUNK` numbers, where a row has `width` of them, or of `least` rows."""
    step = max(least, CHUNK // max(1, width))
    for first in range(start, stop, step):
        yield first, min(stop, first + step)


def summed(terms: Sequence[Term], inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Σ terms(inputs), differentiable once, without the graph of more than one term in memory.

    A loss is a scalar, so its gradient can be taken in the forward pass: what each term needs is
    freed before the next one, and nothing is computed twice. What is kept is the gradient, as large
    as the inputs. Every input has a gradient, zero where no term depends on it.

    Args:
        terms: each is called once.
        inputs: all tensors that the terms differentiate.

    Returns:
        The sum, and (T,) the terms' values without gradient.
    """
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs.values()):
        total, values = _Summed.apply(terms, tuple(inputs), *inputs.values())  # type: ignore[no-untyped-call]
        return total, values
    values = _stacked([term(inputs).detach() for term in terms], inputs)
    return values.sum(), values


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, terms: Sequence[Term], names: tuple[Hashable, ...], *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        leaves = {
            name: tensor.detach().requires_grad_(tensor.requires_grad)
            for name, tensor in zip(names, tensors, strict=True)
        }
        values = []
        for term in terms:
            with torch.enable_grad():
                value = term(leaves)
            if value.requires_grad:
                value.backward()  # type: ignore[no-untyped-call]
            values.append(value.detach())
        gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves.values()]
        ctx.save_for_backward(*gradients)
        stacked = _stacked(values, leaves)
        ctx.mark_non_differentiable(stacked)
        return stacked.sum(), stacked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[2:]
        gradients = zip(ctx.saved_tensors, needed, strict=True)
        return None, None, *(gradient * outer if need else None for gradient, need in gradients)


def _stacked(values: Sequence[Tensor], inputs: Inputs) -> Tensor:
    return torch.stack(list(values)) if values else next(iter(inputs.values())).new_zeros(0)
