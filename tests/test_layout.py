"""The rules of the house that a reviewer would otherwise have to remember."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("platform", "jobs", "serve")
"""Folders that hold packages."""
PACKAGES = {
    "crystalign": "platform",
    "crystalign_ray": "platform",
    "crystalign_jobs": "jobs",
    "crystalign_serve": "serve",
}
"""Package → its folder."""
FORBIDDEN = {
    "crystalign": {"ray", "crystalign_ray", "crystalign_jobs", "crystalign_serve"},
    "crystalign_ray": {"crystalign_jobs", "crystalign_serve"},
    "crystalign_jobs": {"crystalign_serve"},
    "crystalign_serve": {"crystalign_jobs"},
}
OTHERS_NAMES = {"yaml": "pyyaml", "faiss": "faiss-cpu", "mlflow": "mlflow-skinny", "multipart": "python-multipart"}
UNFINISHED = re.compile(
    "TO" + "DO|FIX" + "ME|X" + r"XX|\bHACK|NotImplemented" + r"Error|for\snow\b|place" + "holder|dum" + "my"
)


def modules(*roots: str) -> list[Path]:
    files = [p for root in roots for p in sorted((ROOT / root).rglob("*.py"))]
    assert files, f"no modules under {roots}"
    return files


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[str]:
    """The top-level name of every module that a file imports, wherever in the file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def where(path: Path, line: int | None = None) -> str:
    return f"{path.relative_to(ROOT)}" + (f":{line}" if line else "")


def test_top_level_folders_are_no_packages():
    found = [
        where(ROOT / root / "__init__.py") for root in (*SOURCES, "tests") if (ROOT / root / "__init__.py").exists()
    ]
    assert not found, f"{found} would shadow the standard library in every Ray worker"


def test_platform_is_the_standard_library_even_from_the_root_of_the_repository():
    code = "import platform; print(platform.__file__, platform.system())"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert str(ROOT) not in out.split()[0]


@pytest.mark.parametrize(("package", "root"), PACKAGES.items())
def test_arrows_between_the_packages_run_one_way(package, root):
    wrong = [
        f"{where(path)} imports {name}"
        for path in modules(f"{root}/{package}")
        for name in imports(path)
        if name in FORBIDDEN[package]
    ]
    assert not wrong


@pytest.mark.parametrize(("package", "root"), PACKAGES.items())
def test_packages_are_shallow_and_typed(package, root):
    deep = [where(p) for p in modules(f"{root}/{package}") if len(p.relative_to(ROOT / root / package).parts) > 3]
    assert not deep
    assert (ROOT / root / package / "py.typed").is_file()


def test_files_are_at_most_500_lines():
    long = {where(p): n for p in modules(*SOURCES, "tests") if (n := p.read_text().count("\n")) > 500}
    assert not long


def test_functions_are_at_most_60_lines():
    long = [
        f"{where(path, node.lineno)} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in modules(*SOURCES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60
    ]
    assert not long


def test_nothing_is_left_unfinished():
    found = [
        f"{where(path, number)} {match[0]}"
        for path in modules(*SOURCES, "tests")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := UNFINISHED.search(line))
    ]
    assert not found


def test_everything_public_has_a_docstring():
    bare = []
    for path in modules(*SOURCES):
        top = tree(path)
        bare += [where(path)] if not ast.get_docstring(top) else []
        bare += [
            f"{where(path, node.lineno)} {node.name}"
            for node in top.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ]
    assert not bare


def test_nothing_unpickles():
    """Files and networks give data, never code: no pickle, no torch.load, no numpy pickles, no unsafe YAML."""
    wrong = [
        f"{where(path)} imports {name}"
        for path in modules(*SOURCES)
        for name in imports(path)
        if name in {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    ]
    for path in modules(*SOURCES):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                unsafe = called in {"torch.load", "torch.save", "yaml.load", "yaml.unsafe_load", "eval", "exec"}
                allowed = [k.arg for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
                wrong += [f"{where(path, node.lineno)} {called}"] if unsafe or allowed else []
    assert not wrong


def test_no_utils_and_no_helpers():
    assert not [where(p) for p in modules(*SOURCES) if p.stem in {"utils", "helpers", "misc", "common"}]


def test_test_files_have_unique_names():
    names = [p.name for p in modules("tests") if p.name.startswith("test_")]
    assert len(set(names)) == len(names)


def test_every_test_checks_something():
    """Itself, or through a function of the suite that does."""
    functions = [
        (path, node, ast.unparse(node))
        for path in modules("tests")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    checks = re.compile(r"\bassert\b|raises|warns|assert_|\bcheck")
    helpers = [node.name for _, node, text in functions if checks.search(text) and not node.name.startswith("test_")]
    checks = re.compile(rf"{checks.pattern}|\b({'|'.join(helpers)})\(")
    idle = [
        f"{where(path, node.lineno)} {node.name}"
        for path, node, text in functions
        if node.name.startswith("test_") and not checks.search(text)
    ]
    assert not idle


def test_no_assertion_leaves_a_choice():
    """`assert A or B` passes for a reason that nobody looks at: a test says which of the two holds."""
    loose = [
        f"{where(path, node.lineno)} {ast.unparse(node.test)}"
        for path in modules("tests")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.Or)
    ]
    assert not loose


def test_names_of_tests_are_at_most_80_characters():
    long = [
        f"{where(path, node.lineno)} {node.name}: {len(node.name)} characters"
        for path in modules("tests")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if len(node.name) > 80
    ]
    assert not long


def test_tests_share_code_by_plain_imports():
    """What several tests use lies in `tests/support`, which is on the path; no file is loaded by its place."""
    found = [
        where(path, node.lineno)
        for path in modules("tests")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr == "spec_from_file_location"
    ]
    assert not found


def test_modules_that_tests_share_hide_no_other_module():
    """They are imported by their bare names, which no package of ours or of others may have."""
    names = [path.stem for path in modules("tests/support")]
    taken = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions()) | set(PACKAGES)
    assert len(set(names)) == len(names)
    assert not taken & set(names)


def test_every_import_of_others_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [r for name, rs in project["optional-dependencies"].items() if name != "dev" for r in rs]
    declared = {canonical(re.split(r"[\[<>=!~; ]", r)[0]) for r in [*project["dependencies"], *extras]}
    provided = importlib.metadata.packages_distributions()
    missing = {}
    for path in modules(*SOURCES):
        for name in set(imports(path)) - set(sys.stdlib_module_names) - set(PACKAGES):
            homes = {canonical(d) for d in provided.get(name, [name])} | {OTHERS_NAMES.get(name, name)}
            if not homes & declared:
                missing[where(path)] = name
    assert not missing


def test_every_version_is_pinned_and_fits_its_range():
    from packaging.requirements import Requirement

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line)
        assert match, f"constraints.txt: {line!r} is not name==version"
        pins[canonical(match[1])] = match[2]
    assert pins["torch"] == "2.13.0"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonical(requirement.name)]), f"{text} excludes the tested version"


def test_the_wheel_holds_the_packages_and_their_data(tmp_path):
    from hatchling.builders.wheel import WheelBuilder

    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    kept = {
        str(path.relative_to(ROOT / root))
        for package, root in PACKAGES.items()
        for path in (ROOT / root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert kept - held == set()
    assert {"crystalign_serve/ui/index.html", "crystalign/py.typed", "crystalign_jobs/cli.py"} <= held
    assert any(name.startswith("crystalign/") and name.endswith(".parquet") for name in held), "the demo's crystals"
    assert not [name for name in held if name.startswith(("tests/", "cluster/", "infra/"))]


@pytest.mark.parametrize("name", ["local", "aws"])
def test_cluster_files_satisfy_rays_own_schema(name):
    import jsonschema

    schema = json.loads((Path(ray_folder()) / "autoscaler" / "ray-schema.json").read_text())
    config = yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text())
    jsonschema.validate(config, schema)
    text = json.dumps(config)
    assert "RAY_AUTH_MODE=token" in text
    assert "AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in text
    if "available_node_types" in config:
        assert config["head_node_type"] in config["available_node_types"]


def test_the_makefile_needs_no_root():
    text = (ROOT / "Makefile").read_text()
    assert not re.search(r"\b(sudo|apt|apt-get|dnf|brew)\b", text)
    assert {"demo", "test", "lint", "clean", "env"} <= set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_version_is_the_same_everywhere():
    version = importlib.import_module("crystalign").__version__
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def ray_folder() -> str:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations
    return spec.submodule_search_locations[0]
