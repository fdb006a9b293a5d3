"""The embedded corpus: 200 crystals with a computed DOS and density, and hypothetical crystals without."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

from crystalign.limits import Limits
from crystalign.material import Material
from crystalign.properties import PropertySpec
from crystalign.rejects import Reject
from crystalign.sources.mapping import load_mapping
from crystalign.sources.prototypes import PrototypeSource
from crystalign.sources.source import Item, Source, SourceKind
from crystalign.sources.table import TableSource

N_PROTOTYPES = 1000
_PREFIX = "dft_demo "


class DemoSource(Source):
    """`dft_demo` (see its README: no scientific claim) and 1,000 hypothetical substitutions."""

    def __init__(self, limits: Limits | None = None, *, seed: int = 0) -> None:
        super().__init__(limits)
        self.prototypes = PrototypeSource(limits, count=N_PROTOTYPES, seed=seed)

    def properties(self) -> tuple[PropertySpec, ...]:
        """Properties of `dft_demo`."""
        return self._computed().properties()

    def items(self) -> list[Item]:
        """List the items of both parts; keys mark those of the first."""
        computed = [item.model_copy(update={"key": _PREFIX + item.key}) for item in self._computed().items()]
        return [*computed, *self.prototypes.items()]

    def load(self, item: Item) -> Iterator[Material | Reject | None]:
        """Load an item from the part that listed it."""
        part: Source = self._computed() if item.key.startswith(_PREFIX) else self.prototypes
        yield from part.load(item)

    def _computed(self) -> TableSource:
        """Open the source in each process, since the library's path differs between machines."""
        table = resources.files("crystalign.sources") / "dft_demo" / "crystals.parquet"
        return TableSource(str(table), load_mapping("dft_demo"), self.limits)


KIND = SourceKind(lambda location: location == "demo", lambda request: DemoSource(request.limits, seed=request.seed))
"""The word `demo`."""
