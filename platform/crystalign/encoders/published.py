"""Base of encoders around a `transformers` network: from scratch or published, frozen or with a lower rate."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from pydantic import Field
from torch import nn

from crystalign.config import Config
from crystalign.encoders.encoder import Encoder, Files
from crystalign.errors import ConfigError

TOKENIZER, NETWORK = "tokenizer.json", "network.json"


class Published(Encoder):
    """Encoder around `self.network`, a `transformers` network.

    The network is trained from scratch or, with `pretrained`, a published one from a folder or the hub. Its
    configuration is saved in the model directory. Code that comes with it is never run, and pickles are never read.
    """

    class Settings(Config):
        """Source of the weights; each encoder adds the size of its network."""

        pretrained: str | None = None
        """Hub name or path of a published network of this kind; None to train from scratch."""
        frozen: bool = False
        """Whether published weights are frozen; fresh weights are always trained."""
        lr_scale: float = Field(default=1.0, gt=0)
        """Factor on the run's learning rate for the published weights."""

    settings: Settings

    def __init__(self, settings: Settings, files: Files | None = None, network: nn.Module | None = None) -> None:
        super().__init__(settings)
        self._files = {name: data for name, data in (files or {}).items() if name in (TOKENIZER, NETWORK)}
        self.network: Any = empty_network(self.description()) if network is None else network
        published = settings.pretrained is not None
        self.frozen = settings.frozen and published
        self.lr_scales = {"network": settings.lr_scale} if published else {}
        if self.frozen:
            self.network.requires_grad_(False)

    def description(self) -> dict[str, Any]:
        """Return the network's configuration with the field names of `transformers`, including `model_type`."""
        described: dict[str, Any] = json.loads(self._files[NETWORK])
        return described

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; a frozen network stays in evaluation mode, without dropout."""
        super().train(mode)
        self.network.train(mode and not self.frozen)
        return self

    def files(self) -> Files:
        """Return the network's configuration, and the tokenizer if there is one."""
        return dict(self._files)

    @classmethod
    def build(cls, settings: Any, files: Files) -> Self:
        """Fresh weights, or the published ones.

        Raises:
            ConfigError: the published ones cannot be read.
        """
        return cls(settings, files, None if settings.pretrained is None else published_network(settings.pretrained))

    @classmethod
    def restore(cls, settings: Any, files: Files) -> Self:
        """Make the network without weights; reads only `files`."""
        return cls(settings, files)


def read_options(source: str) -> dict[str, Any]:
    """Options for reading published networks: never run their code, and read a folder without the network."""
    return {"trust_remote_code": False, "local_files_only": os.path.isdir(source)}


def published_description(source: str) -> dict[str, Any]:
    """Read the configuration of a published network.

    Raises:
        OSError: there is none.
        ValueError: `transformers` does not support this kind of network.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, **read_options(source))
    described: dict[str, Any] = config.to_dict() | {"model_type": config.model_type}
    described.pop("auto_map", None)  # names custom code of the network, which is never run
    return described


def published_network(source: str) -> nn.Module:
    """Load a published network in single precision.

    Missing weights are refused, because `transformers` would initialise them at random without an error. Missing
    pooler weights are allowed: the pooler is a head for another task that no encoder uses.

    Args:
        source: hub name, or a folder with `config.json` and weights in safetensors files.

    Raises:
        ConfigError: there is no such network, or its safetensors weights are missing or incomplete.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel

    options = read_options(source) | {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    try:
        with _quietly():
            network, report = AutoModel.from_pretrained(source, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        message = (
            f"no published network with safetensors weights at {source!r}: {error} A .bin file is a pickle, which can "
            "run code, and is never read: save the network again with `save_pretrained` where you trust it"
        )
        raise ConfigError(message) from error
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name.split("."))
    if missing:
        message = f"the weights of {source!r} lack {len(missing)} of its network's tensors, the first {missing[0]}"
        raise ConfigError(message)
    chosen: nn.Module = network
    return chosen


def empty_network(description: dict[str, Any]) -> nn.Module:
    """Make a network with fresh weights.

    Raises:
        ConfigError: `transformers` does not support the network described.
    """
    from transformers import AutoConfig, AutoModel

    settings = {key: value for key, value in description.items() if key != "model_type"}
    try:
        config = AutoConfig.for_model(description["model_type"], **settings)
        network: nn.Module = AutoModel.from_config(config, trust_remote_code=False, dtype=torch.float32)
    except (KeyError, ValueError) as error:
        message = f"{NETWORK} describes no network that transformers knows: {error}"
        raise ConfigError(message) from error
    return network


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress progress bars and load reports of `transformers`; relevant problems are raised as errors."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
