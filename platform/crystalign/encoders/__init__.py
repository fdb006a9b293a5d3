"""The encoders by name. Adding one is a file here and a line in `ENCODERS`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from crystalign.errors import ConfigError

if TYPE_CHECKING:
    from crystalign.encoders.encoder import Encoder, Files


class EncoderEntry(NamedTuple):
    """One line of `crystalign encoders`."""

    modality: str
    """What it reads."""
    target: str
    """`module:Class`."""
    source: str
    """The paper."""
    features: dict[str, Any] = {}
    """Settings of the modality without which it cannot read it."""
    options: dict[str, Any] = {}
    """Settings of the encoder under this name: a published size is an entry, not a class."""


ENCODERS: dict[str, EncoderEntry] = {
    "cgcnn": EncoderEntry(
        "crystal", "crystalign.encoders.cgcnn:CGCNN", "Xie & Grossman, Phys. Rev. Lett. 120, 145301 (2018)"
    ),
    "dual-space": EncoderEntry(
        "crystal",
        "crystalign.encoders.dual_space:DualSpace",
        "This project: CGCNN, and structure factors",
        {"reciprocal_bins": 256},
    ),
    "dos-transformer": EncoderEntry(
        "dos", "crystalign.encoders.dos_transformer:DosTransformer", "Moro et al. (MultiMat), Newton 1, 100016 (2025)"
    ),
    "conv3d": EncoderEntry(
        "charge_density", "crystalign.encoders.conv3d:Conv3d", "He et al. (ResNet), CVPR 2016, in three dimensions"
    ),
    "xrd-resnet": EncoderEntry(
        "xrd", "crystalign.encoders.xrd_resnet:XrdResNet", "He et al. (ResNet), CVPR 2016, in one dimension"
    ),
    "bert": EncoderEntry("text", "crystalign.encoders.bert:Bert", "Devlin et al. (BERT), NAACL 2019"),
    "composition-transformer": EncoderEntry(
        "composition",
        "crystalign.encoders.composition_transformer:CompositionTransformer",
        "Wang et al. (CrabNet), npj Comput. Mater. 7, 77 (2021)",
    ),
}


def encoder_entry(name: str) -> EncoderEntry:
    """The entry of an encoder.

    Raises:
        ConfigError: no such encoder.
    """
    if name not in ENCODERS:
        message = f"no encoder {name!r}; there are {', '.join(ENCODERS)}"
        raise ConfigError(message)
    return ENCODERS[name]


def encoder_class(name: str) -> type[Encoder]:
    """The class of an encoder; only its own module is imported.

    Raises:
        ConfigError: no such encoder.
    """
    module, _, attribute = encoder_entry(name).target.partition(":")
    found: type[Encoder] = getattr(importlib.import_module(module), attribute)
    return found


def make_encoder(name: str, options: dict[str, Any] | None = None, files: Files | None = None) -> Encoder:
    """An encoder with validated settings and fresh weights.

    Args:
        name: as in `ENCODERS`.
        options: settings that differ from those of the entry.
        files: what the encoder needs besides its settings (a tokenizer), as `Encoder.prepare` made it.

    Raises:
        ConfigError: no such encoder, or a setting it does not have.
    """
    return encoder_class(name).build(encoder_settings(name, options), files or {})


def encoder_settings(name: str, options: dict[str, Any] | None = None) -> Any:
    """The settings of an encoder: its class's, changed by its entry's, changed by `options`.

    Raises:
        ConfigError: no such encoder, or a setting it does not have.
    """
    chosen = encoder_entry(name).options | (options or {})
    return encoder_class(name).Settings.from_mapping(chosen, origin=f"the options of encoder {name!r}")
