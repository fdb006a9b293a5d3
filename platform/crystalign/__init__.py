"""Crystalign: everything that is known about a crystal, aligned in one latent space and searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crystalign.errors import Error

if TYPE_CHECKING:
    from crystalign.crystal import Crystal
    from crystalign.material import Material
    from crystalign.model import load

__version__ = "0.1.0"
__all__ = ["Crystal", "Error", "Material", "__version__", "load"]


def __getattr__(name: str) -> object:
    """Import the public names when they are first used: `crystalign --help` needs none of them."""
    import importlib

    homes = {"Crystal": "crystalign.crystal", "Material": "crystalign.material", "load": "crystalign.model"}
    if name in homes:
        return getattr(importlib.import_module(homes[name]), name)
    message = f"module 'crystalign' has no attribute {name!r}"
    raise AttributeError(message)
