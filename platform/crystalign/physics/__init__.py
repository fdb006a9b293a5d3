"""Numerics without learning: periodic neighbours, lattice sums, symmetry, diffraction, spectra and voxel grids."""

from crystalign.physics.ewald import lattice_sums
from crystalign.physics.neighbour_list import neighbours

__all__ = ["lattice_sums", "neighbours"]
