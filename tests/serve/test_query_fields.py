"""What the modalities declare about searches holds together, and no other place says it again."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from crystalign.modalities import NAMES, modality_class, query_specs
from crystalign.modalities.query import resolved
from crystalign_serve.query_fields import described, file_kinds, flags, request_fields
from crystalign_serve.requests import query_model, request_model

SERVICE = Path(__file__).resolve().parents[2] / "serve" / "crystalign_serve"


@pytest.mark.parametrize("modality", [name for name in NAMES if modality_class(name).query is not None])
def test_what_a_declaration_names_can_be_imported(modality):
    spec = modality_class(modality).query
    named = [spec.matcher, None if spec.files is None else spec.files.parse]
    assert all(callable(resolved(target)) for target in named if target is not None)
    for clue in () if spec.files is None else spec.files.clues:
        assert re.compile(clue.pattern)


def test_names_of_a_request_stand_in_the_order_of_earlier_releases():
    assert list(query_model().model_fields) == ["text", "formula", "composition", "id", "cif", "poscar", "dos", "xrd"]
    assert list(file_kinds()) == ["cif", "poscar", "dos", "xrd"]
    assert set(flags()) == {"cif", "dos", "xrd", "text", "formula"}


def test_every_name_of_a_request_leads_to_its_modality():
    owners = {name: part.modality for name, part in request_fields().items()}
    expected = {"text": "text", "formula": "composition", "composition": "composition", "cif": "crystal"}
    assert owners == expected | {"poscar": "crystal", "dos": "dos", "xrd": "xrd"}


def test_an_empty_request_is_refused_with_the_names():
    with pytest.raises(ValidationError, match="at least one of text, formula, composition, id, cif, poscar, dos, xrd"):
        request_model().model_validate({"query": {}})


def test_what_cannot_be_asked_is_described_as_such():
    assert described("image") is None
    assert described("xrd")["files"]["takes_wavelength"] is True


def test_no_module_of_the_service_names_a_spectrum():
    named = [
        f"{path.name}:{node.lineno}"
        for path in SERVICE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in {name for name, spec in query_specs() if spec.plot}
    ]
    assert named == []


def test_no_script_of_the_page_names_a_spectrum():
    scripts = [path for path in (SERVICE / "ui" / "assets").glob("*.js") if not path.name.startswith("3Dmol")]
    assert len(scripts) > 5
    assert [path.name for path in scripts if re.search(r"[\"'`](?:xrd|dos)[\"'`]", path.read_text())] == []
