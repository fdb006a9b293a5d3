from __future__ import annotations

import numpy as np

from crystalign.crystal import Crystal
from crystalign.evaluation.masked_text import masked_texts
from crystalign.evaluation.retrieval import retrieve
from crystalign.material import Material, Provenance
from crystalign.modalities.text import Text


def material(name: str, numbers: list[int], text: str | None, *, generated: bool = False, group: str | None = None):
    places = np.linspace(0, 0.8, len(numbers))[:, None] * np.ones(3)
    crystal = Crystal((4 + len(name)) * np.eye(3), places, np.array(numbers))
    modalities = {} if text is None else {"text": Text(text, generated=generated)}
    return Material(name, crystal, Provenance("test", "CC0-1.0"), modalities, structure_group=group)


def alike(materials) -> list[list[bool]]:
    _, keys = masked_texts(materials)["numbers"]
    return (keys[:, None] == keys[None]).any(-1).tolist()


def test_texts_of_which_the_same_is_left_cannot_be_told_apart():
    pool = [
        material("a", [12, 8], "Specific heat of MgO"),
        material("b", [22, 8, 8], "Specific  heat of TiO₂"),
        material("c", [22, 8, 8], "Phonons of TiO2 at high pressure"),
        material("d", [11, 17], "Phonons of NaCl at low pressure"),
    ]
    assert alike(pool)[0] == [True, True, False, False]
    assert alike(pool)[3] == [False, False, False, True]


def test_polymorphs_of_a_title_stay_alike_though_their_words_differ():
    pool = [
        material("rutile", [22, 8, 8], "Growth of TiO2 by sputtering"),
        material("anatase", [22, 8, 8], "Raman modes of TiO2"),
        material("salt", [11, 17], "Colour centres of NaCl"),
    ]
    assert alike(pool) == [[True, True, False], [True, True, False], [False, False, True]]


def test_polymorphs_of_captions_are_told_apart_by_the_words_that_are_left():
    words = "TiO2 is an oxide. Ti is bonded to 6 O (octahedral, {} Å)."
    pool = [
        material("a", [22, 8, 8], words.format("1.96"), generated=True),
        material("b", [22, 8, 8], words.format("1.90"), generated=True),
    ]
    assert alike(pool) == [[True, False], [False, True]]


def test_without_numbers_these_polymorphs_are_alike():
    words = "TiO2 is an oxide. Ti is bonded to 6 O (octahedral, {} Å)."
    pool = [
        material("a", [22, 8, 8], words.format("1.96"), generated=True),
        material("b", [22, 8, 8], words.format("1.90"), generated=True),
    ]
    (first, second), keys = masked_texts(pool)["masked"]
    assert first is not None
    assert first == second
    assert first.description.endswith("[element] is bonded to 6 [element] (octahedral, [number] Å).")
    assert (keys[0] == keys[1]).any()


def test_captions_of_two_compounds_with_the_same_shell_are_alike_when_masked():
    pool = [
        material("a", [11, 17], "NaCl is a chloride. Na is bonded to 6 Cl (octahedral, 2.82 Å).", generated=True),
        material("b", [12, 8], "MgO is an oxide. Mg is bonded to 6 O (octahedral, 2.82 Å).", generated=True),
    ]
    masked, _ = masked_texts(pool)["numbers"]
    assert masked[0] is not None
    assert masked[0].description.startswith("[formula] is a [class].")
    assert not alike(pool)[0][1]  # `a` and `an` differ


def test_one_structure_under_two_titles_is_alike_and_what_has_no_text_has_zeros():
    pool = [
        material("a", [11, 17], "Colour centres of NaCl", group="salt"),
        material("b", [11, 17, 17], "Growth of NaCl2", group="salt"),
        material("c", [11, 17], None),
    ]
    assert alike(pool)[0][1]
    masked, keys = masked_texts(pool)["masked"]
    assert masked[2] is None
    assert keys.shape == (3, 4)
    assert not keys[2].any()


def test_a_masked_query_is_not_judged_against_a_polymorph_that_it_may_mean():
    pool = [
        material("rutile", [22, 8, 8], "Growth of TiO2 by sputtering"),
        material("anatase", [22, 8, 8], "Raman modes of TiO2"),
        material("salt", [11, 17], "Colour centres of NaCl"),
    ]
    _, keys = masked_texts(pool)["numbers"]
    scores = np.array([[0.5, 0.9, 0.1], [0.9, 0.5, 0.1], [0.1, 0.1, 0.9]], np.float32)
    outcome = retrieve(lambda rows: scores[rows], [keys], np.arange(3))
    assert outcome.hits(1).tolist() == [1, 1, 1]
