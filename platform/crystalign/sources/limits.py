"""What a stranger's file may cost."""

from __future__ import annotations

from crystalign.config import Config

MIB = 1 << 20


class Limits(Config):
    """What a stranger's file may cost; every size that its author controls is bounded."""

    max_sites: int = 1000
    """Crystals with more sites are refused."""
    min_distance: float = 0.5
    """Å; fully occupied sites closer than this overlap."""
    max_positions: int = 200_000
    """Rows of the sites of a CIF times its symmetry operations."""
    max_structure_bytes: int = 16 * MIB
    """Of one CIF or POSCAR, uncompressed."""
    max_json_bytes: int = 1024 * MIB
    """Of one JSON file, uncompressed."""
    max_grid_bytes: int = 2048 * MIB
    """Of one `vasprun.xml` or `CHGCAR`, uncompressed."""
    max_members: int = 1_000_000
    """Entries of an archive, or files of a folder."""
    max_total_bytes: int = 256 * 1024 * MIB
    """Of all members of an archive together, uncompressed."""
    max_compression_ratio: float = 200.0
    """Of a member above 1 MiB; text of crystals compresses 3 to 20 times, a bomb 1000 times."""
    max_seconds: float = 60.0
    """For reading one file."""

    def bytes_of(self, kind: str) -> int:
        """How many bytes a file of a kind of `crystalign.sources.structures.KINDS` may have, uncompressed."""
        return {"vasprun": self.max_grid_bytes, "chgcar": self.max_grid_bytes, "json": self.max_json_bytes}.get(
            kind, self.max_structure_bytes
        )
