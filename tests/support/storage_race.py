"""What a process of a race does: `python storage_race.py PLACE NAME ROUNDS`, started twice or more on one place.

In each round every process replaces the same version of `PLACE/manifest` by one of its own and of that round; it prints
`ROUND won` or `ROUND lost`. Rounds are kept in step by files in the folder `PLACE.meet`, on disk.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from crystalign import storage
from crystalign.errors import ConflictError

PLAYERS = 2


def content(number: int, name: str) -> bytes:
    return f"{number} {name} ".encode() * 20_000


def meet(folder: Path, number: int, name: str) -> None:
    (folder / f"{number}-{name}").touch()
    deadline = time.monotonic() + 60
    while len(list(folder.glob(f"{number}-*"))) < PLAYERS:
        assert time.monotonic() < deadline, "the other process does not come"
        time.sleep(0.0005)


def main(place: str, folder: str, name: str, rounds: int) -> None:
    uri = storage.join(place, "manifest")
    for number in range(rounds):
        expected = storage.sha256_of(uri)
        meet(Path(folder), 2 * number, name)
        try:
            storage.replace_bytes(uri, content(number, name), expected=expected)
            outcome = "won"
        except ConflictError:
            outcome = "lost"
        meet(Path(folder), 2 * number + 1, name)
        stored = (
            hashlib.sha256(storage.read_bytes(uri)).hexdigest() == hashlib.sha256(content(number, name)).hexdigest()
        )
        print(number, outcome, "stored" if stored else "other", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
