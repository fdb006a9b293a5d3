"""Licences that restrict the use of rows: such rows enter a dataset only if its user allows them."""

from __future__ import annotations

from collections.abc import Collection

NON_COMMERCIAL = "NC"
"""Part of the SPDX identifier of a licence that forbids commercial use, e.g. of `CC-BY-NC-4.0`."""


def is_non_commercial(licence: str) -> bool:
    """Whether a licence, given by its SPDX identifier, forbids commercial use."""
    return NON_COMMERCIAL in licence.upper().split("-")


def refused(licence: str, allowed: Collection[str]) -> str | None:
    """The reason why rows of a licence do not enter a dataset; None if they may.

    Args:
        licence: SPDX identifier.
        allowed: non-commercial licences that the user allows, by their SPDX identifiers.
    """
    if not is_non_commercial(licence) or licence.upper() in {name.upper() for name in allowed}:
        return None
    return (
        f"the licence {licence} forbids commercial use, also of models and indexes made from the rows; "
        f"`--allow-licence {licence}` takes them"
    )
