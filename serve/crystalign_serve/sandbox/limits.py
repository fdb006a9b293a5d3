"""What reading one file may cost."""

from __future__ import annotations

import os

from pydantic import Field

from crystalign.config import Config


class SandboxLimits(Config):
    """What reading one file may cost, and how many are read at a time."""

    memory_mb: int = Field(default=512, ge=64)
    """MiB that a process may take beyond what it starts with."""
    seconds: float = Field(default=10.0, gt=0)
    """For one file, from the moment a process reads it."""
    processes: int = Field(default_factory=lambda: max(2, min(4, os.cpu_count() or 2)), ge=1)
    """Files read at the same time; as many more processes stand ready."""
    waiting: int = Field(default=64, ge=1)
    """Files that may wait for a process; more are answered 503."""
    queue_seconds: float = Field(default=20.0, gt=0)
    """How long a file waits for a process before it is answered 503."""
