"""A picture of a crystal: balls and sticks in the conventional cell, drawn with NumPy.

The picture does not depend on the cell, origin and orientation in which the crystal is given. It shows the
conventional standard cell with its origin on an atom. Of all settings that leave the lattice unchanged, the one
with the largest value of a fixed sum of structure factors is drawn (`crystalign.physics.settings`).
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import MAX_ATOMIC_NUMBER, Crystal
from crystalign.errors import ConfigError
from crystalign.physics.settings import best_setting, proper_rotations, rarest_sites
from crystalign.physics.symmetry import conventional

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]

MIN_SIZE, MAX_SIZE = 16, 512
"""Pixels along one side."""
COLOURS = """
FFFFFF D9FFFF CC80FF C2FF00 FFB5B5 909090 3050F8 FF0D0D 90E050 B3E3F5 AB5CF2 8AFF00 BFA6A6 F0C8A0 FF8000 FFFF30 1FF01F
80D1E3 8F40D4 3DFF00 E6E6E6 BFC2C7 A6A6AB 8A99C7 9C7AC7 E06633 F090A0 50D050 C88033 7D80B0 C28F8F 668F8F BD80E3 FFA100
A62929 5CB8D1 702EB0 00FF00 94FFFF 94E0E0 73C2C9 54B5B5 3B9E9E 248F8F 0A7D8C 006985 C0C0C0 FFD98F A67573 668080 9E63B5
D47A00 940094 429EB0 57178F 00C900 70D4FF FFFFC7 D9FFC7 C7FFC7 A3FFC7 8FFFC7 61FFC7 45FFC7 30FFC7 1FFFC7 00FF9C 00E675
00D452 00BF38 00AB24 4DC2FF 4DA6FF 2194D6 267DAB 266696 175487 D0D0E0 FFD123 B8B8D0 A6544D 575961 9E4FB5 AB5C00 754F45
428296 420066 007D00 70ABFA 00BAFF 00A1FF 008FFF 0080FF 006BFF 545CF2 785CE3 8A4FE3 A136D4 B31FD4 B31FBA B30DA6 BD0D87
C70066 CC0059 D1004F D90045 E00038 E6002E EB0026
"""
"""Jmol's colours of the elements 1 to 109 (red, green, blue); heavier elements have the last colour."""
RADII = """
31 28 128 96 84 76 71 66 57 58 166 141 121 111 107 105 102 106 203 176 170 160 153 139 139 132 126 124 132 122 122 120
119 120 120 116 220 195 190 175 164 154 147 146 142 139 145 144 142 139 139 138 139 140 244 215 207 204 203 201 199 198
198 196 194 192 192 189 190 187 187 175 170 162 151 144 141 136 136 132 145 146 148 140 150 150 260 221 215 206 200 196
190 187 180 169
"""
"""Covalent radii of the elements 1 to 96, pm (Cordero et al., Dalton Trans. 2832 (2008)); heavier elements have the
last radius."""
BALL = 0.55
"""Radius of a ball in units of the covalent radius."""
STICK = 0.12
"""Radius of a stick, Å."""
REACH, BEYOND = 1.15, 1.12
"""Two atoms are joined by a stick if they are closer than `REACH` times the sum of their covalent radii, and closer
than `BEYOND` times the distance of the nearest neighbour of at least one of them."""
AZIMUTH, ELEVATION = math.radians(-63.0), math.radians(17.0)
"""Viewing direction; not a low-index direction, so that atoms do not hide each other."""
LIGHT = (-0.45, 0.55, math.sqrt(1.0 - 0.45**2 - 0.55**2))
"""Unit vector to the light: right, up, towards the eye."""
LINE = 0.35
"""Grey level of the cell edges."""
OVERSAMPLING = 3
"""Points per pixel along each direction; a pixel is their mean."""
MARGIN = 0.05
"""Fraction of the width left empty at each side."""
FADING = 0.45
"""Fraction of white mixed into the parts farthest from the eye."""


class Scene(NamedTuple):
    """Balls, sticks and cell edges in the coordinates of the viewer: right, up, towards the viewer."""

    centres: Array
    """(M, 3) centres of the balls, Å."""
    radii: Array
    """(M,) radii of the balls, Å."""
    colours: Array
    """(M, 3) red, green and blue of the balls, 0 to 1."""
    sticks: NDArray[np.intp]
    """(B, 2) indices of the balls that each stick joins."""
    edges: Array
    """(12, 2, 3) ends of the cell edges, Å."""


def draw_crystal(crystal: Crystal, size: int = 64) -> Pixels:
    """An orthographic picture of the conventional cell on white.

    Atoms on its faces are drawn on both sides. A mixed site has the mean colour and size of its species,
    with vacancies counted as white.

    Args:
        crystal: the structure, in any cell.
        size: pixels along one side.

    Returns:
        (size, size, 3), red, green and blue; row 0 is the top.

    Raises:
        ConfigError: the size is out of range.
        CrystalError: reason `no-symmetry`, if no space group is found.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ConfigError(f"a picture of {size} × {size} pixels; choose {MIN_SIZE} to {MAX_SIZE}")
    return _Canvas(scene(crystal), size).pixels()


def scene(crystal: Crystal) -> Scene:
    """The balls, sticks and edges to draw; they do not depend on the cell in which the crystal is given.

    Raises:
        CrystalError: reason `no-symmetry`, if no space group is found.
    """
    cell = conventional(crystal)
    lattice, frac = _pose(cell)
    colours, radii = _looks(cell)
    shifts = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    images = frac[:, None] + shifts  # (N, 27, 3)
    shown, shift = np.nonzero(((images > -1e-3) & (images < 1 + 1e-3)).all(axis=2))
    camera = lattice @ _eye().T  # (3, 3), rows are the lattice vectors as the eye sees them
    centres, balls = images[shown, shift] @ camera, radii[shown]  # (M, 3), (M,)
    corners = list(itertools.product((0, 1), repeat=3))
    starts = np.array([corner for axis in range(3) for corner in corners if not corner[axis]])  # (12, 3)
    ends = starts + np.repeat(np.eye(3, dtype=int), 4, axis=0)
    order = np.lexsort(_settled(centres).T)
    centres, balls, colours = centres[order], balls[order], colours[shown][order]
    edges = np.stack([starts, ends], axis=1) @ camera
    return Scene(_settled(centres), BALL * balls, colours, _sticks(centres, balls), _settled(edges))


def _settled(positions: Array) -> Array:
    """Positions rounded to 10⁻⁴ Å, so that numerical noise in the input changes no pixel.

    The offset keeps common coordinates away from the boundaries of the rounding intervals.
    """
    return (np.floor(positions * 1e4 + 0.31831) + 0.5) / 1e4


def _eye() -> Array:
    """(3, 3), rows are the directions right, up and towards the viewer."""
    ca, sa, ce, se = math.cos(AZIMUTH), math.sin(AZIMUTH), math.cos(ELEVATION), math.sin(ELEVATION)
    return np.array([[-sa, ca, 0.0], [-se * ca, -se * sa, ce], [ce * ca, ce * sa, se]])


# --- one description of each crystal ---------------------------------------------------------------------------------


def _pose(cell: Crystal) -> tuple[Array, Array]:
    """The lattice with a along x and b in the plane of x and y, and fractional coordinates in the chosen setting."""
    kinds = _kinds(cell)
    origins = cell.frac_coords[rarest_sites(kinds)]  # (T, 3)

    def structure_factors(waves: NDArray[np.int64]) -> NDArray[np.complex128]:
        factors: NDArray[np.complex128] = np.exp(-2j * np.pi * (waves @ cell.frac_coords.T)) @ kinds
        return factors

    turn, origin = best_setting(proper_rotations(cell.lattice), origins, structure_factors)
    frac: Array = (cell.frac_coords - origin) @ np.rint(np.linalg.inv(turn))
    rows = np.linalg.cholesky(cell.lattice @ cell.lattice.T).astype(np.float64)
    return rows, frac - np.floor(frac + 1e-3)


def _kinds(cell: Crystal) -> Array:
    """(N,) a number per site, equal for sites of equal occupancy."""
    if cell.occupancies is None:
        return cell.atomic_numbers.astype(np.float64)
    return np.array([round(sum(z * x + 1e-3 * z * z * x for z, x in site), 6) for site in cell.occupancies])


def _looks(cell: Crystal) -> tuple[Array, Array]:
    """(N, 3) colours and (N,) covalent radii in Å of the sites."""
    colours, radii = element_colours(), covalent_radii()
    if cell.occupancies is None:
        return colours[cell.atomic_numbers], radii[cell.atomic_numbers]
    share = np.zeros((len(cell), len(radii)))
    for row, site in enumerate(cell.occupancies):
        for z, x in site:
            share[row, z] += x
    filled = share.sum(axis=1)
    return share @ colours + (1.0 - filled)[:, None].clip(min=0), share @ radii / filled


@functools.cache
def element_colours() -> Array:
    """(119, 3) red, green and blue, 0 to 1, by atomic number; row 0, no element, is white."""
    rows = [[int(word[i : i + 2], 16) / 255 for i in (0, 2, 4)] for word in COLOURS.split()]
    return np.array([[1.0] * 3, *rows, *[rows[-1]] * (MAX_ATOMIC_NUMBER - len(rows))])


@functools.cache
def covalent_radii() -> Array:
    """(119,) Å by atomic number; row 0, no element, is zero."""
    radii = [int(word) / 100 for word in RADII.split()]
    return np.array([0.0, *radii, *[radii[-1]] * (MAX_ATOMIC_NUMBER - len(radii))])


def _sticks(centres: Array, radii: Array) -> NDArray[np.intp]:
    """(B, 2) pairs of atoms that are joined."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(centres).query_pairs(2.0 * REACH * radii.max(), output_type="ndarray").astype(np.intp)
    pairs = pairs[np.lexsort(pairs.T[::-1])]
    first, second = pairs.T
    length = np.linalg.norm(centres[first] - centres[second], axis=1)
    nearest = np.full(len(centres), np.inf)
    np.minimum.at(nearest, first, length)
    np.minimum.at(nearest, second, length)
    joined = length < REACH * (radii[first] + radii[second])
    joined &= length < BEYOND * np.maximum(nearest[first], nearest[second])
    sticks: NDArray[np.intp] = pairs[joined]
    return sticks


# --- the drawing -----------------------------------------------------------------------------------------------------


class _Canvas:
    """Colour and depth (z-buffer) at `OVERSAMPLING` points per pixel; nearer objects hide those behind them."""

    def __init__(self, scene: Scene, size: int) -> None:
        self.size = size
        points = size * OVERSAMPLING
        balls = np.concatenate([scene.centres - scene.radii[:, None], scene.centres + scene.radii[:, None]])
        everything = np.concatenate([balls, scene.edges.reshape(-1, 3)])
        low, high = everything.min(axis=0), everything.max(axis=0)
        self.scale = points * (1.0 - 2.0 * MARGIN) / (high - low)[:2].max()  # points per Å
        self.middle, self.near, self.far = (low + high) / 2.0, high[2], low[2]
        self.colour = np.ones((points, points, 3))
        self.depth = np.full((points, points), -np.inf)
        centres = self._place(scene.centres)
        radii = np.maximum(scene.radii * self.scale, 0.7 * OVERSAMPLING)  # visible, however large the cell
        for first, second in scene.sticks:
            middle = (centres[first] + centres[second]) / 2.0
            self._stick(centres[first], middle, scene.colours[first])
            self._stick(centres[second], middle, scene.colours[second])
        for centre, radius, colour in zip(centres, radii, scene.colours, strict=True):
            self._ball(centre, float(radius), colour)
        for start, end in self._place(scene.edges):
            self._line(start, end)

    def pixels(self) -> Pixels:
        """(size, size, 3) the picture: faded with depth, averaged over the points of each pixel, rounded."""
        behind = (self.near - self.depth / self.scale) / (self.near - self.far)
        share = FADING * np.where(np.isfinite(self.depth), behind, 0.0)[..., None]
        faded = self.colour * (1.0 - share) + share
        blocks = faded.reshape(self.size, OVERSAMPLING, self.size, OVERSAMPLING, 3).mean(axis=(1, 3))
        rounded: Pixels = np.floor(255.0 * blocks.clip(0.0, 1.0) + 0.5).astype(np.uint8)
        return rounded[::-1]

    def _place(self, positions: Array) -> Array:
        """From Å to points: x and y from the corner, depth from zero."""
        placed = positions.copy()
        placed[..., :2] -= self.middle[:2]
        placed *= self.scale
        placed[..., :2] += len(self.depth) / 2.0
        return placed

    def _window(self, low: Array, high: Array) -> tuple[tuple[slice, slice], Array, Array]:
        """The points between two corners, and their x (1, W) and y (H, 1)."""
        x0, y0 = np.maximum(np.floor(low[:2]).astype(int), 0)
        x1, y1 = np.minimum(np.ceil(high[:2]).astype(int) + 1, len(self.depth))
        return (slice(y0, y1), slice(x0, x1)), np.arange(x0, x1)[None] + 0.5, np.arange(y0, y1)[:, None] + 0.5

    def _paint(
        self, window: tuple[slice, slice], height: Array, normal: tuple[Array, Array, Array], ink: Array
    ) -> None:
        """Draw a lit surface where it is nearer than what is already drawn; `height` is −∞ outside of it."""
        seen = height > self.depth[window]
        lit = normal[0] * LIGHT[0] + normal[1] * LIGHT[1] + normal[2] * LIGHT[2]
        light = 0.45 + 0.6 * lit.clip(min=0.0)
        light = np.where(normal[2] < 0.3, 0.6 * light, light)  # an outline
        self.colour[window][seen] = (light[..., None] * ink)[seen]
        self.depth[window][seen] = height[seen]

    def _ball(self, centre: Array, radius: float, ink: Array) -> None:
        window, x, y = self._window(centre - radius, centre + radius)
        dx, dy = np.broadcast_arrays((x - centre[0]) / radius, (y - centre[1]) / radius)
        inside = 1.0 - dx * dx - dy * dy
        dz = np.sqrt(inside.clip(min=0.0))
        self._paint(window, np.where(inside > 0, centre[2] + radius * dz, -np.inf), (dx, dy, dz), ink)

    def _stick(self, start: Array, end: Array, ink: Array) -> None:
        radius = max(STICK * self.scale, 0.4 * OVERSAMPLING)
        window, x, y = self._window(np.minimum(start, end) - radius, np.maximum(start, end) + radius)
        along = end - start
        share = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / max(along[0] ** 2 + along[1] ** 2, 1e-9)
        share = share.clip(0.0, 1.0)
        dx, dy = (x - start[0] - share * along[0]) / radius, (y - start[1] - share * along[1]) / radius
        inside = 1.0 - dx * dx - dy * dy
        dz = np.sqrt(inside.clip(min=0.0))
        height = np.where(inside > 0, start[2] + share * along[2] + radius * dz, -np.inf)
        self._paint(window, height, (dx, dy, dz), ink)

    def _line(self, start: Array, end: Array) -> None:
        """An edge of the cell, one pixel wide."""
        path = start + np.linspace(0.0, 1.0, 2 * len(self.depth))[:, None] * (end - start)  # (P, 3)
        wide = np.array(list(itertools.product(range(OVERSAMPLING), repeat=2))) - OVERSAMPLING // 2  # (W, 2)
        spots = (np.floor(path[:, None, :2]).astype(int) + wide).reshape(-1, 2)  # (P W, 2)
        inside = ((spots >= 0) & (spots < len(self.depth))).all(axis=1)
        column, row = spots[inside].T
        height = np.repeat(path[:, 2], len(wide))[inside]
        seen = height > self.depth[row, column]
        self.colour[row[seen], column[seen]] = LINE
        self.depth[row[seen], column[seen]] = height[seen]
