"""Text description of a material."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from crystalign.config import Config
from crystalign.errors import InputError
from crystalign.modalities.modality import Features, Inputs, Modality
from crystalign.modalities.query import QueryExample, QueryField, QuerySpec
from crystalign.physics.facts import CrystalFacts
from crystalign.text.phrasing import phrase

if TYPE_CHECKING:
    import pyarrow as pa

    from crystalign.material import Material

_CLAUSE_ENDS = re.compile(r"(?<=[.;!?])\s+")


@dataclass(frozen=True, slots=True)
class Text:
    """Text about a material.

    Raises:
        InputError: the text is empty.
    """

    description: str
    """Unicode text of any length; the encoder truncates long texts."""
    generated: bool = False
    """Whether `crystalign.physics.caption` generated the text, rather than a person."""
    facts_json: str | None = None
    """The facts of a generated text, as JSON; None for a text by a person or of an earlier release."""

    def __post_init__(self) -> None:
        """Refuse an empty text."""
        if not self.description.strip():
            message = "the description is empty; write a few words about the material"
            raise InputError(message, reason="empty-text")

    @property
    def facts(self) -> CrystalFacts | None:
        """The facts that a generated text was made from."""
        return None if self.facts_json is None else CrystalFacts.model_validate_json(self.facts_json)


MAX_CHARACTERS = 20_000
"""Largest number of characters of a query text."""


PHRASES = ("rutile", "layered lithium oxide", "hexagonal boron nitride", "lead halide perovskite", "cubic fluoride")
"""Examples of what can be typed."""
HELP = 'A few words or a description, such as "layered lithium oxide".'
"""What can be typed."""


def _example(row: Mapping[str, Any]) -> QueryExample:
    words = f"{' '.join(row['elements'])} compound"
    return QueryExample(f"“{words}”", {"text": words})


QUERY = QuerySpec(
    label="text",
    fields=(QueryField("text", Annotated[str, Field(max_length=MAX_CHARACTERS)], HELP, HELP),),
    read=Text,
    example=_example,
    phrases=PHRASES,
    understand="crystalign.text_query.understanding:understand",
    held_out="crystalign.evaluation.typed_queries:TypedQueries",
)


class TextModality(Modality[Text]):
    """Text as UTF-8 bytes; the encoder has its own tokenizer.

    A batch holds `utf8` (bytes of all texts, joined) uint8 and `offsets` (n + 1,) int64.
    """

    name: ClassVar[str] = "text"
    label: ClassVar[str] = "Text"
    derived_by: ClassVar[str | None] = "crystalign.derivation:text_of"
    prepares_encoder: ClassVar[bool] = True
    masked_by: ClassVar[str | None] = "crystalign.evaluation.masked_text:masked_texts"
    query: ClassVar[QuerySpec | None] = QUERY
    n_keys: ClassVar[int] = 2

    class Settings(Config):
        """Settings of length and augmentation."""

        max_bytes: int = 16384
        """Maximum length of a text in bytes; longer texts are cut off there."""
        clause_dropout: float = Field(default=0.3, ge=0, lt=1)
        """Probability of dropping each clause in training, so that the model does not rely on the formula alone."""
        phrasing: float = Field(default=0.0, ge=0, le=1)
        """Probability that training replaces a text by some of its facts in other words, if it has facts: `phrase`."""

    settings: Settings

    @classmethod
    def column_type(cls) -> pa.StructType:
        """Arrow type: the text, whether it was generated, and its facts as JSON."""
        import pyarrow as pa

        return pa.struct([("description", pa.string()), ("generated", pa.bool_()), ("facts", pa.string())])

    @classmethod
    def to_column(cls, value: Text) -> Mapping[str, Any]:
        """Store the text unchanged."""
        return {"description": value.description, "generated": value.generated, "facts": value.facts_json}

    @classmethod
    def from_column(cls, scalar: pa.StructScalar) -> Text:
        """Read the text unchanged."""
        return Text(scalar["description"].as_py(), scalar["generated"].as_py(), scalar["facts"].as_py())

    def featurise(self, value: Text | str, *, rng: np.random.Generator | None = None) -> Features:
        """Return UTF-8 bytes, whole characters only; with `rng`, of a random subset of the clauses, in order."""
        text = value if isinstance(value, Text) else Text(value)
        words = text.description if rng is None else self._varied(text, rng)
        cut = words.encode()[: self.settings.max_bytes].decode(errors="ignore")
        return {"utf8": np.frombuffer(cut.encode(), np.uint8)}

    def _varied(self, text: Text, rng: np.random.Generator) -> str:
        """A variant of the text for one training step."""
        if self.settings.phrasing and text.facts_json is not None and rng.random() < self.settings.phrasing:
            assert text.facts is not None
            return phrase(text.facts, rng)
        return self._some_clauses(text.description, rng)

    def _some_clauses(self, words: str, rng: np.random.Generator) -> str:
        clauses = _CLAUSE_ENDS.split(words)
        keep = rng.random(len(clauses)) >= self.settings.clause_dropout
        keep[rng.integers(len(clauses))] = True
        return " ".join(clause for clause, is_kept in zip(clauses, keep, strict=True) if is_kept)

    def collate(self, samples: Sequence[Features]) -> Inputs:
        """Join the bytes."""
        import torch

        offsets = np.concatenate([[0], np.cumsum([len(s["utf8"]) for s in samples])]).astype(np.int64)
        joined = np.concatenate([s["utf8"] for s in samples])
        return {"utf8": torch.from_numpy(joined), "offsets": torch.from_numpy(offsets)}

    def empty_sample(self) -> Features:
        """Return a text of one word."""
        return self.featurise(Text("crystal"))

    @classmethod
    def equivalence(cls, material: Material) -> str:
        """Return the text of a generated caption as key, or the formula for a text by a person.

        A generated caption describes one structure. A title or an abstract names a compound and may mean any
        polymorph.
        """
        text: Text | None = material.value("text")
        if text is None:
            return material.id
        return text.description if text.generated else material.crystal.formula

    @classmethod
    def equivalences(cls, material: Material) -> tuple[str, ...]:
        """Return the key of `equivalence` and the text: a title that names two compounds belongs to both of them."""
        text: Text | None = material.value("text")
        words = material.id if text is None else " ".join(text.description.split()).casefold()
        return cls.equivalence(material), f"words {words}"


def decode(inputs: Inputs) -> list[str]:
    """Decode the texts of a batch, in order."""
    blob, offsets = bytes(inputs["utf8"].cpu().numpy()), inputs["offsets"].tolist()
    return [blob[start:stop].decode() for start, stop in itertools.pairwise(offsets)]
