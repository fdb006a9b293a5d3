"""Networks of a user's own by import path: imported only where the caller has said that the code is trusted.

A model directory names such a class and holds its weights, never its code. Reading a directory imports nothing that
the caller did not name: importing a module runs it.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import nn

from crystalign.errors import ConfigError

VARIABLE = "CRYSTALIGN_TRUSTED_MODULES"
"""Environment variable: modules or packages, separated by commas, whose code may be imported."""
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""`my_package.module:Class`."""

_trusted: ContextVar[tuple[str, ...]] = ContextVar("crystalign_trusted_modules", default=())


@contextmanager
def trust(*modules: str) -> Iterator[None]:
    """Within this block, classes of these modules, and of modules inside these packages, may be imported.

    Example: `with trust("my_package"): model = crystalign.load(path)`. Other processes, such as the workers of a
    training or a service, do not see it: set CRYSTALIGN_TRUSTED_MODULES where they start.
    """
    token = _trusted.set((*_trusted.get(), *modules))
    try:
        yield
    finally:
        _trusted.reset(token)


def is_trusted(module: str) -> bool:
    """Whether the caller named this module or a package around it."""
    named = [*_trusted.get(), *os.environ.get(VARIABLE, "").split(",")]
    return any(module == name or module.startswith(f"{name}.") for name in map(str.strip, named) if name)


def trusted_class(target: str) -> type[nn.Module]:
    """The class at `my_package.module:Class`.

    Raises:
        ConfigError: its module is not trusted, cannot be imported, or has no such class of `torch.nn.Module`.
    """
    module, _, name = target.partition(":")
    if not is_trusted(module):
        package = module.partition(".")[0]
        raise ConfigError(
            f"the network {target!r} is code from outside Crystalign, and importing it would run it. If you trust it, "
            f'set {VARIABLE}={package}, or load within crystalign.encoders.trusted_code.trust("{package}")'
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"there is no {target!r} on this machine: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigError(f"{target!r} is no class of torch.nn.Module")
    return found
