"""What encoders around a network of `transformers` share: made on the spot or published, frozen or learned slowly."""

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
    """An encoder around `self.network`, a network of `transformers`.

    Made on the spot, or, with `pretrained`, a published one from a folder or the hub: its description
    then travels in the model directory. Code that comes with it is never run, and pickles are never read.
    """

    class Settings(Config):
        """Where the weights come from; each encoder adds its size."""

        pretrained: str | None = None
        """Hub name or path of a published network of this kind; None makes one."""
        frozen: bool = False
        """Whether the published weights stay as they are; those made on the spot are always trained."""
        lr_scale: float = Field(default=1.0, gt=0)
        """Learning rate of the published weights, in units of the run's."""

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
        """The network's configuration, as `transformers` calls its fields, `model_type` among them."""
        described: dict[str, Any] = json.loads(self._files[NETWORK])
        return described

    def train(self, mode: bool = True) -> Self:
        """As always, but a frozen network drops nothing in training either."""
        super().train(mode)
        self.network.train(mode and not self.frozen)
        return self

    def files(self) -> Files:
        """What was given: the network's description, and a tokenizer where it has one."""
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
        """The network without weights; nothing is read but `files`."""
        return cls(settings, files)


def read_options(source: str) -> dict[str, Any]:
    """How everything published is read: code that comes with it is never run, and a folder is all there is."""
    return {"trust_remote_code": False, "local_files_only": os.path.isdir(source)}


def published_description(source: str) -> dict[str, Any]:
    """The configuration of a published network.

    Raises:
        OSError: there is none.
        ValueError: it is of no kind that `transformers` knows.
    """
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(source, **read_options(source))
    described: dict[str, Any] = found.to_dict() | {"model_type": found.model_type}
    described.pop("auto_map", None)  # names code of the network's own, which is never run
    return described


def published_network(source: str) -> nn.Module:
    """A published network in single precision.

    Weights that the file lacks would be drawn at random without an error, so they are refused; those of
    a pooler are not, for it is a head for another task and no encoder uses it.

    Args:
        source: hub name, or a folder with `config.json` and weights in safetensors files.

    Raises:
        ConfigError: there is no such network, it has no safetensors weights, or not all of them.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel

    options = read_options(source) | {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    try:
        with _quietly():
            network, found = AutoModel.from_pretrained(source, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        message = (
            f"no published network with safetensors weights at {source!r}: {error} A .bin file is a pickle, which can "
            "run code, and is never read: save the network again with `save_pretrained` where you trust it"
        )
        raise ConfigError(message) from error
    missing = sorted(name for name in found["missing_keys"] if "pooler" not in name.split("."))
    if missing:
        message = f"the weights of {source!r} lack {len(missing)} of its network's tensors, the first {missing[0]}"
        raise ConfigError(message)
    chosen: nn.Module = network
    return chosen


def empty_network(description: dict[str, Any]) -> nn.Module:
    """A network with fresh weights.

    Raises:
        ConfigError: the description is of no network that `transformers` knows.
    """
    from transformers import AutoConfig, AutoModel

    known = {key: value for key, value in description.items() if key != "model_type"}
    try:
        config = AutoConfig.for_model(description["model_type"], **known)
        network: nn.Module = AutoModel.from_config(config, trust_remote_code=False, dtype=torch.float32)
    except (KeyError, ValueError) as error:
        message = f"{NETWORK} describes no network that transformers knows: {error}"
        raise ConfigError(message) from error
    return network


@contextmanager
def _quietly() -> Iterator[None]:
    """No bar and no table of what was not loaded on the terminal: what matters of it is an error."""
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
