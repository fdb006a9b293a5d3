"""Modalities meet early, late, in both places or by attention, and any may be missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crystalign.errors import ConfigError
from crystalign.finetuning.network.config import JOINT, FusionConfig
from crystalign.finetuning.network.fusion import Fusion, Views, stacking_weights, weighted

WIDTHS = {"crystal": 6, "text": 4, "xrd": 5}


def views(n: int = 8, missing: float = 0.4, seed: int = 0) -> Views:
    generator = torch.Generator().manual_seed(seed)
    present = {name: torch.rand(n, generator=generator) >= missing for name in WIDTHS}
    vectors = {
        name: torch.randn(n, width, generator=generator) * present[name][:, None] for name, width in WIDTHS.items()
    }
    return Views(vectors, present)


def fusion(**changes) -> Fusion:
    torch.manual_seed(0)
    return Fusion(FusionConfig(width=8, heads=2, **changes), WIDTHS)


@pytest.mark.parametrize(
    ("kind", "predictors"),
    [
        ("early", (JOINT,)),
        ("attention", (JOINT,)),
        ("late", ("crystal", "text", "xrd")),
        ("hybrid", ("crystal", "text", "xrd", JOINT)),
    ],
)
def test_every_kind_has_its_predictors(kind, predictors):
    made = fusion(kind=kind).eval()
    found, able = made(views())
    assert tuple(found) == made.predictors == predictors
    assert {name: vector.shape[1] for name, vector in found.items()} == made.widths
    assert able.shape == (8, len(predictors))


@pytest.mark.parametrize("kind", ["early", "late", "hybrid", "attention"])
def test_of_one_modality_all_kinds_are_the_same(kind):
    torch.manual_seed(0)
    made = Fusion(FusionConfig(kind=kind), {"crystal": 6})
    one = Views({"crystal": torch.randn(3, 6)}, {"crystal": torch.ones(3, dtype=torch.bool)})
    found, able = made(one)
    assert torch.allclose(found[JOINT], torch.nn.functional.layer_norm(one.vectors["crystal"], (6,)))
    assert able.all()


@pytest.mark.parametrize("kind", ["early", "attention", "hybrid"])
def test_what_stands_in_a_missing_row_is_not_looked_at(kind):
    made, given = fusion(kind=kind).eval(), views()
    changed = {name: torch.where(given.present[name][:, None], v, v + 9.0) for name, v in given.vectors.items()}
    first, second = made(given), made(Views(changed, given.present))
    for name in {JOINT} & set(first[0]):
        assert torch.equal(first[0][name], second[0][name])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("kind", ["early", "attention"])
def test_every_modality_that_is_there_is_looked_at(kind):
    made, given = fusion(kind=kind).eval(), views(missing=0.0)
    before = made(given)[0][JOINT]
    for name in WIDTHS:
        without = Views(given.vectors, {**given.present, name: torch.zeros(8, dtype=torch.bool)})
        assert not torch.allclose(made(without)[0][JOINT], before, atol=1e-4)


def test_training_hides_some_but_never_all_of_a_material():
    made, given = fusion(kind="early", hide=0.9).train(), views(200, missing=0.5)
    present = torch.stack(list(given.present.values()), dim=1)
    torch.manual_seed(1)
    shown = made._hidden(present)
    assert (shown <= present).all()
    assert shown.sum() == pytest.approx(
        float(present.any(dim=1).sum() + 0.1 * (present.sum(dim=1) - 1).clamp(min=0).sum()), rel=0.1
    )
    assert torch.equal(shown.any(dim=1), present.any(dim=1))
    assert torch.equal(made.eval()._hidden(present), present)
    assert torch.equal(fusion(kind="early", hide=0.0).train()._hidden(present), present)


def test_missing_vectors_are_learnt():
    made, given = fusion(kind="early", hide=0.0).train(), views()
    made(given)[0][JOINT].square().sum().backward()
    assert all(made.joint.missing[name].grad.abs().sum() > 0 for name in WIDTHS)


def test_the_mean_is_over_those_who_know_anything():
    outputs = torch.tensor([[[1.0], [3.0]], [[1.0], [3.0]], [[1.0], [3.0]], [[1.0], [3.0]]])
    able = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    assert weighted(outputs, able, torch.tensor([0.5, 0.5])).ravel().tolist() == [2.0, 1.0, 3.0, 0.0]
    assert weighted(outputs, able, torch.tensor([0.75, 0.25])).ravel().tolist() == [1.5, 1.0, 3.0, 0.0]
    assert weighted(outputs, able, torch.tensor([0.0, 1.0])).ravel().tolist() == [3.0, 1.0, 3.0, 0.0]


def test_stacking_finds_who_is_right():
    rng = np.random.default_rng(0)
    wanted = torch.from_numpy(rng.normal(size=(300, 1)))
    noise = [0.1, 1.0, 5.0]
    outputs = torch.stack([wanted + s * torch.from_numpy(rng.normal(size=(300, 1))) for s in noise], dim=1)
    able = torch.ones(300, 3, dtype=torch.bool)
    weights = stacking_weights(outputs, able, wanted)
    assert float(weights.sum()) == pytest.approx(1.0)
    assert float(weights.min()) >= 0.0
    assert weights[0] > 0.9
    assert weights[1] < 0.1
    stacked = (weighted(outputs, able, weights) - wanted).abs().mean()
    assert stacked < (weighted(outputs, able, torch.full((3,), 1 / 3)) - wanted).abs().mean()


def test_too_few_rows_are_weighed_alike():
    outputs, able = torch.randn(8, 3, 1), torch.ones(8, 3, dtype=torch.bool)
    assert stacking_weights(outputs, able, torch.randn(8, 1)).tolist() == pytest.approx([1 / 3] * 3)
    able[:] = False
    assert stacking_weights(
        torch.randn(90, 3, 1), able.expand(8, 3).repeat(12, 1)[:90], torch.randn(90, 1)
    ).tolist() == (pytest.approx([1 / 3] * 3))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="3 heads do not divide width 8"):
        FusionConfig.from_mapping({"width": 8, "heads": 3}, origin="the test")
