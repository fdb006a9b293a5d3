"""Networks of images: published sizes, published weights, no statistics across samples."""

from __future__ import annotations

import pytest
import torch

from crystalign.encoders import make_encoder
from crystalign.encoders.image_resnet import ImageResNet
from crystalign.encoders.vit import ViT
from crystalign.errors import ConfigError

PIXELS = {"pixels": torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).sin()}


def count(encoder):
    return sum(p.numel() for p in encoder.parameters())


def test_published_sizes_have_their_published_number_of_parameters():
    with torch.device("meta"):
        base = ViT(ViT.Settings(size=224, patch=16, hidden=768, layers=12, heads=12))
        fifty = {"stem": 64, "channels": (256, 512, 1024, 2048), "depths": (3, 4, 6, 3), "block": "bottleneck"}
        counts = count(base), count(ImageResNet(ImageResNet.Settings(**fifty)))
    assert counts == (86_567_656 - 1000 * 769, 25_557_032 - 1000 * 2049)  # both without their classifier


def published_resnet(folder):
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic")
    network = ResNetModel(config).train()
    for _ in range(3):
        network(torch.randn(8, 3, 32, 32) * 2 + 1)  # statistics that are not those of a fresh network
    network.save_pretrained(folder)
    return network.eval()


def published_vit(folder):
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    network = ViTModel(ViTConfig(image_size=32, patch_size=8, **size)).eval()
    network.save_pretrained(folder)
    return network


PUBLISHED = [("resnet", ImageResNet, published_resnet), ("vit", ViT, published_vit)]


@pytest.mark.parametrize(("name", "cls", "publish"), PUBLISHED)
def test_a_published_network_computes_what_it_was_published_for(tmp_path, name, cls, publish):
    states = publish(tmp_path)(PIXELS["pixels"]).last_hidden_state
    expected = states.mean(dim=(2, 3)) if name == "resnet" else states[:, 0]
    options = {"pretrained": str(tmp_path), "frozen": True, "lr_scale": 0.1}
    options |= {"pooling": "cls"} if name == "vit" else {}
    files = cls.prepare(cls.Settings(**options), [])
    encoder = make_encoder(name, options, files).train()
    assert encoder.width == 16
    torch.testing.assert_close(encoder(PIXELS), expected, rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in encoder.parameters())
    restored = cls.restore(encoder.settings, encoder.files())
    restored.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(restored(PIXELS), encoder(PIXELS))


def test_a_network_of_another_kind_is_refused(tmp_path):
    published_resnet(tmp_path)
    with pytest.raises(ConfigError, match="is a 'resnet'"):
        ViT.prepare(ViT.Settings(pretrained=str(tmp_path)), [])
    with pytest.raises(ConfigError, match="no published image encoder"):
        ViT.prepare(ViT.Settings(pretrained=str(tmp_path / "nothing")), [])


def test_settings_that_contradict_are_refused():
    with pytest.raises(ConfigError, match="patch 7"):
        make_encoder("vit", {"patch": 7})
    with pytest.raises(ConfigError, match="one number a stage"):
        make_encoder("resnet", {"depths": (1, 1)})
    with pytest.raises(ConfigError, match="reads 64 pixels, the modality sends 32"):
        make_encoder("vit")(PIXELS)


def test_where_something_is_in_the_image_matters():
    page = torch.ones(3, 3, 64, 64)
    page[0, :, 8:24, 8:24] = -1.0
    page[1, :, 40:56, 24:40] = -1.0
    for name in ("vit", "resnet"):
        torch.manual_seed(0)
        with torch.no_grad():
            first, second, blank = make_encoder(name).eval()({"pixels": page})
        assert (first - blank).norm() > 0.03 * first.norm()
        assert (first - second).norm() > 5e-4 * first.norm()  # little at first: fresh positions are small numbers
