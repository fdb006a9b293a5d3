"""Which pairs a model aligns, how much each weighs, and what its objective trains besides."""

from __future__ import annotations

import pytest
import torch

from crystalign.errors import ConfigError
from crystalign.model import Model, load
from crystalign.model_config import ModelConfig
from crystalign.objectives.barlow import barlow_twins_loss
from crystalign.objectives.clip import contrastive_loss
from crystalign.objectives.cosface import cosface_loss
from crystalign.objectives.siglip import sigmoid_loss
from crystalign.objectives.tensorclip import tensor_loss

MODALITIES = {
    "crystal": {"encoder": "gated-graph", "options": {"hidden": 8, "layers": 1, "width": 16}},
    "dos": {"encoder": "dos-transformer", "options": {"hidden": 8, "layers": 1, "patch": 40}},
    "xrd": {"encoder": "xrd-resnet", "options": {"channels": (8, 8), "reduced": 4, "hidden": 16, "width": 16}},
    "composition": {"encoder": "composition-transformer", "options": {"hidden": 16, "layers": 1}},
}


def config(*names: str, **fields) -> ModelConfig:
    chosen = {name: MODALITIES[name] for name in names or MODALITIES}
    values = {"modalities": chosen, "embedding_dim": 12, "objective": {"kind": "clip", **fields}}
    return ModelConfig.from_mapping(values, origin="test")


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ((), [("crystal", "dos"), ("crystal", "xrd"), ("crystal", "composition")]),
        ("anchored(crystal)", [("crystal", "dos"), ("crystal", "xrd"), ("crystal", "composition")]),
        ("anchored(xrd)", [("xrd", "crystal"), ("xrd", "dos"), ("xrd", "composition")]),
        (
            "all",
            [
                ("crystal", "dos"),
                ("crystal", "xrd"),
                ("crystal", "composition"),
                ("dos", "xrd"),
                ("dos", "composition"),
                ("xrd", "composition"),
            ],
        ),
        ([["dos", "xrd"], ["xrd", "crystal"]], [("dos", "xrd"), ("xrd", "crystal")]),
    ],
)
def test_pairs_are_anchored_all_or_listed(pairs, expected):
    assert list(config(pairs=pairs).aligned) == expected


def test_any_modality_may_be_the_anchor_and_then_no_crystal_is_needed():
    assert config("dos", "xrd", pairs="anchored(dos)").aligned == (("dos", "xrd"),)
    assert config("dos", "xrd", pairs="all").aligned == (("dos", "xrd"),)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pairs": "anchored(text)"}, r"anchored\(text\) names no modality of this model: crystal"),
        ({"pairs": "anchored"}, "pairs"),
        ({"pair_weights": {"dos-xrd": 2.0}}, "'dos-xrd' is not an aligned pair; there are crystal-dos"),
        ({"pair_weights": {"crystal-dos": 0.0}}, "pair_weights.crystal-dos: .*greater than 0"),
        ({"pair_weights": {"crystal-dos": float("inf")}}, "finite"),
        ({"kind": "tensorclip"}, "exactly three modalities at once, not 4"),
        ({"kind": "barlow", "pairs": "all"}, "objective.pairs: Extra inputs are not permitted"),
        ({"kind": "cosface", "margin": 2.0}, "objective.margin: Input should be less than 2"),
        ({"kind": "cosface", "learn_temperature": False}, "objective.learn_temperature: Extra inputs"),
        ({"kind": "cosfase"}, "no objective 'cosfase'; did you mean 'cosface'"),
    ],
)
def test_a_contradiction_is_refused_by_name(fields, message):
    with pytest.raises(ConfigError, match=message):
        config(**fields)


def drawn(model: Model, n: int = 6):
    torch.manual_seed(1)
    names = model.config.modalities
    z = {name: torch.nn.functional.normalize(torch.randn(n, 12), dim=1) for name in names}
    return z, {name: torch.ones(n, dtype=torch.bool) for name in names}, {name: torch.arange(n) for name in names}


def test_a_model_trains_with_the_objective_its_settings_name():
    weights = {"crystal-xrd": 4.0}
    three = ("crystal", "dos", "xrd")

    def both(**fields):
        model = Model(config(*three, **fields))
        batch = drawn(model)
        return model, batch, model.loss(*batch).total

    w = {("crystal", "xrd"): 4.0}
    m, b, loss = both(pair_weights=weights)
    torch.testing.assert_close(loss, contrastive_loss(*b, m.logit_scales(), m.config.aligned, weights=w).total)
    assert loss != contrastive_loss(*b, m.logit_scales(), m.config.aligned).total
    m, b, loss = both(kind="siglip", pairs="all")
    scales, biases = m.logit_scales(), m.config.objective.biases(m.objective_parameters)
    torch.testing.assert_close(loss, sigmoid_loss(*b, scales, biases, m.config.aligned).total)
    m, b, loss = both(kind="cosface", margin=0.25, pair_weights=weights)
    torch.testing.assert_close(loss, cosface_loss(*b, m.config.aligned, scale=3.0, margin=0.25, weights=w).total)
    m, b, loss = both(kind="tensorclip", initial_temperature=0.2)
    torch.testing.assert_close(loss, tensor_loss(*b, torch.tensor(5.0)).total)
    m, b, loss = both(kind="barlow", off_diagonal=0.5)
    torch.testing.assert_close(loss, barlow_twins_loss(*b, off_diagonal_weight=0.5).total)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("clip", {"log_scales.crystal__dos", "log_scales.crystal__xrd"}),
        (
            "siglip",
            {"log_scales.crystal__dos", "log_scales.crystal__xrd"}
            | {"logit_biases.crystal__dos", "logit_biases.crystal__xrd"},
        ),
        ("cosface", set()),
        ("tensorclip", {"log_scales.crystal__dos__xrd"}),
        ("barlow", set()),
    ],
)
def test_an_objective_has_its_parameters_and_they_travel(kind, names, tmp_path):
    model = Model(config("crystal", "dos", "xrd", kind=kind))
    assert {n for n in model.state_dict() if not n.startswith(("encoders.", "projections."))} == names
    model.save_pretrained(tmp_path)
    assert load(tmp_path).logit_scales().keys() == model.logit_scales().keys()


def test_a_temperature_can_stay_as_it_is():
    model = Model(config("crystal", "dos", initial_temperature=0.25, learn_temperature=False))
    assert not any(scale.requires_grad for scale in model.log_scales.values())
    assert float(model.logit_scales()["crystal", "dos"]) == pytest.approx(4.0)
