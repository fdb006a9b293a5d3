"""The documentation builds without a network, its code runs, and every public name is described."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import crystalign
from crystalign.errors import ModelError

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GOLDEN = ROOT / "tests" / "golden" / "files"
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
"""Tag → the attribute whose content a browser fetches by itself."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | ENVIRONMENT, check=False, timeout=600
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = build(ROOT / "mkdocs.yml", folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(DOCS))
    yield importlib.import_module("hooks")
    for name in ("hooks", "tutorial_page"):
        sys.modules.pop(name, None)


class Fetched(HTMLParser):
    """The addresses of a page that a browser fetches by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADED.get(tag, ""))
        if address and dict(attrs).get("rel") != "canonical":
            self.addresses.append(address)


# --- the public names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", crystalign.__all__)
def test_every_exported_name_resolves_and_is_described(name: str) -> None:
    value = getattr(crystalign, name)
    text = crystalign.__doc__ if name == "__version__" else value.__doc__
    assert text is not None
    assert len(text.split()) > 3
    assert name in dir(crystalign)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Crystall'"):
        _ = crystalign.Crystall


def test_importing_crystalign_imports_neither_torch_nor_ray() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import crystalign"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "crystalign" in imported
    assert imported & {"torch", "ray", "pymatgen", "pyarrow", "pydantic", "numpy"} == set()


def test_load_opens_aligned_and_fine_tuned_models_and_ensembles(tmp_path: Path) -> None:
    (aligned,) = (path.parent for path in GOLDEN.glob("runs/*/model/config.json"))
    fine_tuned = next(path.parent for path in GOLDEN.glob("campaigns/*/best/*/config.json"))
    predictor = crystalign.load(fine_tuned)
    assert isinstance(crystalign.load(aligned), crystalign.Model)
    assert isinstance(predictor, crystalign.PropertyModel)
    crystalign.Ensemble([predictor, predictor]).save_pretrained(str(tmp_path / "both"))
    assert isinstance(crystalign.load(str(tmp_path / "both")), crystalign.Ensemble)


def test_load_of_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model at"):
        crystalign.load(tmp_path)


# --- the tutorial -----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_the_tutorial_runs_and_prints_what_it_shows() -> None:
    """Every cell runs. What comes before the training is the same on any machine, numbers and all."""
    code = (
        "import json, sys; sys.path.insert(0, 'docs'); import tutorial_page; "
        "print(json.dumps(tutorial_page.execute(json.load(open('docs/tutorial.ipynb')))))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    cells = [c for c in json.loads((DOCS / "tutorial.ipynb").read_text())["cells"] if c["cell_type"] == "code"]
    shown = ["".join(line for output in cell["outputs"] for line in output["text"]) for cell in cells]
    training = next(number for number, text in enumerate(shown) if "loss" in text)
    assert printed[:training] == shown[:training]
    assert [bool(text) for text in printed] == [bool(text) for text in shown]
    losses = [float(number) for number in re.findall(r"loss ([0-9.]+)", printed[training])]
    assert losses[-1] < 0.5 * losses[0]


# --- the site ---------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    fetched = {address for page in pages for address in Fetched(page.read_text()).addresses}
    assert len(pages) > 20
    assert [address for address in fetched if re.match("([a-z]+:)?//", address)] == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"url\([\"']?(?:[a-z]+:)?//", styles) == []


@pytest.mark.timeout(900)
def test_the_site_shows_every_page_that_other_texts_link_to(site: Path) -> None:
    texts = "".join((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
    linked = set(re.findall(r"docs/([\w/]+)\.md", texts))
    assert linked
    assert [page for page in linked if not (site / f"{page}.html").is_file()] == []
    assert 'id="crystalign.load"' in (site / "api" / "index.html").read_text()


@pytest.mark.timeout(900)
def test_the_how_to_pages_of_the_site_hold_the_code(site: Path) -> None:
    pages = {path.stem: path.read_text() for path in (site / "howto").glob("[!i]*.html")}
    holds = {
        "objective": "SoftTriplet",
        "modality": "RamanModality",
        "source": "RockSalts",
        "vector_store": "Coarse",
        "encoder": "RamanNetwork",
    }
    assert pages.keys() == holds.keys()
    assert [stem for stem, name in holds.items() if name not in pages[stem]] == []


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    for key in ("nav", "hooks", "plugins", "extra_css", "exclude_docs", "markdown_extensions", "theme"):
        del settings[key]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[elsewhere](absent.md), [part](#absent)\n")
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(settings))
    result = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert result.returncode != 0
    assert "absent.md" in result.stderr
    assert "#absent" in result.stderr


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ('"""A."""\n\ndef shown() -> None:\n    pass\n', "crystalign.new.shown"),
        (
            '"""A."""\n\nclass Shown:\n    """B."""\n\n    def method(self) -> None:\n        pass\n',
            "crystalign.new.Shown.method",
        ),
        ("VALUE = 1\n", "crystalign.new"),
    ],
)
def test_a_public_name_without_a_docstring_fails_the_build(
    text: str, missing: str, hooks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.exceptions import PluginError

    (tmp_path / "crystalign").mkdir()
    (tmp_path / "crystalign" / "new.py").write_text(text)
    monkeypatch.setattr(hooks, "PLATFORM", tmp_path / "crystalign")
    with pytest.raises(PluginError, match=f"no docstring: {re.escape(missing)}"):
        hooks.on_config(MkDocsConfig())


@pytest.mark.parametrize("page", sorted((DOCS / "howto").glob("[!i]*.md")), ids=lambda path: path.stem)
def test_every_how_to_page_shows_code_that_a_test_runs(page: Path) -> None:
    included = re.findall("^--8<--\n(.+)\n--8<--$", page.read_text(), re.MULTILINE)
    assert [name for name in included if not (ROOT / name).is_file()] == []
    assert any(Path(name).name.startswith("test_") for name in included)


def test_the_architecture_page_shows_the_layers_of_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    page = (DOCS / "architecture.md").read_text()
    inside = {contract["id"]: "\n".join(contract["layers"]) for contract in contracts if "containers" in contract}
    assert inside
    assert [name for name, layers in inside.items() if f"```text\n{layers}\n```" not in page] == []


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text().count("\n") <= 150
