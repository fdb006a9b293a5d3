"""What a query asks of a model, and what it is told where the model cannot answer."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.errors import FileFormatError, QueryError
from crystalign.modalities import make_modality
from crystalign.modalities.xrd import MeasuredPattern
from crystalign_serve.curves import MAX_DRAWN, curve_of
from crystalign_serve.queries import parts_of, structures_of, text_file
from crystalign_serve.requests import query_model

Query = query_model()


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


def test_structures_are_left_to_the_sandbox_in_their_order():
    query = Query(poscar="x", text="a salt", cif="data_é")
    assert [part.name for part in parts_of(query, reading("crystal", "text"), "crystal")] == ["text"]
    sent = structures_of(query)
    assert {name: (upload.kind, upload.data) for name, upload in sent.items()} == {
        "cif": ("cif", "data_é".encode()),
        "poscar": ("poscar", b"x"),
    }


def test_half_a_character_is_refused_with_its_place():
    with pytest.raises(FileFormatError, match="lone surrogate at position 3"):
        text_file("cif", "ab\n\ud800")


def test_a_long_curve_is_drawn_with_every_peak():
    angles = np.linspace(5, 120, 300_000)
    counts = np.full(len(angles), 7.0)
    peaks = np.array([3, 40_001, 150_000, 299_990])
    counts[peaks] = [100.0, 200.0, 300.0, 400.0]
    curve = curve_of("xrd", MeasuredPattern(angles, counts, 1.5406))
    assert len(curve.x) == len(curve.y) <= MAX_DRAWN
    assert np.all(np.diff(curve.x) > 0)
    drawn = dict(zip(curve.x, curve.y, strict=True))
    assert [drawn[float(f"{angles[p]:.6g}")] for p in peaks] == [0.25, 0.5, 0.75, 1.0]
    short = curve_of("xrd", MeasuredPattern(angles[:3000], counts[:3000], 1.5406))
    assert len(short.x) == 3000
