from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError, InputError
from crystalign.material import Material, Provenance
from crystalign.modalities import NAMES, key_columns, make_modality
from crystalign.modalities.composition import Composition, CompositionModality, parse_formula
from crystalign.modalities.crystal import CrystalModality
from crystalign.modalities.text import Text, TextModality, decode

CRYSTAL, TEXT, COMPOSITION = CrystalModality(), TextModality(), CompositionModality()
SOURCE = Provenance("test", "CC0-1.0")


def test_every_modality_batches_its_stand_in():
    for name in NAMES:
        modality = make_modality(name)
        batch = modality.collate([modality.empty_sample(), modality.empty_sample()])
        assert batch
        assert pa.types.is_struct(modality.column_type())
        assert pa.array([None], modality.column_type()).null_count == 1


def test_a_crystal_survives_its_column_bit_for_bit(known):
    back = CRYSTAL.from_column(pa.array([CRYSTAL.to_column(known)], CRYSTAL.column_type())[0])
    np.testing.assert_array_equal(back.lattice, known.lattice)
    np.testing.assert_array_equal(back.frac_coords, known.frac_coords)
    np.testing.assert_array_equal(back.atomic_numbers, known.atomic_numbers)
    assert back.occupancies is None


def _mixed() -> Crystal:
    sites = (((26, 0.25), (27, 0.5)), ((8, 1.0),))
    return Crystal(4.2 * np.eye(3), np.array([[0] * 3, [0.5] * 3]), np.array([27, 8]), sites)


def test_mixed_sites_survive_and_reach_the_network(textbook):
    mixed = _mixed()
    back = CRYSTAL.from_column(pa.array([CRYSTAL.to_column(mixed)], CRYSTAL.column_type())[0])
    assert back.occupancies == mixed.occupancies
    batch = CRYSTAL.collate([CRYSTAL.featurise(textbook["NaCl"]), CRYSTAL.featurise(mixed)])
    assert batch["species_site"].tolist() == [0, 1, 2, 2, 3]
    assert batch["species_z"].tolist() == [11, 17, 26, 27, 8]
    np.testing.assert_allclose(batch["species_weight"].numpy(), [1, 1, 0.25, 0.5, 1])
    assert "species_z" not in CRYSTAL.collate([CRYSTAL.featurise(textbook["NaCl"])])


def test_a_batch_is_its_crystals_side_by_side(textbook):
    crystals = list(textbook.values())
    batch = CRYSTAL.collate([CRYSTAL.featurise(c) for c in crystals])
    assert batch["n_atoms"].tolist() == [len(c) for c in crystals]
    np.testing.assert_allclose(batch["volume"].numpy(), [c.volume for c in crystals], rtol=1e-6)
    sender, receiver = batch["edge_index"]
    assert (batch["batch"][sender] == batch["batch"][receiver]).all()
    assert batch["x"].tolist() == np.concatenate([c.atomic_numbers for c in crystals]).tolist()
    np.testing.assert_allclose(batch["edge_vector"].norm(dim=1).numpy(), batch["edge_length"].numpy(), rtol=1e-5)
    edges = [CRYSTAL.featurise(c)["edge_length"] for c in crystals]
    np.testing.assert_array_equal(batch["edge_length"].numpy(), np.concatenate(edges))
    assert np.bincount(receiver.numpy()).min() >= 12


def test_a_crystal_of_too_many_sites_is_refused():
    big = Crystal(60.0 * np.eye(3), np.random.default_rng(0).random((501, 3)), np.full(501, 14))
    with pytest.raises(CrystalError, match="501 sites") as caught:
        CrystalModality(CrystalModality.Settings(max_sites=500)).featurise(big)
    assert caught.value.reason == "too-many-sites"


def test_one_atom_needles_and_vacuum_become_graphs():
    shapes = ([3.0, 3.0, 3.0], [2.0, 2.0, 90.0], [40.0, 40.0, 40.0])
    samples = [CRYSTAL.featurise(Crystal(np.diag(s), np.zeros((1, 3)), np.array([26]))) for s in shapes]
    assert [len(s["edge_length"]) > 0 for s in samples] == [True] * 3
    assert samples[2]["edge_length"].tolist() == [40.0] * 6


def test_texts_come_back_from_a_batch():
    texts = ["rock salt, a = 5.64 Å", "α-quartz", "x"]
    batch = TEXT.collate([TEXT.featurise(Text(t)) for t in texts])
    assert decode(batch) == texts
    cell = pa.array([TEXT.to_column(Text("é", generated=True))], TEXT.column_type())[0]
    assert TEXT.from_column(cell) == Text("é", generated=True)


def test_a_long_text_is_cut_between_characters():
    short = TextModality(TextModality.Settings(max_bytes=5))
    assert decode(short.collate([short.featurise("ÅÅÅÅ")])) == ["ÅÅ"]


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_an_empty_text_is_refused(empty):
    with pytest.raises(InputError, match="few words"):
        Text(empty)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("Fe2O3", {8: 0.6, 26: 0.4}),
        ("Ca(OH)2", {1: 0.4, 8: 0.4, 20: 0.2}),
        ("Li0.5CoO2", {3: 1 / 7, 8: 4 / 7, 27: 2 / 7}),
        (" NaCl ", {11: 0.5, 17: 0.5}),
        ("D2O", {1: 2 / 3, 8: 1 / 3}),
        ("CuSO4.5H2O", {1: 10 / 21, 8: 9 / 21, 16: 1 / 21, 29: 1 / 21}),
        ("O2-", {8: 1.0}),
    ],
)
def test_formulas_are_parsed(formula, expected):
    found = parse_formula(formula)
    assert found.atomic_numbers.tolist() == list(expected)
    np.testing.assert_allclose(found.fractions, list(expected.values()))


@pytest.mark.parametrize("wrong", ["", "Xx2O3", "fe2o3", "UO22+", "Fe2O3" * 99, "NaCl; DROP", "()", "12", "F-1", "F0"])
def test_what_is_no_formula_is_refused(wrong):
    with pytest.raises(InputError) as caught:
        parse_formula(wrong)
    assert caught.value.reason in {"bad-formula", "unknown-element", "bad-composition"}


@pytest.mark.parametrize(("z", "x"), [([], []), ([0], [1.0]), ([119], [1.0]), ([8, 8], [0.5, 0.5]), ([8], [np.nan])])
def test_what_is_no_composition_is_refused(z, x):
    with pytest.raises(InputError):
        Composition(np.array(z, int), np.array(x))


def test_compositions_are_padded_and_survive_their_column(textbook):
    values = [Composition.of(textbook[n]) for n in ("Cu", "SrTiO3")]
    batch = COMPOSITION.collate([COMPOSITION.featurise(v) for v in values])
    assert batch["z"].tolist() == [[29, 0, 0], [8, 22, 38]]
    np.testing.assert_allclose(batch["fraction"].numpy(), [[1, 0, 0], [0.6, 0.2, 0.2]], rtol=1e-6)
    back = COMPOSITION.from_column(pa.array([COMPOSITION.to_column(values[1])], COMPOSITION.column_type())[0])
    np.testing.assert_array_equal(back.atomic_numbers, values[1].atomic_numbers)
    np.testing.assert_allclose(back.fractions, values[1].fractions)


def test_each_modality_knows_what_looks_alike(textbook, transform):
    nacl = textbook["NaCl"]
    polymorph = Crystal(3.4 * np.eye(3), np.array([[0] * 3, [0.5] * 3]), np.array([11, 17]))
    one = Material("a", nacl, SOURCE, {"text": Text("Superconducting salt")})
    other = Material("b", polymorph, SOURCE, {"text": Text("Melting of salt")})
    assert COMPOSITION.equivalence(one) == COMPOSITION.equivalence(other)
    assert TEXT.equivalence(one) == TEXT.equivalence(other), "a title does not say which polymorph it means"
    both = Material("d", textbook["CsCl"], SOURCE, {"text": Text("superconducting  Salt")})
    keys = key_columns(TextModality, [one, other, both])
    assert keys[0, 0] == keys[1, 0] != keys[2, 0], "the formula"
    assert keys[0, 1] == keys[2, 1] != keys[1, 1], "one title stands with two compounds"
    captions = ["NaCl is cubic.", "NaCl is cubic.", "NaCl is hexagonal."]
    written = [Material("c", nacl, SOURCE, {"text": Text(words, generated=True)}) for words in captions]
    assert TEXT.equivalence(written[0]) == TEXT.equivalence(written[1]) != TEXT.equivalence(written[2])
    assert CRYSTAL.equivalence(one) != CRYSTAL.equivalence(other)
    big = Material("c", transform(nacl, [[2, 0, 0], [0, 1, 0], [0, 0, 1]]), SOURCE)
    assert COMPOSITION.equivalence(one) == COMPOSITION.equivalence(big)


def test_training_leaves_out_clauses_but_never_all():
    words = "CoO is a binary oxide. It is cubic. The atoms are dense, 9.62 Å³ each. Co is near O; O is near Co."
    clauses = words.replace("; ", "; \n").replace(". ", ". \n").split("\n")
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        text = bytes(TEXT.featurise(words, rng=rng)["utf8"]).decode()
        kept = [clause.strip() in text for clause in clauses]
        assert any(kept)
        assert text == " ".join(c.strip() for c, k in zip(clauses, kept, strict=True) if k)
        seen.add(tuple(kept))
    assert len(seen) > 20
    assert bytes(TEXT.featurise(words)["utf8"]).decode() == words
