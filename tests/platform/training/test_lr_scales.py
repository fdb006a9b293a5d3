"""Published weights learn more slowly where their encoder asks for it."""

from __future__ import annotations

import torch
from torch import nn

from crystalign.config import Config
from crystalign.encoders.encoder import Encoder
from crystalign.training.config import OptimiserConfig
from crystalign.training.schedule import make_optimiser, set_learning_rate

CONFIG = OptimiserConfig(lr=0.01)


class TwoParts(Encoder):
    def __init__(self, scales):
        super().__init__(Config())
        self.published, self.head = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), nn.Linear(2, 2)
        self.lr_scales = scales

    def forward(self, inputs):
        return self.head(self.published(inputs["x"]))


class Holder(nn.Module):
    def __init__(self, scales):
        super().__init__()
        self.encoders = nn.ModuleDict({"text": TwoParts(scales), "other": TwoParts({})})


def rates(optimiser, model):
    of = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters()}


def test_each_weight_has_the_rate_that_its_encoder_asks_for():
    model = Holder({"published": 0.1})
    optimiser = make_optimiser(model, CONFIG)
    for lr in (CONFIG.lr, 0.002):
        found = rates(optimiser, model)
        slow = {name for name, rate in found.items() if rate == 0.1 * lr}
        assert slow == {name for name in found if name.startswith("encoders.text.published")}
        assert {rate for name, rate in found.items() if name not in slow} == {lr}
        set_learning_rate(optimiser, 0.002)


def test_the_first_step_is_as_long_as_the_rate():
    model = Holder({"published": 0.1})
    optimiser = make_optimiser(model, OptimiserConfig(lr=0.01, weight_decay=0.0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(0)
    sum(e({"x": torch.randn(5, 2)}).square().sum() for e in model.encoders.values()).backward()
    optimiser.step()
    moved = {n: (p.detach() - before[n]).abs().max().item() for n, p in model.named_parameters()}
    assert 0.0008 < moved["encoders.text.published.0.weight"] < 0.0011  # Adam's first step is the rate
    assert 0.008 < moved["encoders.other.published.0.weight"] < 0.011


def test_without_scales_there_are_two_groups_as_ever():
    model = Holder({})
    optimiser = make_optimiser(model, CONFIG)
    found = [(len(group["params"]), group["weight_decay"]) for group in optimiser.param_groups]
    assert found == [(4, CONFIG.weight_decay), (8, 0.0)]
