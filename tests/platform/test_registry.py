"""A registry finds implementations by name: ours, another package's, and those of this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crystalign.errors import ConfigError
from crystalign.registry import Registry

GROUP = "crystalign.test_shapes"


@pytest.fixture
def shapes() -> Registry[type]:
    table: dict[str, str | type] = {"ratio": "fractions:Fraction", "whole": int}
    return Registry("shape", GROUP, table, accepts=lambda found: isinstance(found, type))


@pytest.fixture
def package(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder on the path; `offer` installs packages into it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def offer(folder: Path, name: str, value: str, package: str = "shapely_things") -> None:
    """Install a package that offers `name = value`; its module holds a class `Square` and a number."""
    (folder / f"{package}.py").write_text("class Square: ...\nside = 3\n")
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value}\n")


def test_a_builtin_is_imported_when_it_is_asked_for():
    table = Registry("shape", GROUP, {"never": "no_such_module:Thing", "ratio": "fractions:Fraction"})
    assert table["ratio"].__name__ == "Fraction"
    assert list(table) == ["never", "ratio"]
    with pytest.raises(ModuleNotFoundError):
        table["never"]


def test_a_builtin_may_be_the_implementation_itself(shapes):
    assert shapes["whole"] is int
    assert dict(shapes.items())["whole"] is int


def test_an_unknown_name_is_told_the_nearest(shapes):
    with pytest.raises(ConfigError, match="no shape 'ration'; did you mean 'ratio'\\? there are ratio, whole"):
        shapes["ration"]


def test_an_installed_package_is_found_by_its_entry_point(shapes, package):
    offer(package, "square", "shapely_things:Square")
    assert shapes.names() == ("ratio", "whole", "square")
    assert "square" in shapes
    assert shapes["square"].__module__ == "shapely_things"


def test_a_package_installed_after_the_first_look_is_found(shapes, package):
    assert len(shapes) == 2
    offer(package, "square", "shapely_things:Square")
    assert shapes["square"].__name__ == "Square"


def test_a_package_that_was_removed_is_missed_after_a_refresh(shapes, package, monkeypatch):
    offer(package, "square", "shapely_things:Square")
    assert shapes["square"].__name__ == "Square"
    monkeypatch.undo()
    shapes.refresh()
    with pytest.raises(ConfigError, match="no shape 'square'"):
        shapes["square"]


def test_names_of_packages_are_listed_without_importing_them(shapes, package):
    offer(package, "square", "shapely_things:Square")
    assert "square" in list(shapes)
    assert "shapely_things" not in sys.modules


def test_a_package_that_cannot_be_imported_is_named(shapes, package):
    offer(package, "square", "shapely_things:Circle")
    with pytest.raises(ConfigError, match=r"'square' of package shapely_things cannot be imported.*Circle"):
        shapes["square"]


def test_a_package_that_offers_something_else_is_named(shapes, package):
    offer(package, "square", "shapely_things:side")
    with pytest.raises(ConfigError, match="'square' of package shapely_things is 3, which is not a shape"):
        shapes["square"]


def test_a_package_cannot_replace_a_builtin(shapes, package):
    offer(package, "ratio", "shapely_things:Square")
    with pytest.raises(ConfigError, match="packages crystalign and shapely_things both offer a shape 'ratio'"):
        shapes.names()


def test_two_packages_cannot_share_a_name(shapes, package):
    offer(package, "square", "one:Square", package="one")
    offer(package, "square", "two:Square", package="two")
    with pytest.raises(ConfigError, match="packages one and two both offer"):
        shapes.names()


def test_what_this_process_registers_is_used_and_taken_out(shapes):
    shapes.register("text", str)
    assert shapes["text"] is str
    shapes.unregister("text")
    assert "text" not in shapes
    with pytest.raises(ConfigError, match="no shape 'text' was registered"):
        shapes.unregister("text")


def test_a_target_can_be_registered_by_its_module(shapes):
    shapes.register("exact", "decimal:Decimal")
    assert shapes["exact"].__name__ == "Decimal"


def test_a_taken_name_is_replaced_only_on_request(shapes):
    shapes.register("text", str)
    with pytest.raises(ConfigError, match="there is a shape 'text' already"):
        shapes.register("text", bytes)
    shapes.register("text", bytes, replace=True)
    assert shapes["text"] is bytes
    with pytest.raises(ConfigError, match="there is a shape 'ratio' already"):
        shapes.register("ratio", bytes, replace=True)


def test_what_is_not_of_the_kind_is_not_registered(shapes):
    with pytest.raises(ConfigError, match="3 is not a shape"):
        shapes.register("three", 3)
