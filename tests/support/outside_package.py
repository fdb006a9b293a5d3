"""A package that offers something to Crystalign, installed into a folder as an installer leaves it."""

from __future__ import annotations

import shutil
from pathlib import Path


def install(folder: Path, source: Path, group: str, name: str, attribute: str) -> str:
    """Copy a module and declare `name` of it in an entry-point group; the folder belongs on the path then.

    Args:
        folder: of the packages; made where it is missing.
        source: the module.
        group: e.g. `crystalign.objectives`.
        name: what configurations call it.
        attribute: of the module.

    Returns:
        The folder as a path's entry.
    """
    package = source.stem
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir(parents=True)
    shutil.copy(source, folder)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {package}:{attribute}\n")
    return str(folder)
