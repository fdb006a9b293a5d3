"""Load a user's own network by import path, only if the caller has marked its code as trusted.

A model directory contains the name of the class and its weights, never its code. Importing a module runs it, so
reading a directory imports only modules that the caller has named.
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
    """Allow classes of these modules and packages to be imported within this block.

    Example: `with trust("my_package"): model = crystalign.load(path)`. Other processes, such as the workers of a
    training or a service, do not see it: set CRYSTALIGN_TRUSTED_MODULES where they start.
    """
    token = _trusted.set((*_trusted.get(), *modules))
    try:
        yield
    finally:
        _trusted.reset(token)


def is_trusted(module: str) -> bool:
    """Whether the caller has marked this module, or a package that contains it, as trusted."""
    named = [*_trusted.get(), *os.environ.get(VARIABLE, "").split(",")]
    return any(module == name or module.startswith(f"{name}.") for name in map(str.strip, named) if name)


def trusted_class(target: str) -> type[nn.Module]:
    """Import the class at `my_package.module:Class`.

    Raises:
        ConfigError: its module is not trusted, cannot be imported, or has no such subclass of `torch.nn.Module`.
    """
    module, _, name = target.partition(":")
    if not is_trusted(module):
        package = module.partition(".")[0]
        raise ConfigError(
            f"the network {target!r} is code from outside Crystalign, and importing it would run it. If you trust it, "
            f'set {VARIABLE}={package}, or load within crystalign.encoders.trusted_code.trust("{package}")'
        )
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"there is no {target!r} on this machine: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ConfigError(f"{target!r} is no class of torch.nn.Module")
    return cls
