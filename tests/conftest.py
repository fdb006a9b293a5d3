"""Fixtures shared by every suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real crystals, measured patterns and spectra; tests that need it skip without it."""
    folder = Path(os.environ.get("CRYSTALIGN_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real data at {folder}; set CRYSTALIGN_DATA to the folder that holds it")
    return folder
