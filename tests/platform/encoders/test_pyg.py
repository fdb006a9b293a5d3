"""PyTorch Geometric's networks as encoders of crystals, and networks of a user's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import crystalign
from crystalign.batch import make_batch
from crystalign.crystal import Crystal
from crystalign.encoders import ENCODERS, encoder_settings, make_encoder
from crystalign.encoders.pyg import MODELS
from crystalign.encoders.trusted_code import VARIABLE, trust
from crystalign.errors import ConfigError, ModelError
from crystalign.modalities import make_modality
from crystalign.model import Model, ModelConfig
from crystalign.training.config import PretrainConfig
from crystalign.training.loop import train

SMALL = {"hidden": 16, "layers": 2, "gaussians": 20, "width": 32}
XRD = {
    "encoder": "xrd-resnet",
    "options": {"channels": (8, 16), "positions": 16, "reduced": 16, "hidden": 64, "width": 64},
    "features": {"n_points": 512},
}
OWN = """
import torch
from torch import nn
from torch_geometric.nn import global_mean_pool

class Net(nn.Module):
    def __init__(self, width=8, wrong=0, norm=False, twice=False):
        super().__init__()
        self.width, self.wrong = width, wrong
        self.elements = nn.Embedding(119, width)
        self.norm = nn.BatchNorm1d(width) if norm else None
        self.again = self.elements if twice else None

    def forward(self, batch):
        near = torch.zeros(len(batch.z)).index_add(0, batch.edge_index[1], (-batch.edge_weight).exp())
        vectors = global_mean_pool(self.elements(batch.z) * near[:, None], batch.batch, batch.num_graphs)
        return vectors[:, self.wrong:]

class Nameless(nn.Module):
    pass

number = 3
"""


def graph(*crystals, **settings):
    modality = make_modality("crystal", ENCODERS["pyg"].features | {"dtype": "float64"} | settings)
    return modality.collate([modality.featurise(crystal) for crystal in crystals])


def encoder(model, **options):
    torch.manual_seed(0)
    return make_encoder("pyg", SMALL | {"model": model} | options).double().eval()


@pytest.fixture
def molecule():
    """Five atoms in a cell so large that no image is within reach."""
    frac = np.array([[0.0, 0, 0], [0.05, 0, 0], [0, 0.055, 0.01], [0.01, 0.02, 0.06], [0.04, 0.05, 0.06]])
    return Crystal(30.0 * np.eye(3), frac, np.array([6, 8, 1, 7, 1]))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of a user's own, on the path, not trusted."""
    (tmp_path / "users_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    yield "users_networks:Net"
    sys.modules.pop("users_networks", None)


def test_schnet_is_the_network_of_pytorch_geometric(known, molecule):
    from torch_geometric.nn import SchNet

    ours, inputs = encoder("schnet"), graph(known, molecule)
    edges = (inputs["edge_index"], inputs["edge_length"])
    published = SchNet(16, 16, 2, 20, 5.0, interaction_graph=lambda pos, batch: edges, readout="mean").double()
    published.embedding, published.lin2 = nn.Embedding(119, 16, padding_idx=0).double(), ours.head
    loaded = published.load_state_dict(ours.network.network.state_dict(), strict=False)
    assert loaded.unexpected_keys == []
    assert all(name.startswith("lin2.") or ".mlp." in name for name in loaded.missing_keys)  # mlp is conv.nn
    with torch.no_grad():
        expected = published(inputs["x"], torch.zeros(len(inputs["x"]), 3).double(), inputs["batch"])
        torch.testing.assert_close(ours(inputs), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("degree", [1, 2])
def test_visnet_is_the_network_of_pytorch_geometric_on_a_molecule(degree, molecule, monkeypatch):
    from torch_geometric.nn.models.visnet import ViSNetBlock

    ours, inputs = encoder("visnet", degree=degree), graph(molecule)
    published = ViSNetBlock(degree, None, False, 4, 2, 16, 20, False, 119, 5.0).double()
    loaded = published.load_state_dict(ours.network.network.state_dict(), strict=False)
    assert loaded.unexpected_keys == []
    assert all(name.startswith("vis_mp_layers.0.") for name in loaded.missing_keys)
    loops = torch.arange(5).expand(2, -1)
    vectors = torch.cat([inputs["edge_vector"], torch.zeros(5, 3).double()])
    edges = torch.cat([inputs["edge_index"], loops], dim=1), vectors.norm(dim=1), vectors
    monkeypatch.setattr(published.distance, "forward", lambda pos, batch: edges)
    with torch.no_grad():
        expected = published(inputs["x"], torch.zeros(5, 3).double(), inputs["batch"])
        found = ours.network.scalars_and_vectors(inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_edges_to_the_own_images_are_edges(model, textbook, transform):
    """One atom whose only neighbours are its images, and the same crystal with two atoms that surround each other."""
    one, two = textbook["Cu"], transform(textbook["Cu"], [[1, 0, 0], [0, 1, 0], [0, 0, 2]])
    wider = Crystal(1.05 * one.lattice, one.frac_coords, one.atomic_numbers)
    with torch.no_grad():
        first, same, other = encoder(model)(graph(one, two, wider))
    torch.testing.assert_close(first, same, rtol=1e-10, atol=1e-10)
    assert (first - other).abs().max() > 1e-3


def test_directions_tell_a_square_from_a_tetrahedron_in_visnet():
    square = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]).double()
    tetrahedron = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).double() / 3**0.5
    graphs = [
        {
            "x": torch.tensor([29]),
            "edge_index": torch.zeros(2, 4, dtype=torch.int64),
            "edge_length": torch.full((4,), 2.5).double(),
            "edge_vector": 2.5 * directions,
            "batch": torch.tensor([0]),
            "n_atoms": torch.tensor([1]),
        }
        for directions in (square, tetrahedron)
    ]
    differences = {}
    for model, options in {"schnet": {}, "visnet": {"degree": 2}}.items():
        network = encoder(model, **options)
        with torch.no_grad():
            differences[model] = (network(graphs[0]) - network(graphs[1])).abs().max().item()
    assert differences["schnet"] == 0
    assert differences["visnet"] > 1e-4


@pytest.mark.parametrize("model", MODELS)
def test_each_model_trains_and_is_saved_and_loaded(model, synthetic_materials, tmp_path):
    materials = synthetic_materials(32)
    crystal = {"encoder": "pyg", "options": SMALL | {"model": model}}
    torch.manual_seed(0)
    network = Model(ModelConfig(modalities={"crystal": crystal, "xrd": XRD}, embedding_dim=16))
    batch = make_batch(materials, network.modalities)
    records: list[dict[str, float]] = []
    settings = {"data": "none", "out": "none", "model": network.config, "batch_size": 32, "log_every_steps": 1}
    config = PretrainConfig(**settings, optimiser={"lr": 3e-3})
    train(config, network, [batch] * 20, total_steps=20, on_log=records.append)
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]
    network.save_pretrained(tmp_path / "model")
    loaded, crystals = crystalign.load(tmp_path / "model"), [m.crystal for m in materials]
    assert loaded.config.modalities["crystal"].options["model"] == model
    np.testing.assert_array_equal(loaded.embed("crystal", crystals), network.embed("crystal", crystals))


@pytest.mark.parametrize("model", ["dimenet", "DimeNet++", "DimeNetPlusPlus", "gnnff"])
def test_models_that_search_among_positions_are_refused_in_one_line(model):
    with pytest.raises(ConfigError, match=r"torch_sparse.*use one of schnet, visnet, cgconv, transformer") as refused:
        make_encoder("pyg", {"model": model})
    assert "\n" not in str(refused.value)


def test_a_model_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ConfigError, match="no model 'egnn'; there are schnet, visnet, cgconv, transformer"):
        make_encoder("pyg", {"model": "egnn"})


def test_an_option_of_another_model_is_refused():
    with pytest.raises(ConfigError, match="degree is no option of schnet; it has cutoff, gaussians, hidden"):
        encoder_settings("pyg", {"model": "schnet", "degree": 2})
    with pytest.raises(ConfigError, match="3 heads do not divide hidden 64"):
        encoder_settings("pyg", {"model": "transformer", "heads": 3})
    with pytest.raises(ConfigError, match="hidden is no option of my_package:Net; it has arguments, model"):
        encoder_settings("pyg", {"model": "my_package:Net", "hidden": 32})


def test_a_network_of_the_users_own_is_not_imported_unless_it_is_trusted(own):
    with pytest.raises(ConfigError, match=f"importing it would run it.*{VARIABLE}=users_networks"):
        make_encoder("pyg", {"model": own})
    with trust("other_networks", "users"), pytest.raises(ConfigError, match="importing it would run it"):
        make_encoder("pyg", {"model": own})
    assert "users_networks" not in sys.modules


@pytest.mark.parametrize("variable", [True, False])
def test_a_trusted_network_of_the_users_own_is_an_encoder(own, variable, textbook, monkeypatch):
    inputs = graph(*textbook.values(), dtype="float32")
    if variable:
        monkeypatch.setenv(VARIABLE, "other_networks, users_networks")
        made = make_encoder("pyg", {"model": own, "arguments": {"width": 12}})
    else:
        with trust("users_networks"):
            made = make_encoder("pyg", {"model": own, "arguments": {"width": 12}})
    assert made(inputs).shape == (len(textbook), 12)
    assert made.width == 12


def test_a_model_directory_alone_never_imports_foreign_code(own, synthetic_materials, tmp_path):
    crystal = {"encoder": "pyg", "options": {"model": own}}
    with trust("users_networks"):
        model = Model(ModelConfig(modalities={"crystal": crystal, "xrd": XRD}, embedding_dim=16)).eval()
    model.save_pretrained(tmp_path / "model")
    del sys.modules["users_networks"]
    with pytest.raises(ModelError, match=f"importing it would run it.*{VARIABLE}=users_networks"):
        crystalign.load(tmp_path / "model")
    assert "users_networks" not in sys.modules
    crystals = [m.crystal for m in synthetic_materials(3)]
    with trust("users_networks"):
        loaded = crystalign.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.embed("crystal", crystals), model.embed("crystal", crystals))


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("users_networks:Net", {"size": 3}, "cannot be made with arguments.*size"),
        ("users_networks:Net", {"norm": True}, "BatchNorm"),
        ("users_networks:Net", {"twice": True}, "one tensor under two names"),
        ("users_networks:Nameless", {}, "has no `width`"),
        ("users_networks:number", {}, "no class of torch.nn.Module"),
        ("users_networks:Missing", {}, "there is no 'users_networks:Missing'"),
        ("users_networks.inner:Net", {}, "there is no 'users_networks.inner:Net'"),
    ],
)
def test_an_unfit_network_of_the_users_own_is_refused(own, model, arguments, message):
    with trust("users_networks"), pytest.raises(ConfigError, match=message):
        make_encoder("pyg", {"model": model, "arguments": arguments})


def test_vectors_of_another_shape_than_promised_are_refused(own, textbook):
    with trust("users_networks"):
        made = make_encoder("pyg", {"model": own, "arguments": {"wrong": 1}})
    with pytest.raises(ConfigError, match=r"returned \(1, 7\), expected \(1, 8\)"):
        made(graph(textbook["Cu"], dtype="float32"))


def test_a_model_without_pyg_is_loaded_without_importing_it(tmp_path):
    crystal = {"encoder": "gated-graph", "options": {"hidden": 16, "layers": 1, "width": 16}}
    Model(ModelConfig(modalities={"crystal": crystal, "xrd": XRD}, embedding_dim=16)).save_pretrained(tmp_path / "m")
    code = f"""
import sys; sys.path[:0] = {[p for p in sys.path if p]!r}
import crystalign
crystalign.load({str(tmp_path / "m")!r})
print("torch" in sys.modules, "torch_geometric" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
