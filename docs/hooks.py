"""What `mkdocs build` does beside rendering pages: the tutorial's page, the API pages, and the check of docstrings."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from tutorial_page import to_markdown

ROOT = Path(__file__).resolve().parents[1]
PLATFORM = ROOT / "platform" / "crystalign"
CLIENT = "crystalign_serve.client"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Check the docstrings, and list the API pages in the navigation.

    Raises:
        PluginError: a public name has no docstring.
    """
    missing = undocumented()
    if missing:
        raise PluginError("no docstring: " + ", ".join(missing) + ". Write one for each")
    for section in config.nav or []:
        if "API" in section:
            section["API"] = ["api/index.md", *({title: f"api/{title}.md"} for title in (*api_pages(), CLIENT))]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made: the tutorial and the API of every sub-package."""
    notebook = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))
    pages = {"tutorial.md": to_markdown(notebook)}
    pages |= {f"api/{title}.md": api_page(title, modules) for title, modules in api_pages().items()}
    pages[f"api/{CLIENT}.md"] = api_page(CLIENT, [CLIENT])
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    files.append(File.generated(config, "page.png", abs_src_path=str(ROOT / "serve" / "page.png")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """List the public names of the library on the first page of the API, errors last."""
    if page.file.src_uri != "api/index.md":
        return markdown
    names = sorted(exported().items(), key=lambda item: item[0].endswith("Error"))
    rows = [f"| [`{name}`][{target}] | {summary(target)} |" for name, target in names]
    return "\n".join([markdown, "| name | what it is |", "|---|---|", *rows, "", "::: crystalign.load", ""])


def api_pages() -> dict[str, list[str]]:
    """Title of each API page, a package, → the modules that it describes.

    The modules that lie right in `crystalign` share one page, and each sub-package has one.
    """
    own = [path for path in sorted(PLATFORM.glob("*.py")) if path.stem != "__init__"]
    pages = {"crystalign": [module_name(path) for path in own]}
    for folder in sorted(path.parent for path in PLATFORM.glob("*/__init__.py")):
        pages[module_name(folder)] = [module_name(path) for path in sorted(folder.rglob("*.py"))]
    return pages


def exported() -> dict[str, str]:
    """Each name of `crystalign.__all__` → where it is defined, `module.name`."""
    tree = ast.parse((PLATFORM / "__init__.py").read_text(encoding="utf-8"))
    homes = {
        alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("crystalign.")
        for alias in node.names
    }
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return {name: homes.get(name, f"crystalign.{name}") for name in names if not name.startswith("__")}


def summary(target: str) -> str:
    """The first paragraph of the docstring of `module.name`, as one line of a table."""
    module, _, name = target.rpartition(".")
    path = PLATFORM.parent / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    (node,) = (node for node in nodes if getattr(node, "name", None) == name)
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split()).replace("|", "\\|")


def module_name(path: Path) -> str:
    """The dotted name of a module or package below `platform/`."""
    parts = path.relative_to(PLATFORM.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def api_page(title: str, modules: list[str]) -> str:
    """A page with the public names of modules."""
    body = "\n\n".join(f"::: {name}" for name in modules)
    return f"# {title}\n\n{body}\n"


def undocumented() -> list[str]:
    """Public names of the library without a docstring: modules, classes, functions and methods."""
    found = []
    for path in sorted(PLATFORM.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = module_name(path)
        found += [] if ast.get_docstring(tree) else [name]
        found += [f"{name}.{bare}" for bare in _bare(tree)]
    return found


def _bare(scope: Any) -> list[str]:
    """Public classes, functions and methods of a module or class that have no docstring."""
    found = []
    for node in scope.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        inherits = isinstance(scope, ast.ClassDef) and scope.bases
        if not ast.get_docstring(node) and not (inherits and not isinstance(node, ast.ClassDef)):
            found.append(node.name)
        if isinstance(node, ast.ClassDef):
            found += [f"{node.name}.{bare}" for bare in _bare(node)]
    return found
