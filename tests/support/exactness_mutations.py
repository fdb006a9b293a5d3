"""Ways to get the objectives wrong, each a change of their source: the suite must notice every one."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

MODULES = ("likeness", "gather", "chunks", "pairwise", "clip", "cosface", "siglip", "tensorclip", "barlow")
FUNCTIONS = {
    "contrastive_loss": "clip",
    "cosface_loss": "cosface",
    "sigmoid_loss": "siglip",
    "tensor_loss": "tensorclip",
    "barlow_twins_loss": "barlow",
}


class Mutation(NamedTuple):
    """One change of the source."""

    objective: str
    """Where it is looked for."""
    module: str
    """Of `crystalign.objectives`."""
    old: str
    """Must be in the module's source."""
    new: str
    """What takes its place."""
    needs_workers: bool = False
    """A single process has nothing to get wrong here."""


PAIR = "share * everyone.world_size / (len(ways) * n)"
MUTATIONS = {
    "clip: without the factor W": Mutation("clip", "pairwise", PAIR, "share / (len(ways) * n)", needs_workers=True),
    "clip: divided by the local count": Mutation(
        "clip",
        "pairwise",
        PAIR,
        "share * 1.0 / (len(ways) * max(1, rows.stop - rows.start))",
        needs_workers=True,
    ),
    "clip: gathered without gradient": Mutation(
        "clip", "gather", "_Gather.apply(joined,", "_Gather.apply(joined.detach(),", needs_workers=True
    ),
    "clip: only the gradient of this rank's own anchors": Mutation(
        "clip",
        "gather",
        "mine.reshape(ctx.world_size, -1, mine.shape[1]).sum(dim=0)",
        "gradient.reshape(ctx.world_size, -1, mine.shape[1])[dist.get_rank()]",
        needs_workers=True,
    ),
    "clip: the gradient averaged over ranks in the gather too": Mutation(
        "clip", "gather", "mine.shape[1]).sum(dim=0)", "mine.shape[1]).mean(dim=0)", needs_workers=True
    ),
    "clip: local negatives only": Mutation(
        "clip",
        "gather",
        ".all(dim=0)",
        ".all(dim=0) & (torch.arange(len(everyone.present[names[0]])) * everyone.world_size"
        " // len(everyone.present[names[0]]) == everyone.rank)",
        needs_workers=True,
    ),
    "clip: the rows of rank 0 on every rank": Mutation(
        "clip", "gather", "[everyone.rank * b, (everyone.rank + 1) * b]", "[0, b]", needs_workers=True
    ),
    "clip: mean over the pairs of this rank": Mutation(
        "clip",
        "pairwise",
        "everyone, pair)).candidates)",
        "everyone, pair)).candidates) and rows.stop > rows.start",
        needs_workers=True,
    ),
    "clip: a row counts that lacks a modality": Mutation("clip", "gather", ".all(dim=0)", ".any(dim=0)"),
    "clip: equivalent rows as negatives": Mutation("clip", "clip", ".masked_fill_(indistinct, -math.inf)", ""),
    "clip: equivalence of the first modality alone": Mutation(
        "clip", "likeness", "in columns[1:]", "in columns[1 : len(columns) // 2]"
    ),
    "clip: copies of a structure as negatives": Mutation("clip", "likeness", "-1).unbind(1)", "-1)[:, :1].unbind(1)"),
    "clip: copies of a structure as negatives, after the gather": Mutation(
        "clip",
        "gather",
        "dict(zip(kinds, everyones[len(names) :], strict=True))",
        "{n: k[:, :1] for n, k in zip(kinds, everyones[len(names) :], strict=True)}",
        needs_workers=True,
    ),
    "clip: keys gathered in the order of each rank": Mutation(
        "clip", "gather", "kinds = sorted(keys)", "kinds = list(keys)", needs_workers=True
    ),
    "clip: crystals that an anchor text fits as negatives": Mutation(
        "clip", "likeness", "if anchor.claims is not None", "if False and anchor.claims is not None"
    ),
    "clip: texts that fit an anchor as negatives": Mutation(
        "clip", "likeness", "if candidate.claims is not None", "if False and candidate.claims is not None"
    ),
    "clip: texts in the other direction": Mutation(
        "clip",
        "pairwise",
        "indistinct(likeness[query], likeness[key], start, stop)",
        "indistinct(likeness[key], likeness[query], start, stop)",
    ),
    "clip: one claim is enough": Mutation("clip", "likeness", "true.T == number", "true.T >= number.clamp(max=1)"),
    "clip: an unknown text fits everything": Mutation("clip", "likeness", " & (number > 0)", ""),
    "siglip: crystals that an anchor text fits as negatives": Mutation(
        "siglip", "likeness", "if candidate.claims is not None", "if False and candidate.claims is not None"
    ),
    "tensorclip: rows that a text fits as negatives": Mutation(
        "tensorclip", "likeness", "if candidate.claims is not None", "if False and candidate.claims is not None"
    ),
    "clip: one direction only": Mutation(
        "clip", "pairwise", "(pair, pair[::-1]) if both_ways", "(pair, pair) if both_ways"
    ),
    "clip: temperature of one direction detached": Mutation(
        "clip",
        "pairwise",
        "*(inputs[i] for i in range(parameters))",
        "*(inputs[i] if way[0] < way[1] else inputs[i].detach() for i in range(parameters))",
    ),
    "clip: the gradient of the first chunk alone": Mutation(
        "clip", "chunks", "if value.requires_grad:", "if value.requires_grad and not values:"
    ),
    "clip: the temperature's gradient once for each pair": Mutation(
        "clip",
        "pairwise",
        "inputs[pair, i] for i in range(parameters)",
        "inputs[pair, i] * 2 - inputs[pair, i].detach() for i in range(parameters)",
    ),
    "clip: the weights of pairs without effect": Mutation(
        "clip of all pairs, weighted", "pairwise", "(weights or {}).get(pair, 1.0)", "1.0"
    ),
    "clip: weights that are not normalised": Mutation(
        "clip of all pairs, weighted", "pairwise", "sum(weight.values())", "len(weight)"
    ),
    "cosface: the margin on every cosine": Mutation(
        "cosface", "cosface", "logits.scatter_add_(1, targets[:, None], own)", "logits + own"
    ),
    "cosface: the margin after the scale": Mutation("cosface", "cosface", "-scale * margin", "-margin"),
    "cosface: without the factor W": Mutation(
        "cosface", "pairwise", PAIR, "share / (len(ways) * n)", needs_workers=True
    ),
    "siglip: the positive among the negatives": Mutation(
        "siglip", "siglip", "indistinct.scatter(1, targets[:, None], value=True)", "indistinct"
    ),
    "siglip: equivalent rows as negatives": Mutation(
        "siglip", "siglip", "excluded = indistinct", "excluded = (indistinct & False)"
    ),
    "siglip: the bias without gradient": Mutation(
        "siglip", "siglip", "candidates.T + bias", "candidates.T + bias.detach()"
    ),
    "siglip: without the factor W": Mutation("siglip", "pairwise", PAIR, "share / (len(ways) * n)", needs_workers=True),
    "tensorclip: without the factor W": Mutation(
        "tensorclip", "tensorclip", "everyone.world_size / (3", "1.0 / (3", needs_workers=True
    ),
    "tensorclip: partial matches as negatives": Mutation(
        "tensorclip", "tensorclip", "        | _alike(likeness[second], likeness[third], 0, len(b))\n", ""
    ),
    "tensorclip: partial matches weigh as much as full ones": Mutation(
        "tensorclip", "tensorclip", "both + 0.5 * half", "both + half"
    ),
    "tensorclip: two axes of three": Mutation(
        "tensorclip", "tensorclip", "(third, first, second))", "(second, first, third))"
    ),
    "tensorclip: equivalent rows as negatives": Mutation(
        "tensorclip",
        "tensorclip",
        "return indistinct(first, second, start, stop)",
        "return (indistinct(first, second, start, stop) & False)",
    ),
    "barlow: without the factor W": Mutation(
        "barlow of three", "barlow", "total * everyone.world_size +", "total +", needs_workers=True
    ),
    "barlow: the constant once for each rank": Mutation(
        "barlow of three",
        "barlow",
        "_constant(len(names)",
        "everyone.world_size * _constant(len(names)",
        needs_workers=True,
    ),
    "barlow: statistics of this rank": Mutation(
        "barlow of three",
        "barlow",
        "return (scaled - scaled.mean(dim=0))",
        "import torch.distributed as dist\n\n    own = scaled[: max(1, len(scaled) // dist.get_world_size())]\n"
        "    return (scaled - own.mean(dim=0))",
        needs_workers=True,
    ),
    "barlow: statistics without gradient": Mutation("barlow of three", "barlow", "scaled.var(", "scaled.detach().var("),
    "barlow: the unbiased variance": Mutation("barlow of three", "barlow", "correction=0", "correction=1"),
    "barlow: indices that agree counted twice": Mutation(
        "barlow of four", "barlow", "value *= (-1) **", "value *= 0 **"
    ),
    "barlow: every target 1": Mutation("barlow of four", "barlow", "(2, 2): 1 / 3", "(2, 2): 1.0"),
    "barlow: λ without effect": Mutation("barlow of four", "barlow", "return weight if all", "return 1.0 if all"),
}
"""Name → what is changed."""


def functions() -> types.SimpleNamespace:
    """The objectives' functions, and where their chunks are sized."""
    modules = {short: importlib.import_module(f"crystalign.objectives.{short}") for short in MODULES}
    losses = {name: getattr(modules[short], name) for name, short in FUNCTIONS.items()}
    return types.SimpleNamespace(**losses, chunks=modules["chunks"])


def mutated(mutation: Mutation) -> types.SimpleNamespace:
    """The objectives' functions of the changed source; the package itself stays as it is."""
    package = importlib.import_module("crystalign.objectives")
    kept = {short: importlib.import_module(f"crystalign.objectives.{short}") for short in MODULES}
    changed: dict[str, Any] = {}

    def installed(modules: dict[str, Any]) -> None:
        for short, module in modules.items():
            sys.modules[f"crystalign.objectives.{short}"] = module
            setattr(package, short, module)

    def with_changes(short: str, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            installed(changed)  # objectives import what they need when they are called
            try:
                return getattr(changed[short], name)(*args, **kwargs)
            finally:
                installed(kept)

        return call

    try:
        for short, module in kept.items():
            source = inspect.getsource(module)
            if short == mutation.module:
                assert source.count(mutation.old) == 1, f"to be found once in {short}: {mutation.old}"
                source = source.replace(mutation.old, mutation.new)
            changed[short] = types.ModuleType(module.__name__)
            exec(compile(source, module.__name__, "exec"), changed[short].__dict__)
            installed({short: changed[short]})
    finally:
        installed(kept)
    losses = {name: with_changes(short, name) for name, short in FUNCTIONS.items()}
    return types.SimpleNamespace(**losses, chunks=changed["chunks"])
