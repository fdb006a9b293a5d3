"""What a query asks of a model, and what it is told where the model cannot answer."""

from __future__ import annotations

import pytest

from crystalign.errors import QueryError
from crystalign.modalities import make_modality
from crystalign_serve.queries import parts_of
from crystalign_serve.requests import Query


def reading(*names: str):
    return {name: make_modality(name) for name in names}


def test_words_for_a_model_of_embedded_texts_are_answered_with_what_to_train():
    with pytest.raises(
        QueryError, match=r"does not read text; it reads crystal.*text-multimat.*`pretrained`"
    ) as caught:
        parts_of(Query(text="a perovskite"), reading("crystal", "text_embedding"), "crystal")
    assert caught.value.reason == "missing-modality"


def test_other_missing_modalities_are_named_alone():
    for query, missing in ((Query(text="a perovskite"), "text"), (Query(formula="NaCl"), "composition")):
        names = ("crystal", "xrd") if missing == "text" else ("crystal", "text_embedding")
        with pytest.raises(QueryError) as caught:
            parts_of(query, reading(*names), "crystal")
        assert str(caught.value) == f"this model does not read {missing}; it reads {', '.join(names)}"


def test_a_model_of_both_reads_the_words():
    (part,) = parts_of(Query(text="a perovskite"), reading("text", "text_embedding"), "crystal")
    assert (part.name, part.modality) == ("text", "text")
