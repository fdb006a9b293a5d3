"""No two modules, and no two folders of modules, import each other in a circle.

Every import of a file counts, wherever it stands: at the top, in a function, or for types alone. A module named by a
string, as registries name theirs, does not count: what is found by name at run time needs no line in its caller.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("platform", "jobs", "serve")
Graph = dict[str, set[str]]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name → file, of every module of ours; a folder's name is its `__init__`."""
    found = {}
    for top in TOPS:
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root / top).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in names if node.module in known)


def module_graph(root: Path = ROOT) -> Graph:
    known = modules(root)
    return {name: set(imported(path, known)) - {name} for name, path in known.items()}


def folder_graph(graph: Graph, folder: Callable[[str], str]) -> Graph:
    """The graph between folders: a module that lies directly in a package stands for itself."""
    found: Graph = {}
    for name, targets in graph.items():
        found.setdefault(folder(name), set()).update(folder(target) for target in targets)
    return {name: targets - {name} for name, targets in found.items()}


def circles(graph: Graph) -> list[list[str]]:
    """The strongly connected components of more than one node (Tarjan, SIAM J. Comput. 1, 146 (1972))."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in order:
                visit(target)
            if target in stack:
                lowest[node] = min(lowest[node], lowest[target])
        if lowest[node] == order[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            found.extend([sorted(component)] if len(component) > 1 else [])

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


def described(graph: Graph) -> str:
    """Each circle with its arrows, for the message of a test."""
    arrows = [
        f"{name} → {', '.join(sorted(graph[name] & set(circle)))}" for circle in circles(graph) for name in circle
    ]
    return "\n".join(arrows)


def sub_package(name: str) -> str:
    """`crystalign.finetuning.network.config` → `crystalign.finetuning`."""
    return ".".join(name.split(".")[:2])


def innermost_folder(name: str) -> str:
    """`crystalign.finetuning.network.config` → `crystalign.finetuning.network`."""
    known = modules()
    return name if known[name].name == "__init__.py" or name.count(".") < 2 else name.rpartition(".")[0]


def test_no_two_modules_import_each_other_in_a_circle():
    graph = module_graph()
    assert not circles(graph), described(graph)


@pytest.mark.parametrize("folder", [sub_package, innermost_folder])
def test_no_two_folders_import_each_other_in_a_circle(folder):
    graph = folder_graph(module_graph(), folder)
    assert not circles(graph), described(graph)


def test_a_circle_is_found_wherever_the_import_stands(tmp_path):
    for top in TOPS:
        (tmp_path / top).mkdir()
    package = tmp_path / "platform" / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "goods.py").write_text("def price():\n    from shop.till import tax\n    return tax\n")
    (package / "till.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import shop.coins\n")
    (package / "coins.py").write_text("from shop import goods\n")
    (package / "door.py").write_text("from shop import goods, till\n")
    assert circles(module_graph(tmp_path)) == [["shop.coins", "shop.goods", "shop.till"]]
