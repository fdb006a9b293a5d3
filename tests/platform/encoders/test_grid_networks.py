"""What is particular to the networks over spectra and grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crystalign.encoders import encoder_class, encoder_settings, make_encoder
from crystalign.encoders.dos_transformer import sinusoids
from crystalign.encoders.pretrained import WEIGHTS, save_weights
from crystalign.errors import ConfigError
from crystalign.model import ModalitySpec, Model, ModelConfig, prepare
from crystalign.objectives.clip import Clip

SMALL_GRID = {"blocks": (1, 1, 1, 1), "channels": 32, "cardinality": 8}


def small(name, **options):
    torch.manual_seed(0)
    return make_encoder(name, options).eval()


@pytest.mark.parametrize(("padding", "wraps"), [("circular", True), ("zeros", False)])
def test_the_map_of_a_moved_density_is_the_moved_map_if_the_grid_wraps(padding, wraps):
    encoder = small("resnext3d", **SMALL_GRID, padding=padding)
    rho = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        maps = [encoder.stages[0](encoder.begin(r)) for r in (rho, rho.roll((4, 8, 12), (2, 3, 4)))]
    error = (maps[1] - maps[0].roll((1, 2, 3), (2, 3, 4))).abs().max()
    assert (error < 1e-4) == wraps
    assert maps[0].shape == (1, 64, 8, 8, 8)


@pytest.mark.parametrize("name", ["resnext3d", "conv3d"])
def test_equal_voxels_of_sheared_cells_differ_and_of_rotated_ones_do_not(name):
    encoder = small(name, **(SMALL_GRID if name == "resnext3d" else {})).double()
    rho = torch.rand(1, 1, 32, 32, 32, dtype=torch.float64)
    cell = torch.tensor([[[4.0, 0, 0], [0, 4, 0], [0, 0, 5]]], dtype=torch.float64)
    sheared = cell + torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 0, 0]]], dtype=torch.float64)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    with torch.no_grad():
        first, other, same = (encoder({"rho": rho, "lattice": c}) for c in (cell, sheared, cell @ torch.tensor(turn)))
    assert (first - other).abs().max() > 1e-4
    torch.testing.assert_close(first, same, rtol=1e-9, atol=1e-10)


def test_sinusoids_are_those_of_the_paper():
    made = sinusoids(7, 6)
    expected = [[f(t / 10000 ** (2 * i / 6)) for i in range(3) for f in (np.sin, np.cos)] for t in range(7)]
    np.testing.assert_allclose(made, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["dos-transformer", "dos-transformer-multimat", "dos-transformer-matbind"])
def test_where_a_band_lies_matters(name):
    encoder = small(name, bins=40, hidden=32, layers=1, heads=4)
    dos = torch.zeros(2, 40)
    dos[0, 8:16] = dos[1, 24:32] = 1.0
    with torch.no_grad():
        vectors = encoder({"dos": dos})
    assert (vectors[0] - vectors[1]).norm() > 1e-3 * vectors[0].norm()


def test_a_network_that_cannot_know_energies_or_gets_another_grid_is_refused():
    with pytest.raises(ConfigError, match="neither an energy nor a position"):
        make_encoder("dos-transformer", {"positions": "none"})
    with pytest.raises(ConfigError, match="400 points for a network of 601"):
        make_encoder("dos-transformer-multimat")({"dos": torch.zeros(1, 400)})
    with pytest.raises(ConfigError, match="groups"):
        make_encoder("resnext3d", {"cardinality": 7})
    with pytest.raises(ConfigError, match="kernel is odd"):
        make_encoder("matbind-xrd", {"kernel": 8})


def test_what_matbind_did_not_see_does_not_matter():
    encoder = small("matbind-xrd")
    pattern = torch.rand(2, 1024)
    pattern[1, :512] = pattern[0, :512]
    mask = (torch.arange(1024) < 512).float().expand(2, -1)
    with torch.no_grad():
        vectors = encoder({"pattern": pattern, "mask": mask})
    torch.testing.assert_close(vectors[0], vectors[1])


SIZES = {"xrd-resnet": {"channels": (8, 16), "hidden": 16}, "matbind-xrd": {"channels": (8, 16), "blocks": (1, 1)}}


@pytest.mark.parametrize("name", SIZES)
def test_weights_learned_elsewhere_are_read_once_and_enter_a_model(name, tmp_path):
    torch.manual_seed(5)
    learned = make_encoder(name, SIZES[name])
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save_weights(learned))
    options = SIZES[name] | {"pretrained": str(path)}
    config = ModelConfig(
        embedding_dim=8,
        modalities={
            "xrd": ModalitySpec(encoder=name, options=options),
            "composition": ModalitySpec(encoder="composition-transformer", options={"hidden": 16, "layers": 1}),
        },
        objective=Clip(pairs=(("xrd", "composition"),)),
    )
    files = prepare(config, {})
    path.unlink()  # ranks read the prepared file
    model = Model(config, files)
    for key, tensor in learned.state_dict().items():
        assert torch.equal(model.encoders["xrd"].state_dict()[key], tensor)
    saved = model.to_files()
    assert f"xrd/{WEIGHTS}" not in saved  # the model's own weights supersede them
    again = Model.from_files(saved, origin="memory")
    assert torch.equal(next(again.encoders["xrd"].parameters()), next(learned.parameters()))


def test_weights_that_are_missing_or_of_another_network_are_refused(tmp_path):
    cls, path = encoder_class("matbind-xrd"), tmp_path / "weights.safetensors"
    settings = encoder_settings("matbind-xrd", SIZES["matbind-xrd"] | {"pretrained": str(path)})
    with pytest.raises(ConfigError, match="no pre-trained weights"):
        cls.prepare(settings, [])
    with pytest.raises(ConfigError, match="prepare"):
        cls.build(settings, {})
    path.write_bytes(save_weights(make_encoder("matbind-xrd", {"channels": (16, 16), "blocks": (1, 1)})))
    with pytest.raises(ConfigError, match="this network at these settings"):
        cls.build(settings, cls.prepare(settings, []))
    with pytest.raises(ConfigError, match="this network at these settings"):
        cls.build(settings, {WEIGHTS: b"no safetensors"})
