"""Crystalign aligns what is known about a crystal in one latent space, and searches that space.

The names below are what most scripts need. They are imported when they are first used, so that `import crystalign`
loads neither PyTorch nor pymatgen. Everything else is imported from its own module.

The client of a running service is in another package: `from crystalign_serve.client import Client`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from crystalign.errors import ConfigError, DatasetError, Error, InputError, ModelError, QueryError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from crystalign.crystal import Crystal
    from crystalign.finetuning.model.property_model import PropertyModel
    from crystalign.finetuning.trials.ensemble import Ensemble
    from crystalign.index.index import Index
    from crystalign.material import Material, Provenance
    from crystalign.model import Model
    from crystalign.model_config import ModelConfig
    from crystalign.readers.structures.structure_file import crystal_from_cif, crystal_from_poscar
    from crystalign.shards.dataset import Dataset
    from crystalign.sources import open_source

__version__ = "0.1.0"
__all__ = [
    "ConfigError",
    "Crystal",
    "Dataset",
    "DatasetError",
    "Ensemble",
    "Error",
    "Index",
    "InputError",
    "Material",
    "Model",
    "ModelConfig",
    "ModelError",
    "PropertyModel",
    "Provenance",
    "QueryError",
    "StorageError",
    "__version__",
    "crystal_from_cif",
    "crystal_from_poscar",
    "load",
    "open_source",
]

_MODULES = {
    "Crystal": "crystalign.crystal",
    "Dataset": "crystalign.shards.dataset",
    "Ensemble": "crystalign.finetuning.trials.ensemble",
    "Index": "crystalign.index.index",
    "Material": "crystalign.material",
    "Model": "crystalign.model",
    "ModelConfig": "crystalign.model_config",
    "PropertyModel": "crystalign.finetuning.model.property_model",
    "Provenance": "crystalign.material",
    "crystal_from_cif": "crystalign.readers.structures.structure_file",
    "crystal_from_poscar": "crystalign.readers.structures.structure_file",
    "open_source": "crystalign.sources",
}
"""Public name → the module that defines it."""


def load(uri: str | Path) -> Model | PropertyModel | Ensemble:
    """Open a model directory: an aligned model, a fine-tuned model, or an ensemble of fine-tuned models.

    Args:
        uri: path or URI (`file://`, `s3://`) of the directory.

    Returns:
        The model in evaluation mode: a `Model` embeds, a `PropertyModel` or an `Ensemble` predicts.

    Raises:
        ModelError: there is no model, a file of it is damaged, or this version cannot read it.
    """
    from crystalign import storage
    from crystalign.finetuning.model.description import is_property_model
    from crystalign.finetuning.model.property_model import PropertyModel
    from crystalign.finetuning.trials.ensemble import FILE, Ensemble
    from crystalign.model import Model

    uri = str(uri)
    if is_property_model(uri):
        return PropertyModel.from_pretrained(uri)
    if storage.exists(storage.join(uri, FILE)):
        return Ensemble.from_pretrained(uri)
    return Model.from_pretrained(uri)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'crystalign' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion in a shell or notebook."""
    return sorted({*globals(), *__all__})
