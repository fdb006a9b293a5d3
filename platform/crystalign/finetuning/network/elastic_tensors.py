"""Elastic tensors: their notations, the moduli that follow from them, and the frame in which they are published.

C_ijkl has 21 independent components. In **Voigt**'s notation a pair of axes is one index in the order 11, 22, 33, 23,
13, 12, and the components are the upper triangle of the symmetric 6 × 6 matrix row by row: C11, C12, … C16, C22, … C66.
In **Mandel**'s each of the last three rows and columns carries √2: there a rotation of the crystal is an orthogonal
6 × 6 matrix, eigenvalues are those of the tensor, and a crystal is stable against strain (Born) where all are positive.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalign.crystal import Crystal
from crystalign.physics.symmetry import SYMPREC, conventional_vectors

Matrix = NDArray[np.float64]
PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Voigt's order of pairs of axes."""
COMPONENTS = tuple(f"C{i}{j}" for i in range(1, 7) for j in range(i, 7))
"""The 21 names, in order."""
_FIRST, _SECOND = (tuple(pair[side] for pair in PAIRS) for side in (0, 1))


class Moduli(NamedTuple):
    """Isotropic averages of n elastic tensors, (n,) each, in their unit."""

    k_voigt: Tensor
    """Bulk modulus at uniform strain, the upper bound."""
    k_reuss: Tensor
    """Bulk modulus at uniform stress, the lower bound."""
    k_vrh: Tensor
    """Their mean (Hill)."""
    g_voigt: Tensor
    """Shear modulus at uniform strain."""
    g_reuss: Tensor
    """Shear modulus at uniform stress."""
    g_vrh: Tensor
    """Their mean."""


def moduli(mandel: Tensor) -> Moduli:
    """Voigt's, Reuss' and Hill's averages (Hill, Proc. Phys. Soc. A 65, 349 (1952)).

    With 1 = (1, 1, 1, 0, 0, 0) in Mandel's notation and S = C⁻¹:
    9 K_V = 1ᵀC1,  10 G_V = tr C − 3 K_V,  1/K_R = 1ᵀS1,  15/G_R = 6 tr S − 2/K_R.

    Args:
        mandel: (n, 6, 6) positive definite.
    """
    compliance = torch.linalg.inv(mandel)  # (n, 6, 6)
    k_voigt = mandel[:, :3, :3].sum(dim=(1, 2)) / 9.0
    g_voigt = (_trace(mandel) - 3.0 * k_voigt) / 10.0
    k_reuss = 1.0 / compliance[:, :3, :3].sum(dim=(1, 2))
    g_reuss = 15.0 / (6.0 * _trace(compliance) - 2.0 / k_reuss)
    return Moduli(k_voigt, k_reuss, (k_voigt + k_reuss) / 2, g_voigt, g_reuss, (g_voigt + g_reuss) / 2)


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum(dim=1)


def _factors(like: Tensor) -> Tensor:
    """(6, 6) what Mandel's notation multiplies Voigt's by."""
    root = like.new_tensor([1.0, 1.0, 1.0, 2**0.5, 2**0.5, 2**0.5])
    return root[:, None] * root


def mandel_to_voigt(mandel: Tensor) -> Tensor:
    """(n, 6, 6) → (n, 6, 6)."""
    return mandel / _factors(mandel)


def voigt_to_mandel(voigt: Tensor) -> Tensor:
    """(n, 6, 6) → (n, 6, 6)."""
    return voigt * _factors(voigt)


def vector_to_mandel(symmetric: Tensor) -> Tensor:
    """(n, 3, 3) symmetric → (n, 6), of the same norm."""
    root = symmetric.new_tensor([1.0, 1.0, 1.0, 2**0.5, 2**0.5, 2**0.5])
    return symmetric[:, _FIRST, _SECOND] * root


def components(voigt: Matrix) -> Matrix:
    """(n, 6, 6) → (n, 21) in the order of `COMPONENTS`."""
    rows, columns = np.triu_indices(6)
    return np.asarray(voigt[:, rows, columns])


def rotated(voigt: Matrix, rotation: Matrix) -> Matrix:
    """(n, 6, 6) in the axes that are the rows of `rotation` R (3, 3): C'_ijkl = R_ia R_jb R_kc R_ld C_abcd."""
    a, b = np.array(_FIRST), np.array(_SECOND)
    r = np.asarray(rotation, np.float64)
    full = (r[a][:, a] * r[b][:, b] + r[a][:, b] * r[b][:, a]) / np.where(a == b, 2.0, 1.0)  # (6, 6)
    return np.asarray(full @ np.asarray(voigt, np.float64) @ full.T)


def ieee_rotation(crystal: Crystal, symprec: float = SYMPREC) -> Matrix:
    """(3, 3) the axes of IEEE standard 176-1987 as rows, in the Cartesian axes of the crystal.

    Of the conventional vectors a, b, c: in cubic crystals x₁, x₃ along a, c; in tetragonal, trigonal and hexagonal
    ones x₃ along the axis c, x₁ along a; in orthorhombic ones, with c < a < b, x₃ along c, x₁ along a; in monoclinic
    ones x₂ along the axis b, x₃ along the shorter of the others; in triclinic ones, with c < a < b, x₃ along c and x₂
    normal to a and c. x₂ makes them right-handed. `pymatgen` agrees, but for triclinic crystals, where it takes the
    longest vector for x₃, and tetragonal ones with c < a, where it puts the axis along x₁. In trigonal crystals C14
    changes its sign with the direction of x₁, which the standard fixes by the sense of piezoelectricity alone; here it
    is that of the standard cell.

    Raises:
        CrystalError: reason `no-symmetry`.
    """
    vectors, system = conventional_vectors(crystal, symprec)
    lengths = np.linalg.norm(vectors, axis=1)
    first, second, third = vectors
    if system in {"orthorhombic", "triclinic"}:
        third, first, second = (vectors[index] for index in np.argsort(lengths, kind="stable"))
    elif system == "monoclinic":
        unique = int(np.argmin(np.abs(vectors @ vectors.T - np.diag(lengths**2)).sum(axis=1)))
        second = vectors[unique]
        third = min((v for index, v in enumerate(vectors) if index != unique), key=np.linalg.norm)
        first = np.cross(second, third)
    z = third / np.linalg.norm(third)
    x = first - (first @ z) * z
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def in_ieee_frame(voigt: Matrix, crystal: Crystal, symprec: float = SYMPREC) -> Matrix:
    """(6, 6) of a crystal as it stands → (6, 6) as tables print it."""
    return np.asarray(rotated(voigt[None], ieee_rotation(crystal, symprec))[0])
