"""What the objectives promise besides exactness: bounded memory, the published formulas, plain errors."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from crystalign.errors import ConfigError
from crystalign.objectives import chunks
from crystalign.objectives.barlow import _chunk_loss, _coefficients, barlow_twins_loss
from crystalign.objectives.clip import contrastive_loss, scaled_cross_entropy
from crystalign.objectives.cosface import cosface_loss
from crystalign.objectives.gather import Gathered
from crystalign.objectives.pairwise import pairwise_loss
from crystalign.objectives.siglip import sigmoid_loss
from crystalign.objectives.tensorclip import tensor_loss

PAIR = ("crystal", "dos")
THREE = ("crystal", "dos", "text")


def batch(n: int, names=THREE, *, dim: int = 8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    z = {m: F.normalize(torch.randn(n, dim, generator=generator, dtype=torch.float64), dim=1).to(dtype) for m in names}
    for tensor in z.values():
        tensor.requires_grad_()
    present = {m: torch.ones(n, dtype=torch.bool) for m in names}
    return z, present, {m: torch.arange(n) for m in names}


def scale(value: float = 5.0) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


LOSSES = {
    "clip": lambda b: contrastive_loss(*b, {PAIR: scale()}, [PAIR]),
    "siglip": lambda b: sigmoid_loss(*b, {PAIR: scale()}, {PAIR: scale(-2.0)}, [PAIR]),
    "cosface": lambda b: cosface_loss(*b, [PAIR]),
    "tensorclip": lambda b: tensor_loss(*b, scale()),
    "barlow": lambda b: barlow_twins_loss(*b),
}


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made inside it held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage) -> None:
        address = storage.data_ptr()
        if not storage.nbytes() or address in self.known:
            return
        self.known.add(address)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._freed, address, storage.nbytes())

    def _freed(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.now -= size


def most_bytes(n: int, local: int) -> int:
    """Of the loss and the gradients of `local` rows against n."""
    z, present, keys = batch(n, PAIR)
    everyone = Gathered(z, present, keys, rank=0, world_size=n // local)
    with LiveBytes() as live:
        pairwise_loss(everyone, [PAIR], scaled_cross_entropy, {PAIR: (scale(),)}).total.backward()
    return live.most


def test_memory_does_not_grow_with_the_rows_of_a_rank(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 2**13)
    monkeypatch.setattr(chunks, "LEAST", 1)
    few, many = most_bytes(1024, 16), most_bytes(1024, 1024)
    assert many < few + 6 * 1024 * 8 * 8, "the anchors themselves, and their gradient"
    assert many < 0.15 * 1024 * 1024 * 8, "far less than one matrix of logits"
    monkeypatch.setattr(chunks, "CHUNK", 2**20)
    assert most_bytes(1024, 1024) > 1024 * 1024 * 8, "which this test would have noticed"


@pytest.mark.parametrize("name", LOSSES)
def test_no_tensor_is_larger_than_a_chunk_or_the_embeddings(monkeypatch, name):
    monkeypatch.setattr(chunks, "LEAST", 1)
    n = 48 if name == "tensorclip" else 300
    monkeypatch.setattr(chunks, "CHUNK", 3000)
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            made = function(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                largest = max(largest, made.numel())
            return made

    with Largest():
        LOSSES[name](batch(n)).total.backward()
    assert largest <= max(3000, 8 * n)


@pytest.mark.parametrize("name", LOSSES)
def test_without_gradients_the_value_is_the_same_and_nothing_is_kept(name):
    trained = LOSSES[name](batch(12))
    with torch.no_grad():
        evaluated = LOSSES[name](batch(12))
    assert torch.equal(evaluated.total, trained.total.detach())
    assert trained.total.requires_grad
    assert not evaluated.total.requires_grad
    assert evaluated.pairs.keys() == trained.pairs.keys()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    z, present, keys = batch(5, dim=3)
    keys["text"][1] = keys["text"][4]
    assert torch.autograd.gradcheck(
        lambda *t: LOSSES[name]((dict(zip(z, t, strict=True)), present, keys)).total, [*z.values()]
    )


def test_a_factor_of_the_loss_is_one_of_the_gradient_and_so_is_a_second_backward():
    once, twice = batch(6), batch(6)
    LOSSES["clip"](once).total.backward()
    loss = (3.0 * LOSSES["clip"](twice).total) / 2.0
    loss.backward(retain_graph=True)
    loss.backward()
    for name in PAIR:
        torch.testing.assert_close(twice[0][name].grad, 3.0 * once[0][name].grad)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_left_before_similarities_are_taken(name):
    z, present, keys = batch(10, dtype=torch.bfloat16)
    exact = LOSSES[name](({m: t.detach().float() for m, t in z.items()}, present, keys)).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name]((z, present, keys))
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.total.detach(), exact.detach())
    loss.total.backward()
    assert z["crystal"].grad.dtype == torch.bfloat16


def test_a_row_without_negatives_costs_nothing():
    z, present, keys = batch(6)
    keys["dos"][:] = 1
    for loss in (
        contrastive_loss(z, present, keys, {PAIR: scale()}, [PAIR]),
        cosface_loss(z, present, keys, [PAIR]),
        tensor_loss(z, present, keys, scale()),
    ):
        loss.total.backward()
        assert loss.total.item() == pytest.approx(0.0, abs=1e-12)
        assert all(not tensor.grad.isnan().any() for tensor in z.values())


def test_cosface_without_margin_is_clip_and_a_margin_asks_for_more():
    made = batch(9)
    clip = contrastive_loss(*made, {PAIR: scale(3.0)}, [PAIR]).total
    torch.testing.assert_close(cosface_loss(*made, [PAIR], scale=3.0, margin=0.0).total, clip)
    assert cosface_loss(*made, [PAIR], scale=3.0, margin=0.5).total > clip


def test_tensorclip_is_the_published_sum_up_to_the_factor_that_its_docstring_states():
    n = 7
    z, present, keys = batch(n)
    t = 5.0 * torch.einsum("id,jd,kd->ijk", *z.values())
    eye = torch.eye(n, dtype=torch.float64)
    agree = eye[:, :, None] + eye[:, None, :] + eye[None, :, :]
    weight = (agree == 1) * 0.5 + (agree == 3) * 1.0
    published = torch.zeros((), dtype=torch.float64)
    for axis in range(3):
        logits, m = t.movedim(axis, 0).flatten(1), weight.movedim(axis, 0).flatten(1)
        negatives = (logits.exp() * (m == 0)).sum(1, keepdim=True)
        published = published + (m * (negatives.log() - logits)).sum(1).mean()
    torch.testing.assert_close(tensor_loss(z, present, keys, scale()).total * 3 * (1 + 3 * (n - 1) / 2), published)


def test_barlow_in_single_precision_keeps_the_digits_that_training_needs():
    names = ("crystal", "dos", "text", "xrd")
    exact, single = batch(200, names, dim=64), batch(200, names, dim=64, dtype=torch.float32)
    for made in (exact, single):
        barlow_twins_loss(*made).total.backward()
    for name in names:
        expected = exact[0][name].grad
        assert (single[0][name].grad - expected).norm() < 1e-4 * expected.norm()


def test_barlow_of_copies_of_independent_signs_has_no_error_on_the_diagonal():
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    z = {name: F.normalize(signs, dim=1) for name in PAIR}
    present = {name: torch.ones(4, dtype=torch.bool) for name in PAIR}
    loss = barlow_twins_loss(z, present, {name: torch.zeros(4, dtype=torch.int64) for name in PAIR})
    assert loss.total.item() == pytest.approx(0.0, abs=1e-8)


def test_the_moments_that_agree_nowhere_are_found_without_forming_them():
    x = [torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    moments = torch.einsum("ij,ik,il->jkl", *x) / 6
    eye = torch.eye(4, dtype=torch.float64)
    none = (eye[:, :, None] + eye[:, None, :] + eye[None, :, :]) == 0
    blocks = {
        b: torch.stack([x[m] for m in b]).prod(dim=0) for b in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
    }
    with_them, without = (_chunk_loss(3, weight, 0, 6, blocks) for weight in (1.0, 0.0))
    torch.testing.assert_close(with_them - without, (moments[none] ** 2).sum())
    assert len(_coefficients(4, 1.0)) == 15, "partitions of four modalities"


def test_an_objective_refuses_a_number_of_modalities_that_it_is_not_of():
    four = batch(4, ("crystal", "dos", "text", "xrd"))
    with pytest.raises(ConfigError, match="three modalities, not 4"):
        tensor_loss(*four, scale())
    with pytest.raises(ConfigError, match="two to four modalities, not 5"):
        barlow_twins_loss(*batch(4, ("crystal", "dos", "text", "xrd", "composition")))


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "barlow"])
def test_rows_that_share_any_key_are_no_negatives_of_each_other(name):
    """A second column of keys excludes what the first does not, and changes nothing where its keys all differ."""
    z, present, keys = batch(6)
    plain = LOSSES[name]((z, present, keys)).total
    unique = torch.arange(6) + 1000
    apart = {m: torch.stack([key, unique], dim=1) for m, key in keys.items()}
    torch.testing.assert_close(LOSSES[name]((z, present, apart)).total, plain)
    copies = unique.clone()
    copies[4] = copies[1]
    together = {m: torch.stack([key, copies], dim=1) for m, key in keys.items()}
    merged = {m: key.clone() for m, key in keys.items()}
    for key in merged.values():
        key[4] = key[1]
    expected = LOSSES[name]((z, present, merged)).total
    torch.testing.assert_close(LOSSES[name]((z, present, together)).total, expected)
    assert not torch.isclose(expected, plain)
