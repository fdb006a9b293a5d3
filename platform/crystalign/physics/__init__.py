"""Numerics without learning: periodic neighbours, symmetry, diffraction, spectra and voxel grids."""
