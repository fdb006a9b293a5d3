"""Limits for parsing uploaded files."""

from __future__ import annotations

import os

from pydantic import Field

from crystalign.config import Config


class SandboxLimits(Config):
    """Time and memory per file, and number of files parsed at a time."""

    memory_mb: int = Field(default=512, ge=64)
    """Memory limit of a process beyond what it starts with (MiB)."""
    seconds: float = Field(default=10.0, gt=0)
    """Time limit for one file (s); waiting in the queue does not count."""
    processes: int = Field(default_factory=lambda: max(2, min(4, os.cpu_count() or 2)), ge=1)
    """Files parsed at the same time. The same number of idle processes is kept ready."""
    waiting: int = Field(default=64, ge=1)
    """Files that may wait for a process; further requests get 503."""
    queue_seconds: float = Field(default=20.0, gt=0)
    """Longest wait for a process (s); then the request gets 503."""
