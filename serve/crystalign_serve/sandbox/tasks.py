"""Tasks of a sandbox process: parse a file, and answer with arrays or with an error."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from crystalign.errors import InputError
from crystalign.modalities import Features, Modality, make_modality
from crystalign_serve.curves import curve_of
from crystalign_serve.files import Upload, content_of, read_crystal, read_file, require
from crystalign_serve.query_fields import carried_of, spec_of, tables
from crystalign_serve.sandbox.wire import Message

MAX_NAME = 500
"""Characters of a file name that are passed on; the last ones are kept, because they hold the suffix."""
MAX_ERROR_CHARS = 4000
"""Length of an error message or a traceback."""
MAX_NOTICES = 20
"""Number of notices or remarks."""
MAX_FIELD_CHARS = 500
"""Length of any other text."""

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
    """The request to parse a file into a query part, for a model with these modalities."""
    settings = {name: modality.settings.model_dump(mode="json") for name, modality in modalities.items()}
    return _request("part", upload, modalities=settings)


def ask_crystal(upload: Upload) -> Message:
    """The request to parse a file into a crystal."""
    return _request("crystal", upload)


def _request(task: str, upload: Upload, **more: Any) -> Message:
    fields = {"task": task, "name": upload.name[-MAX_NAME:], "kind": upload.kind, "wavelength": upload.wavelength}
    return Message({**fields, **more}, {"data": np.frombuffer(upload.data, np.uint8)})


# --- in the process ---------------------------------------------------------------------------------------------------


def run(request: Message) -> Message:
    """Answer a request with a result, an error of the user, or a fault of the parser.

    Raises:
        MemoryError: the memory limit was reached.
    """
    fields = request.fields
    upload = Upload(fields["name"], request.arrays["data"].tobytes(), fields["kind"], fields["wavelength"])
    try:
        return _crystal(upload) if fields["task"] == "crystal" else _part(upload, fields["modalities"])
    except MemoryError:
        raise
    except InputError as error:
        kind = type(error).__name__
        return Message(
            {"refused": kind, "message": str(error)[:MAX_ERROR_CHARS], "reason": str(error.reason)[:MAX_FIELD_CHARS]}
        )
    except Exception as error:  # noqa: BLE001 (parsers raise any exception on a damaged file)
        fault = f"{type(error).__name__}: {error}"[:MAX_FIELD_CHARS]
        return Message({"fault": fault, "trace": traceback.format_exc()[-MAX_ERROR_CHARS:]})


def _crystal(upload: Upload) -> Message:
    crystal, remarks, _ = read_crystal(upload)
    arrays: Features = {
        "lattice": crystal.lattice,
        "frac_coords": crystal.frac_coords,
        "numbers": crystal.atomic_numbers,
    }
    sites = None if crystal.occupancies is None else [[[z, x] for z, x in site] for site in crystal.occupancies]
    short_remarks = [remark[:MAX_FIELD_CHARS] for remark in remarks[:MAX_NOTICES]]
    return Message({"occupancies": sites, "remarks": short_remarks}, arrays)


def _part(upload: Upload, settings: Mapping[str, dict[str, Any]]) -> Message:
    name, modality = content_of(upload)
    require(modality, settings)
    content = read_file(upload)
    features = make_modality(modality, settings[modality]).featurise(content.value)
    curve, fields = curve_of(modality, content.value), {"name": name, "modality": modality}
    arrays: Features = {FEATURES + key: array for key, array in features.items()}
    more: dict[str, Any] = {"notices": [notice[:MAX_FIELD_CHARS] for notice in content.notices[:MAX_NOTICES]]}
    if curve is not None:
        more["curve"] = {key: getattr(curve, key) for key in ("kind", "x_label", "y_label")}
        arrays |= {CURVE + axis: np.array(getattr(curve, axis), np.float64) for axis in ("x", "y")}
    carried, more["numbers"] = carried_of(spec_of(modality), content.value)
    arrays |= {VALUE + name: item for name, item in carried.items()}
    return Message({**fields, **more}, arrays)


def warm_up() -> None:
    """Import the parsers and fill their caches, once for all child processes."""
    from pymatgen.io.vasp import outputs  # needed for vasprun.xml

    assert outputs
    spectrum = "".join(f"{number / 10 - 12} {number % 97 + 1}\n" for number in range(240))
    pattern = "".join(f"{10 + number / 10} {number % 97 + 1}\n" for number in range(800))
    poscar = "CsCl\n1.0\n4 0 0\n0 4 0\n0 0 4\nCs Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"
    rehearse()
    _part(Upload("POSCAR", poscar.encode(), "auto", None), {"crystal": {}})
    for kind, (modality, _, files) in tables().items():
        text = spectrum if files.negative_x else pattern
        with contextlib.suppress(InputError):  # tables of other packages may not have two columns
            _part(Upload("a.dat", text.encode(), kind, "CuKa"), {modality: {}})


def rehearse() -> None:
    """Parse a small CIF, which touches the memory pages that parsing needs."""
    _part(Upload("a.cif", _SMALL.encode(), "cif", None), {"crystal": {}})
