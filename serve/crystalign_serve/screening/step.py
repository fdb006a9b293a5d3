"""`Step`: a task of a screening that stores verified files, and is skipped where an earlier run stored them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from crystalign import storage
from crystalign.errors import VerificationError
from crystalign.index.stamped import read_stamped, stamped_entry, write_stamped
from crystalign_serve.screening.plan import Plan


class Step(ABC):
    """A task that writes files, unless they exist. Instances are sent to Ray tasks.

    Args:
        plan: what is screened.
        folder: URI of the folder of the files between the steps, whose name `folder_name` makes.
    """

    def __init__(self, plan: Plan, folder: str) -> None:
        self.plan, self.folder = plan, folder

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Do one piece of work, or find that an earlier run did it."""
        names = self.names(row)
        found = all(stamped_entry(self.path(name), self.stamp(name)) is not None for name in names)
        if not found:
            made = iter(self.make(row))
            for name in names:
                write_stamped(self.path(name), next(made), self.stamp(name))
        return {"result": json.dumps({"found": found, "units": self.units(row)})}

    @abstractmethod
    def names(self, row: dict[str, Any]) -> list[str]:
        """The names of the files of a piece of work."""

    @abstractmethod
    def make(self, row: dict[str, Any]) -> Iterator[pa.Table]:
        """The content of these files, in their order."""

    @abstractmethod
    def units(self, row: dict[str, Any]) -> int:
        """Size of a piece of work, for the progress: queries or rows."""

    def path(self, name: str) -> str:
        """URI of a file between the steps."""
        return storage.join(self.folder, f"{name}.parquet")

    def stamp(self, name: str) -> bytes:
        """What determines the content of a file between the steps: the plan, and the groups in the folder's name."""
        return json.dumps([name, self.plan.digest, storage.name_of(self.folder)]).encode()

    def read(self, name: str) -> pa.Table:
        """Read a file that an earlier step wrote.

        Raises:
            VerificationError: it is damaged or gone.
        """
        table = read_stamped(self.path(name), self.stamp(name))
        if table is None:
            raise VerificationError(
                f"{self.path(name)} is damaged or gone: run the screening again, which makes it anew"
            )
        return table
