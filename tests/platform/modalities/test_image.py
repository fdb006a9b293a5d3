from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crystalign.errors import InputError
from crystalign.material import Material, Provenance
from crystalign.modalities.image import ImageModality, Picture

SMALL = ImageModality(ImageModality.Settings(size=16, mean=(0, 0, 0), std=(1, 1, 1)))


def noise(height=16, width=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_a_picture_survives_its_column():
    cell = pa.array([SMALL.to_column(Picture(noise(9, 20)))], SMALL.column_type())[0]
    np.testing.assert_array_equal(SMALL.from_column(cell).pixels, noise(9, 20))


def test_colours_become_channels_and_are_normalised():
    pixels = SMALL.collate([SMALL.featurise(Picture(noise())), SMALL.empty_sample()])["pixels"]
    assert pixels.shape == (2, 3, 16, 16)
    np.testing.assert_allclose(pixels[0].numpy(), noise().transpose(2, 0, 1) / 255, rtol=1e-6)
    assert (pixels[1] == 1.0).all()
    centred = ImageModality(ImageModality.Settings(size=16)).featurise(Picture(noise()))["pixels"]
    np.testing.assert_allclose(centred, noise().transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)


def test_another_size_is_averaged_and_padded_with_white():
    pixels = noise(32, 32)
    halved = SMALL.featurise(Picture(pixels))["pixels"]
    blocks = pixels.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(halved, blocks.transpose(2, 0, 1), rtol=1e-5)
    wide = SMALL.featurise(Picture(np.zeros((8, 16, 3), np.uint8)))["pixels"]
    np.testing.assert_allclose(wide.mean(axis=(0, 2)), [1.0] * 4 + [0.0] * 8 + [1.0] * 4)
    odd = SMALL.featurise(Picture(np.full((37, 37, 3), 51, np.uint8)))["pixels"]
    np.testing.assert_allclose(odd, 0.2, rtol=1e-5)


def test_training_turns_the_picture_and_never_mirrors_it():
    whole = SMALL.featurise(Picture(noise()))["pixels"]
    turned = {SMALL.featurise(Picture(noise()), rng=np.random.default_rng(s))["pixels"].tobytes() for s in range(40)}
    assert turned == {np.rot90(whole, k, axes=(1, 2)).tobytes() for k in range(4)}
    still = ImageModality(ImageModality.Settings(size=16, mean=(0, 0, 0), std=(1, 1, 1), rotate=False))
    assert (still.featurise(Picture(noise()), rng=np.random.default_rng(1))["pixels"] == whole).all()


@pytest.mark.parametrize("wrong", [np.zeros((16, 16)), np.zeros((16, 16, 3)), noise(4, 16), noise(16, 513)])
def test_what_is_no_array_of_colours_is_refused(wrong):
    with pytest.raises(InputError, match=r"pixels|uint8"):
        Picture(wrong)


def test_equal_pictures_are_equivalent(textbook):
    def material(name, seed):
        modalities = {} if seed is None else {"image": Picture(noise(seed=seed))}
        return Material(name, textbook["Cu"], Provenance("test", "CC0-1.0"), modalities)

    keys = [ImageModality.equivalence(material(*m)) for m in (("a", 0), ("b", 0), ("c", 1), ("d", None))]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
