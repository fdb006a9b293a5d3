"""Files of densities of states: every reading case, VASP, Quantum ESPRESSO, and columns that can mean two things."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from crystalign.errors import InputError
from crystalign.modalities.dos import DensityOfStates, DosModality, parse_dos

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
E = np.round(np.linspace(-12.0, 8.0, 801), 4)
UP = 2.0 * np.exp(-((E + 4) ** 2)) + np.exp(-((E - 3) ** 2))
DOWN = 1.5 * np.exp(-((E + 3.5) ** 2)) + np.exp(-((E - 4) ** 2))
STEP = E[1] - E[0]


def _rows() -> list[dict[str, str]]:
    table = DATA / "reading_cases" / "expected.csv"
    rows = csv.DictReader(table.read_text().splitlines()) if table.is_file() else []
    return [row for row in rows if row["kind"] == "dos" or "vasprun" in row["path"]]


def _text(*columns: np.ndarray, header: str = "") -> bytes:
    rows = "\n".join(" ".join(f"{v:.8E}" for v in row) for row in zip(*columns, strict=True))
    return (header + rows + "\n").encode()


def _check_refused(data: bytes, reason: str, name: str = "dos.dat") -> str:
    with pytest.raises(InputError) as caught:
        parse_dos(data, name=name)
    assert caught.value.reason == reason, str(caught.value)
    return str(caught.value)


def _states(value: DensityOfStates) -> float:
    return float(np.trapezoid(value.densities.sum(axis=0), value.energies))


def _gap(value: DensityOfStates) -> float:
    """Width of the run of zeros around the Fermi level."""
    empty = value.densities.sum(axis=0) < 1e-9
    at = int(np.searchsorted(value.energies, 0.0))
    first = next((at + shift for shift in (0, -1, 1) if empty[at + shift]), None)
    if first is None:
        return 0.0
    low = high = first
    while low > 0 and empty[low - 1]:
        low -= 1
    while high < len(empty) - 1 and empty[high + 1]:
        high += 1
    return float(value.energies[high] - value.energies[low])


@pytest.mark.skipif(not _rows(), reason="no reading cases in ../shared/data")
@pytest.mark.parametrize("row", _rows(), ids=lambda row: row["path"])
def test_a_reading_case_is_read_right_or_refused(row):
    path = DATA / "reading_cases" / row["path"]
    if path.parent.name in {"efermi_stars", "empty", "truncated"}:
        with pytest.raises(InputError) as caught:
            parse_dos(path)
        assert "attribute" not in str(caught.value)
        return
    value = parse_dos(path)
    assert row["integral_states"], "a density that is cut was read"
    assert _states(value) == pytest.approx(float(row["integral_states"]), rel=0.02)
    assert _gap(value) == pytest.approx(float(row["gap_eV"]), abs=2.1 * float(np.diff(value.energies).mean()))


@pytest.mark.skipif(not _rows(), reason="no reading cases in ../shared/data")
@pytest.mark.parametrize("run", ["plain", "spin", "metal", "narrow"])
def test_a_run_is_read_as_pymatgen_reads_it(run):
    import warnings

    from pymatgen.io.vasp.outputs import Vasprun

    path = DATA / "reading_cases" / "10-vasprun" / run / "vasprun.xml"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = Vasprun(str(path), parse_potcar_file=False, parse_eigen=False)
    value = parse_dos(path)
    np.testing.assert_allclose(value.energies, other.tdos.energies - other.efermi)
    np.testing.assert_allclose(value.densities, np.array(list(other.tdos.densities.values())))
    assert (value.efermi, value.n_atoms) == (other.efermi, len(other.final_structure))


# --- a third column ---------------------------------------------------------------------------------------------------


def _trapezium(density: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(0.5 * STEP * (density[1:] + density[:-1]))])


@pytest.mark.parametrize("integral", [np.cumsum(UP) * STEP, _trapezium(UP), 7.5 + _trapezium(UP)])
def test_a_third_column_that_is_the_integral_is_left_out_and_said_so(integral):
    value = parse_dos(_text(E, UP, integral), name="dos.dat")
    assert value.densities.shape == (1, 801)
    assert any("integral" in notice for notice in value.notices)


@pytest.mark.parametrize("down", [DOWN, -DOWN])
def test_a_third_column_that_is_the_other_spin_is_kept_upright(down):
    value = parse_dos(_text(E, UP, down), name="dos.dat")
    np.testing.assert_allclose(value.densities, [UP, DOWN], atol=1e-7)
    assert any("other spin" in notice for notice in value.notices)
    assert value.standardised().notices == value.notices


def test_a_third_column_that_only_rises_is_asked_about_unless_it_is_named():
    rising = 3.0 * (E - E[0]) ** 2
    assert "name it" in _check_refused(_text(E, UP, rising), "columns-ambiguous")
    assert parse_dos(_text(E, UP, rising, header="# E up down\n"), name="a.dat").densities.shape == (2, 801)
    assert parse_dos(_text(E, UP, rising, header="# E dos int_dos\n"), name="a.dat").densities.shape == (1, 801)


def test_a_projection_is_not_taken_for_a_spin():
    value = parse_dos(_text(E, UP, 0.3 * UP, header="# E-Ef tdos pdos\n"), name="a.dat")
    np.testing.assert_allclose(value.densities, [UP], atol=1e-7)


def test_four_columns_are_told_apart_by_their_sums():
    both = UP + DOWN
    for columns in ((UP, DOWN, np.cumsum(both) * STEP), (UP, -DOWN, np.cumsum(both) * STEP), (both, UP, DOWN)):
        value = parse_dos(_text(E, *columns), name="dos.dat")
        np.testing.assert_allclose(value.densities, [UP, DOWN], atol=1e-7)
    _check_refused(_text(E, UP, DOWN, UP * DOWN), "columns-ambiguous")
    named = parse_dos(_text(E, UP * 0.1, UP * 0.9, UP, header="energy s p total\n"), name="dos.dat")
    np.testing.assert_allclose(named.densities, [UP], atol=1e-7)


@pytest.mark.parametrize(
    "names",
    [
        "Energy Ti O",
        "Energy s p",
        "Energy O-2p Ti-3d",
        "Energy Fe1 Fe2",
        "E up int",
        "E Ti_up Ti_down",
        "E Ti DOS",
        "E total total",
        "E pdos_s pdos_p",
    ],
)
def test_two_parts_are_never_two_spins(names):
    _check_refused(_text(E, 0.3 * UP, 0.7 * UP, header=f"# {names}\n"), "columns-ambiguous")


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        ("E pdos tdos", (0.3 * UP, UP)),
        ("E s total", (0.3 * UP, UP)),
        ("E DOS err", (UP, 0.1 * UP)),
        ("E DOS smoothed", (UP, 0.9 * UP)),
        ("E DOS DOS/atom", (UP, 0.25 * UP)),
        ("E total Ti O", (UP, 0.3 * UP, 0.7 * UP)),
        ("E total s p d", (UP, 0.3 * UP, 0.3 * UP, 0.4 * UP)),
        ("E IDOS DOS", (np.cumsum(UP) * STEP, UP)),
    ],
)
def test_the_total_is_read_by_its_name(names, columns):
    value = parse_dos(_text(E, *columns, header=f"# {names}\n"), name="a.dat")
    np.testing.assert_allclose(value.densities, [UP], atol=1e-7)
    assert any("left out" in notice for notice in value.notices)


@pytest.mark.parametrize("names", ["E up down", "E dos_up dos_down", "E DOS down", "E dos1 dos2", "Rutile TiO2 DOS"])
def test_spins_are_read_by_their_names_or_where_none_speaks_against_it(names):
    value = parse_dos(_text(E, UP, DOWN, header=f"# {names}\n"), name="a.dat")
    np.testing.assert_allclose(value.densities, [UP, DOWN], atol=1e-7)


def test_a_lone_spin_and_a_table_without_energies_first_are_refused():
    _check_refused(_text(E, UP, header="# E dos_up\n"), "columns-ambiguous")
    _check_refused(_text(UP, E, header="# DOS Energy\n"), "columns-ambiguous")
    _check_refused(_text(np.arange(len(E)), E, UP), "columns-ambiguous")


# --- where zero is ----------------------------------------------------------------------------------------------------

QE = "#  E (eV)   dos(E)     Int dos(E) EFermi =    {:.3f} eV\n"


def test_the_fermi_level_of_a_header_is_subtracted_once():
    absolute = _text(E + 5.3, UP, np.cumsum(UP) * STEP, header=QE.format(5.3))
    np.testing.assert_allclose(parse_dos(absolute, name="dos.dat").energies, E, atol=1e-7)
    relative = _text(E, UP, header="# E-E_F (eV), DOS; E_Fermi = 5.3 eV\n")
    value = parse_dos(relative, name="dos.dat")
    np.testing.assert_allclose(value.energies, E, atol=1e-7)
    assert any("nothing was subtracted" in notice for notice in value.notices)


def test_absolute_energies_without_a_fermi_level_are_refused():
    header = "# E (eV)  dos(E)    pdos(E)\n"
    assert "efermi" in _check_refused(_text(E + 5, UP, UP * 0.5, header=header), "no-fermi-level")
    vacuum = "# The energy reference for this output is the vacuum level\n"
    _check_refused(_text(E, UP, header=vacuum), "no-fermi-level")
    relative = vacuum.replace("vacuum level", "Fermi level, mu = -5.6 eV")
    np.testing.assert_allclose(parse_dos(_text(E, UP, header=relative), name="a.dat").energies, E, atol=1e-7)


@pytest.mark.parametrize("unit", ["Energy (Ha)", "E (Ry)", "Energy [a.u.]"])
def test_energies_in_other_units_are_refused(unit):
    _check_refused(_text(E, UP, header=f"# {unit}  DOS\n"), "bad-unit")


@pytest.mark.parametrize(
    "header",
    [
        "Energy_Ha DOS",
        "Energy, Hartree ; DOS",
        "wavenumber cm-1 DOS",
        "Energies in Hartree",
        "E/Ry dos",
        "Frequency (THz) dos",
        "Fermi energy: 0.1911 Ha",
        "Fermi energy: 0.3821 Ry",
        "efermi = 382.1 meV",
        "E_F(Ha) = 0.19",
        "Energy (eV) dos; Fermi energy 3.1 THz",
    ],
)
def test_units_that_are_not_ev_are_refused_wherever_they_stand(header):
    _check_refused(_text(E, UP, header=f"# {header}\n"), "bad-unit")


@pytest.mark.parametrize(
    "header",
    [
        "E_Fermi 5.2",
        "Fermi level at 5.2 eV",
        "Fermi energy (eV) 5.2",
        "Fermi energy is 5.2 eV.",
        "EF 5.2 eV",
        "efermi/eV = 5.2",
        "$E_{F}$ = 5.2",
        "Energy (eV) DOS; efermi = 5200 meV",
        "Energy (eV) DOS; Fermi energy: 0.19109648 Ha",
        "Efermi=+0.5200E+01eV",
    ],
)
def test_a_fermi_level_is_seen_however_it_is_written(header):
    value = parse_dos(_text(E + 5.2, UP, header=f"# {header}\n"), name="a.dat")
    np.testing.assert_allclose(value.energies, E, atol=1e-5)
    assert any("stated Fermi level, 5.2 eV" in notice for notice in value.notices)


@pytest.mark.parametrize(
    ("header", "zero"),
    [
        ("relative to VBM, efermi = 5.2", "vbm"),
        ("E - E_VBM (eV)  DOS; efermi = 5.2", "vbm"),
        ("energies relative to the valence band maximum", "vbm"),
        ("zero = vbm, efermi = 5.2", "vbm"),
        ("Fermi level set to 0 eV", "fermi"),
        ("energy_relative_to_fermi dos", "fermi"),
        ("Fermi-Dirac smearing 0.1 eV", "fermi"),
        ("", "fermi"),
    ],
)
def test_nothing_is_subtracted_from_energies_with_a_zero_and_it_is_said(header, zero):
    value = parse_dos(_text(E, UP, header=f"# {header}\n"), name="a.dat")
    np.testing.assert_allclose(value.energies, E, atol=1e-7)
    assert value.zero == zero
    assert any("energies" in notice and "counted from" in notice for notice in value.notices)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("energy relative to CBM", "no-fermi-level"),
        ("VBM = 4.2 eV", "no-fermi-level"),
        ("Fermi level, as found by bisection, 5.2", "no-fermi-level"),
        ("zero = fermi, efermi = 5.2", "bad-header"),
        ("E-fermi = 5.2, E_F = 7.0", "bad-header"),
        ("efermi = unknown", "bad-header"),
        ("relative to VBM, zero = fermi", "bad-header"),
    ],
)
def test_a_zero_that_is_unclear_is_refused(header, reason):
    _check_refused(_text(E, UP, header=f"# {header}\n"), reason)


def test_hostile_headers_of_a_density_do_not_take_long():
    import time

    start = time.perf_counter()
    for line in ("e" * 1000, "fermi " * 160, "e-" * 500, "zero is set " * 80, "fermi level" + "_" * 900):
        data = _text(E, UP, header=f"# {line}\n" * 45)
        assert len(parse_dos(data, name="a.dat").energies) == len(E)
    _check_refused(_text(E, UP, header=f"# {'e' * 1000}\n" * 150), "bad-header")
    assert time.perf_counter() - start < 6


def test_falling_energies_are_turned_round_with_a_notice():
    value = parse_dos(_text(E[::-1], UP[::-1]), name="dos.dat")
    np.testing.assert_allclose(value.densities, [UP], atol=1e-7)
    assert any("turned round" in notice for notice in value.notices)


def test_a_word_for_the_fermi_level_may_hold_a_minus_sign():
    value = parse_dos(_text(E + 5.0, UP, header="# E-fermi :   5.0\n"), name="dos.dat")
    np.testing.assert_allclose(value.energies, E, atol=1e-6)


def test_densities_of_other_units_and_columns_that_are_no_spin_are_not_mixed_in():
    _check_refused(_text(E, UP, header="E (eV)  DOS (states/Ry)\n"), "bad-unit")
    _check_refused(
        _text(E, UP, 0.5 * UP, header="# BAND  EF= 0.50 NENRG= 10\n# ENERGY total-DOS 1:total\n"), "bad-unit"
    )
    value = parse_dos(_text(E, UP, 0.4 * UP, header="energy total Fe\n"), name="dos.dat")
    np.testing.assert_allclose(value.densities, [UP], atol=1e-7)


# --- VASP -------------------------------------------------------------------------------------------------------------


def _doscar(*spins: np.ndarray, efermi: str = "  5.30000000", points: int = 801) -> bytes:
    head = "   4   4   1   0\n 1.0E+01 5E-10 5E-10 5E-10 0.5E-15\n  1.0E-04\n  CAR\n NaCl\n"
    head += f"{20.0:16.8f}{-12.0:16.8f}{points:5d}"
    integrals = [np.cumsum(s) * STEP for s in spins]
    total = _text(E + 5.3, *spins, *integrals)
    projected = _text(E + 5.3, *[0.1 * UP] * 9)
    return f"{head}{efermi}      1.00000000\n".encode() + total + b"   20.0 -12.0  801 5.3 1.0\n" + projected


@pytest.mark.parametrize("spins", [(UP,), (UP, DOWN)])
def test_the_total_block_of_a_doscar_is_read(spins):
    value = parse_dos(_doscar(*spins), name="DOSCAR")
    np.testing.assert_allclose(value.densities, spins, atol=1e-7)
    np.testing.assert_allclose(value.energies, E, atol=1e-7)
    assert (value.n_atoms, value.efermi) == (4, 5.3)


def test_a_doscar_that_is_cut_or_has_no_fermi_level_is_refused():
    _check_refused(_doscar(UP)[:9000], "truncated", "DOSCAR")
    _check_refused(_doscar(UP, efermi="  ********"), "no-fermi-level", "DOSCAR")


def _vasprun(sets: int = 1, efermi: str = "2.0", change=lambda row, _: row, atoms: str = "<atoms> 2 </atoms>") -> bytes:
    integral = np.cumsum(UP) * STEP
    rows = [f"{e:.4f} {d:.6f} {i:.6f}" for e, d, i in zip(E + 2, UP, integral, strict=True)]
    body = ""
    for number in range(sets):
        lines = "".join(f"<r> {change(row, at)} </r>" for at, row in enumerate(rows))
        body += f'<set comment="spin {number + 1}">{lines}</set>'
    level = f'<i name="efermi">{efermi}</i>' if efermi else ""
    projected = "<partial><array><set><set><set comment='spin 1'><r> 1 1 1 </r></set></set></set></array></partial>"
    dos = f"<dos>{level}<total><array><set>{body}</set></array></total>{projected}</dos>" if sets else ""
    return f"<modeling><atominfo>{atoms}</atominfo><calculation>{dos}</calculation></modeling>".encode()


def test_the_last_density_of_a_run_counts():
    first = _vasprun(change=lambda row, _: row.replace("0.", "9."))
    last = _vasprun().replace(b"<modeling>", b"").replace(b"<atominfo><atoms> 2 </atoms></atominfo>", b"")
    value = parse_dos(first.replace(b"</modeling>", b"") + last, name="vasprun.xml")
    np.testing.assert_allclose(value.densities, [UP], atol=1e-6)


@pytest.mark.parametrize(("sets", "channels"), [(1, 1), (2, 2), (4, 1)])
def test_a_run_has_one_or_two_spins_and_magnetisation_is_none(sets, channels):
    value = parse_dos(_vasprun(sets), name="vasprun.xml")
    assert value.densities.shape == (channels, 801)
    assert bool(value.notices) == (sets == 4)


def test_stars_are_replaced_by_the_slope_of_the_integral_and_reported():
    def stars(row: str, at: int) -> str:
        energy, _, integral = row.split()
        return f"{energy} ******** {integral}" if at == 320 else row

    value = parse_dos(_vasprun(change=stars), name="vasprun.xml")
    np.testing.assert_allclose(value.densities, [UP], atol=1e-4)
    assert any("stars" in notice for notice in value.notices)
    _check_refused(
        _vasprun(change=lambda row, at: stars(row, at).replace(row.split()[2], "*" * 8)), "overflow", "vasprun.xml"
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_vasprun(0), "no-dos"),
        (_vasprun(efermi=""), "no-fermi-level"),
        (_vasprun(efermi="********"), "no-fermi-level"),
        (_vasprun()[:-500], "unreadable-vasprun"),
        (_vasprun(3), "unreadable-vasprun"),
        (_vasprun(atoms=""), "unreadable-vasprun"),
        (b"<?xml version='1.0'?><svg></svg>", "unreadable-vasprun"),
        (b"", "unreadable-vasprun"),
    ],
)
def test_a_run_without_a_usable_density_says_why(data, reason):
    assert "attribute" not in _check_refused(data, reason, "vasprun.xml")


def test_a_density_that_ends_near_the_fermi_level_is_refused_as_a_query():
    value = parse_dos(_text(E[400:600], UP[400:600]), name="dos.dat")
    with pytest.raises(InputError) as caught:
        DosModality().featurise(value)
    assert caught.value.reason == "window-not-covered"
