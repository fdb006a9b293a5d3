"""Shared code of the spectra: one window and grid for all materials, checks and augmentation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crystalign.config import Config
from crystalign.errors import SpectrumError
from crystalign.modalities.modality import Features, Inputs, Modality
from crystalign.physics.spectra import broaden, rebin

Array = NDArray[np.float64]
Value = TypeVar("Value")
MAX_POINTS = 100_000
UNKNOWN = -1.0
"""Value in a batch where a spectrum is unknown; known densities are at least zero."""


class SpectrumModality(Modality[Value]):
    """A density of something per energy; a batch holds `dos` (n, points) float32 on the scale of the settings.

    A subclass defines its value, its column and `curve`.
    """

    encodes_volume: ClassVar[bool] = False
    edges: ClassVar[Array]
    """(B + 1,) the edges of the bins on disk, the same for every material."""
    rungs: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = ((), ())
    """Allowed starts and ends of the shown range, each ascending; empty to always show the whole window."""

    class Settings(Config):
        """Settings of the network's input; each spectrum sets its own defaults."""

        points: int = Field(ge=2, le=4096)
        """Bins of the window."""
        scale: Literal["linear", "sqrt", "log1p"] = "linear"
        """Function applied to the density."""
        max_shift: float = Field(default=0.0, ge=0)
        """Largest random shift in training, in the unit of `edges`."""
        max_width: float = Field(default=0.0, ge=0)
        """Largest random Gaussian broadening in training, in the unit of `edges`."""
        beyond: Literal["zero", "unknown"] = "zero"
        """Network input where a spectrum is unknown: zero, which reveals the ends of the calculation's range, or
        `UNKNOWN` beyond a few common energies (`rungs`)."""
        cut: float = Field(default=0.5, ge=0, le=1)
        """With `unknown`: probability with which training moves each end inwards to a random rung."""

    settings: Any

    @abstractmethod
    def curve(self, value: Value) -> Array:
        """Return the density (B,) on the bins of `edges`, at least zero.

        Raises:
            SpectrumError: the spectrum does not cover the window.
        """

    def covered(self, value: Value) -> tuple[float, float]:  # noqa: ARG002 (subclasses read it)
        """Return the range where the spectrum is known, in the unit of `edges`."""
        return float(self.edges[0]), float(self.edges[-1])

    def known(self, value: Value) -> NDArray[np.bool_]:
        """Mask (B,) of the bins of `curve` within the known range."""
        low, high = self.covered(value)
        in_range: NDArray[np.bool_] = (self.edges[:-1] >= low - 1e-9) & (self.edges[1:] <= high + 1e-9)
        return in_range

    def shown(self, value: Value, rng: np.random.Generator | None = None) -> tuple[float, float]:
        """Return the range given to the network: between two rungs within the known range.

        Rungs keep a distance from the ends of the calculation's range, except at the ends of the window, so that
        broadening and shifting do not reveal where the range ends.
        """
        low, high = self.covered(value)
        margin = self.settings.max_shift + 2.0 * self.settings.max_width
        lows = [r for r in self.rungs[0] if low + margin <= r or low <= r == self.edges[0]]
        highs = [r for r in self.rungs[1] if high - margin >= r or high >= r == self.edges[-1]]
        first, last = (lows or [float(self.edges[0])])[0], (highs or [float(self.edges[-1])])[-1]
        if rng is not None:
            first = rng.choice(lows) if lows and rng.random() < self.settings.cut else first
            last = rng.choice(highs) if highs and rng.random() < self.settings.cut else last
        return float(first), float(last)

    @property
    def grid_edges(self) -> Array:
        """Bin edges (points + 1,) in a batch."""
        return np.linspace(self.edges[0], self.edges[-1], self.settings.points + 1)

    def featurise(self, value: Value, *, rng: np.random.Generator | None = None) -> Features:
        """Return one curve; with `rng`, slightly shifted and broadened, which loses states only over the ends.

        Raises:
            SpectrumError: the spectrum does not cover the window.
        """
        points, curve = self.settings.points, self.curve(value)
        targets = self.edges if points == len(curve) else self.grid_edges
        if rng is not None:
            targets = targets + rng.uniform(-1, 1) * self.settings.max_shift
        curve = rebin(curve, self.edges, targets)
        if rng is not None:
            step = float(self.edges[-1] - self.edges[0]) / points
            curve = broaden(curve, step, rng.uniform(0, 1) * self.settings.max_width)
        if self.settings.scale == "log1p":
            curve = np.log1p(curve)
        elif self.settings.scale == "sqrt":
            curve = np.sqrt(curve)
        if self.settings.beyond == "unknown":
            first, last = self.shown(value, rng)
            centres = 0.5 * (self.grid_edges[1:] + self.grid_edges[:-1])
            curve = np.where((centres < first) | (centres > last), UNKNOWN, curve)
        return {"dos": curve.astype(np.float32)}

    def collate(self, samples: Sequence[Features]) -> Inputs:
        """Stack the curves."""
        import torch

        return {"dos": torch.from_numpy(np.stack([s["dos"] for s in samples]))}

    def empty_sample(self) -> Features:
        """Return a constant spectrum."""
        return {"dos": np.full(self.settings.points, 0.5, np.float32)}


def check_spectrum(positions: Array, densities: Array, *, axis: str, unit: str, channels: int = 1) -> None:
    """Check positions and densities of a spectrum.

    Args:
        positions: (M,), must ascend.
        densities: (S, M), mostly not negative.
        axis: what `positions` are called in messages.
        unit: of `densities`, in messages.
        channels: the largest S.

    Raises:
        SpectrumError: shapes are wrong, a value is NaN, positions do not ascend, or densities are zero or largely
            negative.
    """
    m = len(positions) if positions.ndim == 1 else 0
    fits = densities.ndim == 2 and densities.shape[1] == m and 1 <= len(densities) <= channels
    if not 2 <= m <= MAX_POINTS or not fits:
        either = "(M,)" if channels == 1 else f"(M,) or ({channels}, M)"
        raise SpectrumError(
            f"{axis} {positions.shape} and densities {densities.shape}; expected (M,) and {either} with "
            f"2 <= M <= {MAX_POINTS}",
            reason="bad-shape",
        )
    if not np.isfinite(positions).all() or not np.isfinite(densities).all():
        bad = int((~np.isfinite(densities)).sum() + (~np.isfinite(positions)).sum())
        raise SpectrumError(f"{bad} values of the spectrum are not finite numbers; remove those rows", reason="nan")
    if not (np.diff(positions) > 0).all():
        where = int(np.argmin(np.diff(positions)))
        raise SpectrumError(
            f"{axis} must ascend; rows {where + 1} and {where + 2} are {positions[where]} and {positions[where + 1]}",
            reason="non-monotonic",
        )
    positive, negative = np.maximum(densities, 0).sum(), np.maximum(-densities, 0).sum()
    if positive <= 0 or negative > 0.2 * positive:
        raise SpectrumError(
            f"the density of states is zero or largely negative; give {unit}, every channel as positive numbers",
            reason="negative-dos",
        )
