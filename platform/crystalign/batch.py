"""`Batch`: the only object that data workers send to a training rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from crystalign.errors import InputError
from crystalign.material import Material
from crystalign.modalities import Features, Inputs, Modality, key_columns
from crystalign.objectives.likeness import CLAIMS, FACTS, claims_of, facts_of


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of one rank in one global step: b rows, each with some modalities.

    All ranks hold the same number of rows b = ⌈B/W⌉. Surplus (padding) rows fill the last ranks of a step. They have
    no modality and do not count in any statistic.

    """

    real: Tensor
    """(b,) bool; False on surplus rows."""
    present: dict[str, Tensor]
    """Modality → (b,) bool; which rows have it."""
    inputs: dict[str, Inputs]
    """Modality → tensors of the rows that have it, in row order; of one empty sample if no row has it."""
    keys: dict[str, Tensor]
    """Modality → (b, K) int64; two rows with an equal key in any column look alike in it. 0 where absent.

    A modality that makes claims has two more entries, `<modality>/claims` (b, CLAIMS) and `<modality>/facts`
    (b, FACTS): see `crystalign.objectives.likeness`."""

    def __len__(self) -> int:
        """The number of rows b, surplus included."""
        return len(self.real)

    @property
    def parts(self) -> tuple[Batch, ...]:
        """The batch itself: all rows pass the encoders together."""
        return (self,)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""

        def move(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}

        return Batch(
            real=self.real.to(device),
            present=move(self.present),
            inputs={name: move(tensors) for name, tensors in self.inputs.items()},
            keys=move(self.keys),
        )

    def to_bytes(self) -> bytes:
        """Serialise as safetensors: one pickle-free block that fits into one Arrow cell."""
        from safetensors.torch import save

        tensors = {"real": self.real}
        tensors |= {f"present/{m}": t for m, t in self.present.items()}
        tensors |= {f"keys/{m}": t for m, t in self.keys.items()}
        tensors |= {f"inputs/{m}/{k}": t for m, inputs in self.inputs.items() for k, t in inputs.items()}
        packed: bytes = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        return packed

    @classmethod
    def from_bytes(cls, packed: bytes) -> Self:
        """Read a batch that `to_bytes` wrote."""
        from safetensors.torch import load

        present: dict[str, Tensor] = {}
        keys: dict[str, Tensor] = {}
        inputs: dict[str, Inputs] = {}
        tensors = load(packed)
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            if kind == "present":
                present[rest] = tensor
            elif kind == "keys":
                keys[rest] = tensor
            elif kind == "inputs":
                modality, _, key = rest.partition("/")
                inputs.setdefault(modality, {})[key] = tensor
        return cls(real=tensors["real"], present=present, inputs=inputs, keys=keys)


@dataclass(frozen=True)
class MicroBatches:
    """Rows of one rank in one global step as micro-batches that pass the encoders one after the other.

    They are collated separately and never concatenated, so no graph has to be split; only embeddings are joined.
    """

    parts: tuple[Batch, ...]
    """In row order; the last may be smaller. All ranks have the same number of parts, of the same sizes."""

    def __len__(self) -> int:
        """The number of rows b of all parts, surplus included."""
        return sum(len(part) for part in self.parts)

    @cached_property
    def real(self) -> Tensor:
        """(b,) bool; False on surplus rows."""
        return torch.cat([part.real for part in self.parts])

    @cached_property
    def present(self) -> dict[str, Tensor]:
        """Modality → (b,) bool; which rows have it."""
        return {name: torch.cat([part.present[name] for part in self.parts]) for name in self.parts[0].present}

    @cached_property
    def keys(self) -> dict[str, Tensor]:
        """Modality → (b, K) int64; two rows with an equal key in any column look alike in it."""
        return {name: torch.cat([part.keys[name] for part in self.parts]) for name in self.parts[0].keys}


def make_batch(
    materials: Sequence[Material | None],
    modalities: Mapping[str, Modality[Any]],
    rng: np.random.Generator | Sequence[np.random.Generator] | None = None,
) -> Batch:
    """Featurise and collate materials into a batch.

    Args:
        materials: the b rows of this rank; None is a surplus row.
        modalities: name → modality with the settings of the model.
        rng: random generator for augmentation, one for all rows or one per row; without it there is no augmentation.

    Raises:
        InputError: a value cannot be featurised; a note names the material and the modality.
    """
    real = [material is not None for material in materials]
    rngs = rng if isinstance(rng, Sequence) else [rng] * len(materials)
    present: dict[str, Tensor] = {}
    keys: dict[str, Tensor] = {}
    inputs: dict[str, Inputs] = {}
    for name, modality in modalities.items():
        values = [None if material is None else material.value(name) for material in materials]
        samples = [
            _featurise(modality, material, value, row_rng)
            for material, value, row_rng in zip(materials, values, rngs, strict=True)
            if material is not None and value is not None
        ]
        if type(modality).makes_claims and rng is not None:
            keys |= _claims(modality, values, samples)
        inputs[name] = modality.collate(samples or [modality.empty_sample()])
        present[name] = torch.tensor([value is not None for value in values], dtype=torch.bool)
        keys[name] = torch.from_numpy(key_columns(type(modality), materials))
    return Batch(
        real=torch.tensor(real, dtype=torch.bool),
        present=present,
        inputs=inputs,
        keys=keys,
    )


def _claims(modality: Modality[Any], values: Sequence[Any], samples: Sequence[Features]) -> dict[str, Tensor]:
    """The claims of augmented samples, and the facts of their materials, by their names in `Batch.keys`.

    A sample with too many claims fits no other material; facts beyond the limit hold of no material.
    """
    claims = np.zeros((len(values), CLAIMS), np.int64)
    facts = np.zeros((len(values), FACTS), np.int64)
    rows = [row for row, value in enumerate(values) if value is not None]
    for row, features in zip(rows, samples, strict=True):
        found = modality.claims(values[row], features)
        if found is not None:
            facts[row, : len(found.true)] = found.true[:FACTS]
            if len(found.made) <= CLAIMS:
                claims[row, : len(found.made)] = found.made
    return {claims_of(modality.name): torch.from_numpy(claims), facts_of(modality.name): torch.from_numpy(facts)}


def _featurise(
    modality: Modality[Any], material: Material, value: Any, rng: np.random.Generator | None
) -> dict[str, np.ndarray[Any, Any]]:
    try:
        return modality.featurise(value, rng=rng)
    except InputError as error:
        error.add_note(f"while making the {modality.name!r} features of material {material.id!r}")
        raise
