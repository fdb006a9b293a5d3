"""Image of the structure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crystalign.config import Config
from crystalign.errors import InputError
from crystalign.modalities.modality import Features, Inputs, Modality

if TYPE_CHECKING:
    import pyarrow as pa

    from crystalign.material import Material

MIN_SIDE, MAX_SIDE = 8, 512
"""Pixels along one side of a stored picture."""
WHITE = 255


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """RGB image.

    Raises:
        InputError: the array is not (H, W, 3) bytes, or is too small or too large.
    """

    pixels: NDArray[np.uint8]
    """(H, W, 3), row 0 at the top; sides of 8 to 512."""

    def __post_init__(self) -> None:
        """Check shape, type and size."""
        pixels = np.asarray(self.pixels)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            message = f"the picture is {pixels.dtype} with shape {pixels.shape}; it must be uint8 with shape (H, W, 3)"
            raise InputError(message, reason="bad-picture")
        if not (min(pixels.shape[:2]) >= MIN_SIDE and max(pixels.shape[:2]) <= MAX_SIDE):
            message = (
                f"the picture has {pixels.shape[1]} × {pixels.shape[0]} pixels; "
                f"each side must have {MIN_SIDE} to {MAX_SIDE}"
            )
            raise InputError(message, reason="bad-picture")
        object.__setattr__(self, "pixels", pixels)


class ImageModality(Modality[Picture]):
    """A batch holds `pixels` (n, 3, S, S) float32, (colour − mean) / std of each channel."""

    name: ClassVar[str] = "image"
    label: ClassVar[str] = "Image"
    derived_by: ClassVar[str | None] = "crystalign.derivation:image_of"
    stored_since: ClassVar[int] = 3
    seen_since: ClassVar[int] = 2

    class Settings(Config):
        """Settings of the network's input and of the augmentation."""

        size: int = Field(default=64, ge=MIN_SIDE, le=MAX_SIDE)
        """Pixels S along one side."""
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
        """Mean of red, green and blue (0 to 1), which is subtracted."""
        std: tuple[float, float, float] = (0.5, 0.5, 0.5)
        """Standard deviation of red, green and blue, by which they are divided."""
        rotate: bool = True
        """Augment in training by a random rotation of 0, 90, 180 or 270°; no mirroring, which would change
        enantiomorphs."""

    settings: Settings

    @classmethod
    def column_type(cls) -> pa.StructType:
        """Arrow type: pixels as bytes, row by row; the file's compression is lossless."""
        import pyarrow as pa

        return pa.struct([("height", pa.int32()), ("width", pa.int32()), ("rgb", pa.binary())])

    @classmethod
    def to_column(cls, value: Picture) -> Mapping[str, Any]:
        """Store the pixels unchanged."""
        height, width, _ = value.pixels.shape
        return {"height": height, "width": width, "rgb": value.pixels.tobytes()}

    @classmethod
    def from_column(cls, scalar: pa.StructScalar) -> Picture:
        """Read the pixels unchanged."""
        shape = (scalar["height"].as_py(), scalar["width"].as_py(), 3)
        return Picture(np.frombuffer(scalar["rgb"].as_buffer(), np.uint8).reshape(shape))

    def featurise(self, value: Picture, *, rng: np.random.Generator | None = None) -> Features:
        """Pad with white to a square and resample to S × S; with `rng`, rotate."""
        square = _squared(value.pixels)
        if len(square) != self.settings.size:
            weights = _averages(len(square), self.settings.size)
            square = np.einsum("ai,ijc,bj->abc", weights, square, weights, optimize=True)
        if rng is not None and self.settings.rotate:
            square = np.rot90(square, int(rng.integers(4)))
        scaled = (square / WHITE - np.array(self.settings.mean)) / np.array(self.settings.std)
        return {"pixels": np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)}

    def collate(self, samples: Sequence[Features]) -> Inputs:
        """Stack the pictures."""
        import torch

        return {"pixels": torch.from_numpy(np.stack([s["pixels"] for s in samples]))}

    def empty_sample(self) -> Features:
        """Return a white image."""
        return self.featurise(Picture(np.full((MIN_SIDE, MIN_SIDE, 3), WHITE, np.uint8)))

    @classmethod
    def equivalence(cls, material: Material) -> str:
        """Return a hash of the pixels as key, so that duplicates share it."""
        picture: Picture | None = material.value("image")
        if picture is None:
            return material.id
        content = repr(picture.pixels.shape).encode() + picture.pixels.tobytes()
        return hashlib.blake2b(content, digest_size=16).hexdigest()


def _squared(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pad with white so that height and width are equal."""
    height, width, _ = pixels.shape
    side = max(height, width)
    page = np.full((side, side, 3), WHITE, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    page[top : top + height, left : left + width] = pixels
    return page


def _averages(old: int, new: int) -> NDArray[np.float64]:
    """Resampling matrix (new, old): weight of each old pixel in a new one; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    left, right = edges[:-1, None], edges[1:, None]
    pixel = np.arange(old)
    overlap: NDArray[np.float64] = (np.minimum(right, pixel + 1) - np.maximum(left, pixel)).clip(min=0.0)
    return overlap * (new / old)
