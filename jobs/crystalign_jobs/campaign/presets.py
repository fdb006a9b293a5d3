"""Named campaigns, as functions: `crystalign tune costa-fusion --data DATASET --out CAMPAIGNS`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from crystalign.errors import ConfigError

SUBSETS = tuple(
    "+".join(chosen) for n in (1, 2, 3) for chosen in itertools.combinations(("tabular", "image", "text"), n)
)
"""The seven of {tabular, image, text}."""
COSTA_TASKS: dict[str, dict[str, Any]] = {
    "band gap": {"target": "band_gap"},
    "formation energy": {"target": "formation_energy_per_atom"},
    "energy above hull": {"target": "energy_above_hull"},
    "magnetization": {"target": "total_magnetization_per_atom"},
    "DOS at the Fermi level": {"target": "dos_at_fermi_per_atom"},
    "volume": {"target": "volume_per_atom", "modalities": ["composition"]},
}
"""The targets of Costa et al. that a dataset may hold as a column. The volume is predicted from the composition,
because the other modalities contain the volume itself."""
COSTA_NOTE = (
    "Differences from Costa et al.: total energy per atom is not a property column here. The volume is predicted from "
    "the composition alone, because every other modality contains it. Their tabular modality is PotNet's vector, here "
    "it is a set of descriptors. Their gaps and magnetizations (per volume) come from Alexandria. The question is the "
    "same: which of the three modalities to combine, and how."
)


def costa_fusion() -> dict[str, Any]:
    """Table 2 of Costa et al.: 7 subsets of {tabular, image, text} × targets × kinds of fusion, on the same materials.

    Networks have fresh weights. The dataset needs `crystalign derive --modalities tabular image text composition`;
    targets that it lacks are skipped and listed below the table. If a quantity has several columns, choose one:
    `--set "tasks.band gap.target=COLUMN"`.
    """
    return {
        "name": "costa-fusion",
        "tasks": COSTA_TASKS,
        "missing_targets": "skip",
        "note": COSTA_NOTE,
        "initialisations": {
            "mean": "mean",
            "median": "median",
            "fresh": {
                "encoders": {
                    "tabular": {"encoder": "tabular-mlp"},
                    "image": {
                        "encoder": "resnet",
                        "options": {"stem": 16, "channels": [16, 32, 64], "depths": [1, 1, 1]},
                    },
                    "text": {"encoder": "bert", "options": {"hidden": 64, "layers": 1, "max_tokens": 64}},
                    "composition": {"encoder": "composition-transformer"},
                }
            },
        },
        "modalities": SUBSETS,
        "require": ("tabular", "image", "text"),
        "fusion": ("early", "late", "late-stacked", "hybrid", "attention"),
        "learning_rates": (1e-3,),
        "recipe": {"max_epochs": 60, "warmup_epochs": 5, "patience": 15, "batch_size": 64},
    }


PRESETS: dict[str, Callable[[], dict[str, Any]]] = {"costa-fusion": costa_fusion}


def preset(name: str) -> dict[str, Any]:
    """The settings of a preset; `data` and `out` must be added.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}; there are {', '.join(PRESETS)}, or give a YAML file")
    return PRESETS[name]()
