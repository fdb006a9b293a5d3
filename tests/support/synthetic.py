"""Synthetic materials with every modality, for tests that learn."""

from __future__ import annotations

import numpy as np

from crystalign.crystal import Crystal
from crystalign.material import Material, Provenance
from crystalign.modalities.charge_density import ChargeDensity
from crystalign.modalities.composition import Composition
from crystalign.modalities.dos import DensityOfStates
from crystalign.modalities.image import Picture
from crystalign.modalities.phonon_dos import PhononDensityOfStates
from crystalign.modalities.text import Text
from crystalign.modalities.vector import Vector
from crystalign.physics.descriptors import descriptors
from crystalign.physics.diffraction import powder_peaks
from crystalign.physics.picture import draw_crystal

CATIONS, ANIONS = (3, 11, 12, 19, 20, 22, 25, 26, 29, 30, 38, 56), (8, 9, 16, 17, 34, 35)
SITES = {"rock salt": [0.5, 0.5, 0.5], "zinc blende": [0.25, 0.25, 0.25]}


def synthetic_material(index: int) -> Material:
    """A binary of one of two prototypes, with spectra that depend on what it is; 144 are different."""
    cation, anion = CATIONS[index % len(CATIONS)], ANIONS[index // len(CATIONS) % len(ANIONS)]
    prototype = list(SITES)[index // (len(CATIONS) * len(ANIONS)) % len(SITES)]
    edge = 3.5 + 0.02 * cation + 0.03 * anion + (0.3 if prototype == "zinc blende" else 0.0)
    lattice = edge * (np.ones((3, 3)) - np.eye(3)) / 2
    crystal = Crystal(lattice, np.array([[0, 0, 0], SITES[prototype]]), np.array([cation, anion]))
    words = f"{crystal.formula} crystallises in the {prototype} structure, cell edge {edge:.1f} Å"
    return Material(
        id=f"synthetic-{index:03d}",
        crystal=crystal,
        provenance=Provenance("synthetic", "CC0-1.0"),
        modalities={
            "dos": _dos(cation, anion),
            "charge_density": _charge_density(crystal),
            "xrd": powder_peaks(crystal),
            "phonon_dos": _phonon_dos(cation, anion),
            "text": Text(words, generated=True),
            "composition": Composition.of(crystal),
            "image": Picture(draw_crystal(crystal, 32)),
            "tabular": Vector(descriptors(crystal)),
            "text_embedding": Vector(np.sin(np.arange(768) * (cation + anion / 7.0) + edge)),
        },
    )


def _dos(cation: int, anion: int) -> DensityOfStates:
    energies = np.linspace(-12, 12, 601)
    bands = ((-0.05 * anion - 1, 1.0), (0.1 * cation - 5, 0.5), (3.0 + 0.05 * anion, 2.0))
    densities = sum(np.exp(-((energies - centre) ** 2) / width) for centre, width in bands)
    return DensityOfStates(energies, np.asarray(densities)[None], 2)


def _phonon_dos(cation: int, anion: int) -> PhononDensityOfStates:
    frequencies = np.linspace(0, 1100, 221)
    bands = ((900 / np.sqrt(cation), 60.0), (2500 / anion, 80.0))
    densities = sum(np.exp(-0.5 * ((frequencies - centre) / width) ** 2) for centre, width in bands)
    return PhononDensityOfStates(frequencies, np.asarray(densities))


def _charge_density(crystal: Crystal) -> ChargeDensity:
    points = np.stack(np.meshgrid(*[np.arange(12) / 12] * 3, indexing="ij"), axis=-1)
    waves = [
        int(z) / 10 * np.cos(2 * np.pi * (points - site)).sum(-1)
        for z, site in zip(crystal.atomic_numbers, crystal.frac_coords, strict=True)
    ]
    return ChargeDensity(np.exp(0.3 * np.sum(waves, axis=0)), crystal.lattice)
