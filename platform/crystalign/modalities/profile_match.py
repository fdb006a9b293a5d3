"""Compare a measured powder pattern with computed ones, allowing for an isotropic strain of the cell.

Computed cells differ from measured ones by one or two per cent in length, so their peaks are shifted. On a grid with
even steps in ln Q an isotropic strain shifts all peaks equally, so cross-correlation compares all strains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.config import Config
from crystalign.errors import SpectrumError
from crystalign.physics.diffraction import (
    REFERENCE_WAVELENGTH,
    PowderPattern,
    draw,
    lorentz_polarisation,
    remove_background,
)

if TYPE_CHECKING:
    from crystalign.modalities.xrd import MeasuredPattern

Array = NDArray[np.float64]
BROAD = 0.04
"""Width in ln Q; features broader than twice this are background."""


class Match(NamedTuple):
    """Similarity of each candidate at its best strain."""

    scores: Array
    """(n,) cosine, 0 to 1."""
    strains: Array
    """(n,) relative change of the candidate's lengths that brings its peaks onto the measured ones."""


class ProfileMatcher(Config):
    """Strain-scanned cosine similarity of powder patterns.

    score = max_s Σ_u m(u) p(u + s) / (‖m‖ ‖p(· + s)‖),  u = ln Q,

    over the measured range of u, for strains s of at most `max_strain`. Both patterns are intensities
    per Q on the reference instrument, passed through the same removal of the background; the computed
    one is drawn with broad peaks, which forgives what a strain cannot.
    """

    q_min: float = 0.7
    """Å⁻¹; lower end of the compared range."""
    q_max: float = 5.6
    """Å⁻¹; upper end of the compared range."""
    step: float = 0.001
    """Step of ln Q, which is also the step of the strain."""
    max_strain: float = 0.03
    """Largest strain, positive or negative."""
    width: float = 0.3
    """Full width at half maximum of the peaks, degrees 2θ at the reference wavelength."""
    power: float = 0.7
    """Exponent of the intensities; below 1, weak peaks count more, and texture less."""

    @property
    def shifts(self) -> int:
        """Number of strain steps in each direction."""
        return round(self.max_strain / self.step)

    @property
    def grid(self) -> Array:
        """(G,) ln Q."""
        return np.arange(np.log(self.q_min), np.log(self.q_max), self.step)

    def profiles(self, patterns: Sequence[PowderPattern]) -> NDArray[np.float32]:
        """(n, G + 2 · shifts) computed profiles, longer than the grid by the largest strain at both ends."""
        margin = self.step * self.shifts
        grid = self.grid
        longer = np.arange(len(grid) + 2 * self.shifts) * self.step + grid[0] - margin
        return np.stack([self._draw(pattern, longer) for pattern in patterns]).astype(np.float32)

    def measured(self, pattern: MeasuredPattern) -> tuple[NDArray[np.float32], slice]:
        """Return the measured profile (G,) and the mask (G,) of the measured part of the grid.

        Raises:
            SpectrumError: the measurement covers too little of the grid.
        """
        grid = self.grid
        edges = np.exp(np.append(grid, grid[-1] + self.step) - 0.5 * self.step)
        raw, covered = pattern.on_grid(edges)
        if covered.stop - covered.start < 10 * self.shifts:
            raise SpectrumError(
                f"the pattern covers too little of {self.q_min} … {self.q_max} Å⁻¹ to be matched",
                reason="range-not-covered",
            )
        profile = np.zeros(len(grid))
        profile[covered] = self._finish(raw[covered])
        return profile.astype(np.float32), covered

    def match(
        self, measured: NDArray[np.float32], covered: slice, candidates: NDArray[np.float32], block: int = 2048
    ) -> Match:
        """Compare one measurement with many candidates.

        Args:
            measured: (G,) as `measured` returns it.
            covered: the measured part of the grid.
            candidates: (n, G + 2 · shifts), as `profiles` returns them.
            block: number of candidates per block.
        """
        m = measured[covered]
        m = m / max(float(np.linalg.norm(m)), 1e-30)
        scores, strains = np.empty((2, len(candidates)))
        offsets = np.arange(-self.shifts, self.shifts + 1)
        for start in range(0, len(candidates), block):
            p = candidates[start : start + block]
            squares = np.concatenate([np.zeros((len(p), 1)), np.cumsum(np.square(p, dtype=np.float64), axis=1)], axis=1)
            best, where = np.zeros(len(p)), np.zeros(len(p))
            for offset in offsets:
                low = covered.start + self.shifts + offset
                norm = np.sqrt(np.maximum(squares[:, low + len(m)] - squares[:, low], 1e-30))
                cosine = (p[:, low : low + len(m)] @ m) / norm
                better = cosine > best
                best[better], where[better] = cosine[better], offset
            scores[start : start + block], strains[start : start + block] = best, where * self.step
        return Match(scores, strains)

    def _draw(self, pattern: PowderPattern, grid: Array) -> Array:
        """Return one computed profile: intensity per Q on a grid of ln Q."""
        q = 2.0 * np.pi / pattern.d_spacings
        seen = (q > 0.9 * np.exp(grid[0])) & (
            q < min(1.1 * np.exp(grid[-1]), 0.95 * 4.0 * np.pi / REFERENCE_WAVELENGTH)
        )
        q, areas = q[seen], pattern.intensities[seen]
        areas = areas * lorentz_polarisation(q, REFERENCE_WAVELENGTH) / q
        cosine = np.sqrt(np.maximum(1.0 - np.square(q * REFERENCE_WAVELENGTH / (4.0 * np.pi)), 0.0))
        widths = self.width * np.radians(1.0) * (2.0 * np.pi / REFERENCE_WAVELENGTH) * cosine / q
        return self._finish(draw(np.log(q), areas, widths, grid))

    def _finish(self, profile: Array) -> Array:
        """Remove the background, scale the maximum to 1, and raise to `power`."""
        rest = remove_background(profile / max(float(profile.max(initial=0.0)), 1e-300), round(BROAD / self.step))
        result: Array = (rest / max(float(rest.max(initial=0.0)), 1e-300)) ** self.power
        return result
