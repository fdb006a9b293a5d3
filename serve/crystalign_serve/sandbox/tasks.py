"""What a process of the sandbox may be asked: a file and how to read it. Its answer is numbers, or what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from crystalign.errors import InputError
from crystalign.modalities import Features, Modality, make_modality
from crystalign_serve.curves import curve_of
from crystalign_serve.files import Upload, content_of, read_crystal, read_file, require
from crystalign_serve.query_fields import spec_of, tables
from crystalign_serve.sandbox.wire import Message

MAX_NAME = 500
"""Characters of a file's name that matter: the last ones hold its ending."""
MAX_TOLD = 4000
MAX_NOTICES = 20
MAX_WORDS = 500

FEATURES, CURVE, VALUE = "features.", "curve.", "value."

_SMALL = """data_CsCl
_symmetry_space_group_name_H-M 'P m -3 m'
_symmetry_Int_Tables_number 221
_cell_length_a 4.12
_cell_length_b 4.12
_cell_length_c 4.12
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_chemical_formula_sum 'Cs Cl'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cs1 Cs 0 0 0 1
Cl1 Cl 0.5 0.5 0.5 1
"""


# --- the request ------------------------------------------------------------------------------------------------------


def ask_part(upload: Upload, modalities: Mapping[str, Modality[Any]]) -> Message:
    """The question what a file is as part of a query to a model that reads these modalities."""
    settings = {name: modality.settings.model_dump(mode="json") for name, modality in modalities.items()}
    return _asked("part", upload, modalities=settings)


def ask_crystal(upload: Upload) -> Message:
    """The question which crystal a file holds."""
    return _asked("crystal", upload)


def _asked(task: str, upload: Upload, **more: Any) -> Message:
    fields = {"task": task, "name": upload.name[-MAX_NAME:], "kind": upload.kind, "wavelength": upload.wavelength}
    return Message({**fields, **more}, {"data": np.frombuffer(upload.data, np.uint8)})


# --- in the process ---------------------------------------------------------------------------------------------------


def run(request: Message) -> Message:
    """The answer to a request: a result, a mistake of the user's, or a fault of a reader.

    Raises:
        MemoryError: the limit was reached.
    """
    fields = request.fields
    upload = Upload(fields["name"], request.arrays["data"].tobytes(), fields["kind"], fields["wavelength"])
    try:
        return _crystal(upload) if fields["task"] == "crystal" else _part(upload, fields["modalities"])
    except MemoryError:
        raise
    except InputError as error:
        kind = type(error).__name__
        return Message({"refused": kind, "message": str(error)[:MAX_TOLD], "reason": str(error.reason)[:MAX_WORDS]})
    except Exception as error:  # noqa: BLE001 (readers raise whatever they met: the file's fault until shown otherwise)
        told = f"{type(error).__name__}: {error}"[:MAX_WORDS]
        return Message({"fault": told, "trace": traceback.format_exc()[-MAX_TOLD:]})


def _crystal(upload: Upload) -> Message:
    crystal, remarks, _ = read_crystal(upload)
    arrays: Features = {
        "lattice": crystal.lattice,
        "frac_coords": crystal.frac_coords,
        "numbers": crystal.atomic_numbers,
    }
    sites = None if crystal.occupancies is None else [[[z, x] for z, x in site] for site in crystal.occupancies]
    told = [remark[:MAX_WORDS] for remark in remarks[:MAX_NOTICES]]
    return Message({"occupancies": sites, "remarks": told}, arrays)


def _part(upload: Upload, settings: Mapping[str, dict[str, Any]]) -> Message:
    name, modality = content_of(upload)
    require(modality, settings)
    content = read_file(upload)
    features = make_modality(modality, settings[modality]).featurise(content.value)
    curve, fields = curve_of(modality, content.value), {"name": name, "modality": modality}
    arrays: Features = {FEATURES + key: array for key, array in features.items()}
    more: dict[str, Any] = {"notices": [notice[:MAX_WORDS] for notice in content.notices[:MAX_NOTICES]]}
    if curve is not None:
        more["curve"] = {key: getattr(curve, key) for key in ("kind", "x_label", "y_label")}
        arrays |= {CURVE + axis: np.array(getattr(curve, axis), np.float64) for axis in ("x", "y")}
    spec = spec_of(modality)
    if spec is not None and spec.carried is not None:
        held = {field.name: getattr(content.value, field.name) for field in dataclasses.fields(spec.carried)}
        arrays |= {VALUE + name: item for name, item in held.items() if isinstance(item, np.ndarray)}
        more["numbers"] = {name: float(item) for name, item in held.items() if isinstance(item, int | float)}
    return Message({**fields, **more}, arrays)


def warm_up() -> None:
    """Import what readers need and make what they keep, once for all processes."""
    from pymatgen.io.vasp import outputs  # a vasprun.xml may come

    assert outputs
    spectrum = "".join(f"{number / 10 - 12} {number % 97 + 1}\n" for number in range(240))
    pattern = "".join(f"{10 + number / 10} {number % 97 + 1}\n" for number in range(800))
    poscar = "CsCl\n1.0\n4 0 0\n0 4 0\n0 0 4\nCs Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"
    rehearse()
    _part(Upload("POSCAR", poscar.encode(), "auto", None), {"crystal": {}})
    for kind, (modality, _, files) in tables().items():
        text = spectrum if files.negative_x else pattern
        with contextlib.suppress(InputError):  # not every table that another package reads has two columns
            _part(Upload("a.dat", text.encode(), kind, "CuKa"), {modality: {}})


def rehearse() -> None:
    """Read a small CIF."""
    _part(Upload("a.cif", _SMALL.encode(), "cif", None), {"crystal": {}})
