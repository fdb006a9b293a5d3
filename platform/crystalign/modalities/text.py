"""Text description of a material."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from crystalign.config import Config
from crystalign.errors import InputError
from crystalign.modalities.modality import Claims, Features, Inputs, Modality, stable_hash
from crystalign.modalities.query import QueryExample, QueryField, QuerySpec
from crystalign.physics.facts import CrystalFacts
from crystalign.text.claims import claims, possible
from crystalign.text.masked_caption import masked_caption
from crystalign.text.phrasing import phrase

if TYPE_CHECKING:
    import pyarrow as pa

    from crystalign.material import Material

MAX_CHARACTERS = 20_000
"""Largest number of characters of a query text, and of a further text about a crystal."""
MAX_OTHERS = 8
"""Most further texts about a crystal."""
_SEEN = 4
"""Drawn texts of each crystal from which a tokenizer learns its words."""
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
    others: tuple[str, ...] = ()
    """Further texts about the crystal, e.g. by another program; only training reads them."""

    def __post_init__(self) -> None:
        """Refuse an empty text, and too many or too long others."""
        if len(self.others) > MAX_OTHERS:
            message = f"{len(self.others)} descriptions of one crystal; at most {MAX_OTHERS} are stored"
            raise InputError(message, reason="too-many-texts")
        if any(len(other) > MAX_CHARACTERS for other in self.others):
            message = f"a description has more than {MAX_CHARACTERS:,} characters"
            raise InputError(message, reason="text-too-long")
        if not self.description.strip():
            message = "the description is empty; write a few words about the material"
            raise InputError(message, reason="empty-text")

    @property
    def facts(self) -> CrystalFacts | None:
        """The facts that a generated text was made from."""
        return None if self.facts_json is None else _read_facts(self.facts_json)


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
    makes_claims: ClassVar[bool] = True

    class Settings(Config):
        """Settings of length and augmentation."""

        max_bytes: int = 16384
        """Maximum length of a text in bytes; longer texts are cut off there."""
        clause_dropout: float = Field(default=0.3, ge=0, lt=1)
        """Probability of dropping each clause in training, so that the model does not rely on the formula alone."""
        phrasing: float = Field(default=0.0, ge=0, le=1)
        """Probability that training replaces a text by some of its facts in other words, if it has facts: `phrase`."""
        masking: float = Field(default=0.0, ge=0, le=1)
        """Probability that training replaces a text, if it has facts, by its caption with composition and symmetry
        masked; in half of them lengths and volumes are masked, too: `masked_caption`."""
        others: float = Field(default=0.0, ge=0, le=1)
        """Probability that training replaces a text by one of its `others`, if it has any."""

        @model_validator(mode="after")
        def _check_shares(self) -> Self:
            if self.phrasing + self.masking > 1:
                raise ValueError(f"phrasing {self.phrasing} and masking {self.masking} add up to more than 1")
            return self

    settings: Settings

    @classmethod
    def column_type(cls) -> pa.StructType:
        """Arrow type: the text, whether it was generated, its facts as JSON, and further texts."""
        import pyarrow as pa

        return pa.struct(
            [
                ("description", pa.string()),
                ("generated", pa.bool_()),
                ("facts", pa.string()),
                ("others", pa.list_(pa.string())),
            ]
        )

    @classmethod
    def to_column(cls, value: Text) -> Mapping[str, Any]:
        """Store the text unchanged."""
        return {"description": value.description, "generated": value.generated, "facts": value.facts_json} | (
            {"others": list(value.others)} if value.others else {}
        )

    @classmethod
    def from_column(cls, scalar: pa.StructScalar) -> Text:
        """Read the text unchanged."""
        others = tuple(scalar["others"].as_py() or ())
        return Text(scalar["description"].as_py(), scalar["generated"].as_py(), scalar["facts"].as_py(), others)

    def featurise(self, value: Text | str, *, rng: np.random.Generator | None = None) -> Features:
        """Return UTF-8 bytes, whole characters only; with `rng`, of a random subset of the clauses, in order."""
        text = value if isinstance(value, Text) else Text(value)
        words = text.description if rng is None else self._varied(text, rng)
        cut = words.encode()[: self.settings.max_bytes].decode(errors="ignore")
        return {"utf8": np.frombuffer(cut.encode(), np.uint8)}

    def _varied(self, text: Text, rng: np.random.Generator) -> str:
        """A variant of the text for one training step."""
        if self.settings.others and text.others and rng.random() < self.settings.others:
            return self._some_clauses(text.others[int(rng.integers(len(text.others)))], rng)
        share = rng.random() if self.settings.phrasing + self.settings.masking > 0 and text.facts_json else 1.0
        if share < self.settings.phrasing + self.settings.masking:
            assert text.facts is not None
            if share < self.settings.phrasing:
                return phrase(text.facts, rng)
            return self._some_clauses(masked_caption(text.facts, lengths=bool(rng.random() < 0.5)), rng)
        return self._some_clauses(text.description, rng)

    def _some_clauses(self, words: str, rng: np.random.Generator) -> str:
        clauses = _CLAUSE_ENDS.split(words)
        keep = rng.random(len(clauses)) >= self.settings.clause_dropout
        keep[rng.integers(len(clauses))] = True
        return " ".join(clause for clause, is_kept in zip(clauses, keep, strict=True) if is_kept)

    def seen_in_training(self, value: Text) -> Sequence[Text]:
        """Return the text, and some drawn and masked ones, whose words a tokenizer has to know."""
        texts = [value]
        rng = np.random.default_rng(stable_hash(value.description) % 2**63)
        if value.facts is not None and self.settings.phrasing:
            texts += [Text(phrase(value.facts, rng)) for _ in range(_SEEN)]
        texts += [Text(other) for other in value.others] if self.settings.others else []
        if value.facts is not None and self.settings.masking:
            texts += [Text(masked_caption(value.facts, lengths=False))]
        return texts

    def claims(self, value: Text, features: Features) -> Claims | None:
        """Return what the drawn text claims, and all that may be true of the crystal, if its facts are known."""
        if value.facts_json is None:
            return None
        facts = _read_facts(value.facts_json)
        words = bytes(features["utf8"]).decode()
        first = _CLAUSE_ENDS.split(words)[0]
        from_others = any(first in other for other in value.others)  # nobody knows what such a text claims
        made = frozenset() if from_others else claims(words, facts)
        return Claims([stable_hash(claim) for claim in sorted(made)], _possible(value.facts_json))

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


@functools.lru_cache(maxsize=256)
def _read_facts(facts_json: str) -> CrystalFacts:
    """The facts; a training step asks for those of a text several times."""
    return CrystalFacts.model_validate_json(facts_json)


@functools.lru_cache(maxsize=65_536)
def _possible(facts_json: str) -> tuple[int, ...]:
    """Hashes of everything that may be true of a crystal; each epoch asks for them again."""
    return tuple(stable_hash(claim) for claim in sorted(possible(_read_facts(facts_json))))


def decode(inputs: Inputs) -> list[str]:
    """Decode the texts of a batch, in order."""
    blob, offsets = bytes(inputs["utf8"].cpu().numpy()), inputs["offsets"].tolist()
    return [blob[start:stop].decode() for start, stop in itertools.pairwise(offsets)]
