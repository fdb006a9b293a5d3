"""Registry of encoders. To add one, write a file here and a line in `ENCODERS`, or a package with an entry point.

The entry point names an `EncoderEntry`:

    [project.entry-points."crystalign.encoders"] raman-mlp = "my_package.networks:RAMAN_MLP"
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from crystalign.registry import Registry

if TYPE_CHECKING:
    from crystalign.encoders.encoder import Encoder, Files


class EncoderEntry(NamedTuple):
    """Registry entry of an encoder; one line of `crystalign encoders`."""

    modality: str
    """Modality that the encoder reads."""
    target: str
    """`module:Class`."""
    source: str
    """Reference: the paper that describes the network."""
    features: dict[str, Any] = {}
    """Modality settings that the encoder requires."""
    options: dict[str, Any] = {}
    """Encoder settings that this entry changes, e.g. to a published size."""


_TWELVE_NEAREST = {"cutoff": 8.0, "k": 12}
_WITHIN_FIVE = {"cutoff": 5.0, "k": 1000}
"""Neighbours per site that keep all within 5 Å: no real crystal has this many."""
_COMPLETE = {"cutoff": 4.0, "k": 16, "lattice_sums_up_to": 200}
_SINGLE_ENERGIES = {"patch": 1, "hidden": 128, "expansion": 4, "energies": "concatenated", "summary": False}

_ENTRIES: dict[str, str | EncoderEntry] = {
    "cgcnn": EncoderEntry(
        "crystal",
        "crystalign.encoders.cgcnn:CGCNN",
        "Xie & Grossman, Phys. Rev. Lett. 120, 145301 (2018)",
        _TWELVE_NEAREST,
    ),
    "cgcnn-clasp": EncoderEntry(
        "crystal",
        "crystalign.encoders.cgcnn:CGCNN",
        "Suzuki et al. (CLaSP), Mach. Learn.: Sci. Technol. 6, 035006 (2025)",
        _TWELVE_NEAREST,
        {"layers": 5, "width": 768, "mlp": 2},
    ),
    "matbind-gcn": EncoderEntry(
        "crystal",
        "crystalign.encoders.matbind_gcn:MatBindGCN",
        "MatBind, ICLR workshop (2025); HFMI-SOL-AI/MatBind",
        _TWELVE_NEAREST,
    ),
    "potnet": EncoderEntry(
        "crystal",
        "crystalign.encoders.potnet:PotNet",
        "Lin et al. (PotNet), ICML 2023, as in MultiMat",
        _COMPLETE,
        {"basis": "published", "local_bins": 256},
    ),
    "potnet-ranged": EncoderEntry(
        "crystal",
        "crystalign.encoders.potnet:PotNet",
        "Lin et al. (PotNet), ICML 2023; each potential on its own range",
        _COMPLETE,
    ),
    "gated-graph": EncoderEntry("crystal", "crystalign.encoders.gated_graph:GatedGraph", "This project, after CGCNN"),
    "dual-space": EncoderEntry(
        "crystal",
        "crystalign.encoders.dual_space:DualSpace",
        "This project: a gated graph network, and structure factors",
        {"reciprocal_bins": 256},
    ),
    "pyg": EncoderEntry(
        "crystal",
        "crystalign.encoders.pyg:PyG",
        "PyTorch Geometric by its option `model`: schnet, visnet, cgconv, transformer, or a network of your own",
        _WITHIN_FIVE,
    ),
    "dos-transformer": EncoderEntry(
        "dos", "crystalign.encoders.dos_transformer:DosTransformer", "Moro et al. (MultiMat), Newton 1, 100016 (2025)"
    ),
    "dos-transformer-multimat": EncoderEntry(
        "dos",
        "crystalign.encoders.dos_transformer:DosTransformer",
        "Moro et al. (MultiMat), Newton 1, 100016 (2025), as published",
        {"points": 601},
        _SINGLE_ENERGIES
        | {"bins": 601, "layers": 4, "heads": 8, "head_width": 64, "attention_bias": False, "positions": "none"},
    ),
    "dos-transformer-matbind": EncoderEntry(
        "dos",
        "crystalign.encoders.dos_transformer:DosTransformer",
        "MatBind, ICLR workshop (2025); HFMI-SOL-AI/MatBind",
        {"points": 2001},
        _SINGLE_ENERGIES
        | {"bins": 2001, "hidden": 512, "layers": 2, "heads": 8, "activation": "relu", "dropout": 0.1}
        | {"energies": "mixed", "positions": "sinusoidal"},
    ),
    "phonon-dos-transformer": EncoderEntry(
        "phonon_dos",
        "crystalign.encoders.dos_transformer:DosTransformer",
        "Moro et al. (MultiMat), Newton 1, 100016 (2025), over frequencies",
        {},
        {"bins": 51, "patch": 3, "hidden": 96},
    ),
    "conv3d": EncoderEntry(
        "charge_density", "crystalign.encoders.conv3d:Conv3d", "He et al. (ResNet), CVPR 2016, in three dimensions"
    ),
    "resnext3d": EncoderEntry(
        "charge_density",
        "crystalign.encoders.resnext3d:ResNeXt3d",
        "Xie et al. (ResNeXt), CVPR 2017, as in MultiMat, with circular padding and the cell",
    ),
    "xrd-resnet": EncoderEntry(
        "xrd", "crystalign.encoders.xrd_resnet:XrdResNet", "He et al. (ResNet), CVPR 2016, in one dimension"
    ),
    "matbind-xrd": EncoderEntry(
        "xrd", "crystalign.encoders.matbind_xrd:MatBindXrd", "MatBind, ICLR workshop (2025); HFMI-SOL-AI/MatBind"
    ),
    "bert": EncoderEntry("text", "crystalign.encoders.bert:Bert", "Devlin et al. (BERT), NAACL 2019"),
    "text-multimat": EncoderEntry(
        "text",
        "crystalign.encoders.bert:Bert",
        "Moro et al. (MultiMat), Newton 1, 100016 (2025), with pretrained: MatBERT",
        options={"frozen": True, "pooling": "cls", "max_tokens": 512, "head": (512, 512, 128)},
    ),
    "text-clasp": EncoderEntry(
        "text",
        "crystalign.encoders.bert:Bert",
        "Suzuki et al. (CLaSP), Mach. Learn.: Sci. Technol. 6, 035006 (2025), with pretrained: SciBERT",
        options={"frozen": True, "pooling": "cls", "max_tokens": 64, "head": (768, 768, 768)},
    ),
    "text-matbind": EncoderEntry(
        "text",
        "crystalign.encoders.bert:Bert",
        "MatBind, ICLR workshop (2025), with pretrained: MatBERT",
        options={"lr_scale": 0.01, "pooling": "attention", "max_tokens": 512},
    ),
    "text-embedding-multimat": EncoderEntry(
        "text_embedding",
        "crystalign.encoders.mlp:VectorMLP",
        "Moro et al. (MultiMat), Newton 1, 100016 (2025)",
        options={"inputs": 768, "layers": (512, 512, 128), "missing": False},
    ),
    "text-embedding-clasp": EncoderEntry(
        "text_embedding",
        "crystalign.encoders.mlp:VectorMLP",
        "Suzuki et al. (CLaSP), Mach. Learn.: Sci. Technol. 6, 035006 (2025)",
        options={"inputs": 768, "layers": (768, 768, 768), "missing": False},
    ),
    "composition-transformer": EncoderEntry(
        "composition",
        "crystalign.encoders.composition_transformer:CompositionTransformer",
        "This project, after Wang et al. (CrabNet)",
    ),
    "crabnet": EncoderEntry(
        "composition", "crystalign.encoders.crabnet:CrabNet", "Wang et al. (CrabNet), npj Comput. Mater. 7, 77 (2021)"
    ),
    "composition-text": EncoderEntry(
        "composition",
        "crystalign.encoders.composition_text:CompositionText",
        "Costa et al., composition as a string; Devlin et al. (BERT), NAACL 2019",
    ),
    "vit": EncoderEntry("image", "crystalign.encoders.vit:ViT", "Dosovitskiy et al. (ViT), ICLR 2021"),
    "resnet": EncoderEntry(
        "image", "crystalign.encoders.image_resnet:ImageResNet", "He et al. (ResNet), CVPR 2016, with GroupNorm"
    ),
    "tabular-mlp": EncoderEntry(
        "tabular",
        "crystalign.encoders.mlp:VectorMLP",
        "Ward et al. (Magpie's descriptors), npj Comput. Mater. 2 (2016)",
    ),
}
ENCODERS: Registry[EncoderEntry] = Registry(
    "encoder", "crystalign.encoders", _ENTRIES, accepts=lambda entry: isinstance(entry, EncoderEntry)
)
"""All encoders: built-in ones, then those of other packages."""


def encoder_entry(name: str) -> EncoderEntry:
    """Return the registry entry of an encoder.

    Raises:
        ConfigError: no such encoder.
    """
    return ENCODERS[name]


def encoder_class(name: str) -> type[Encoder]:
    """Return the class of an encoder; only its own module is imported.

    Raises:
        ConfigError: no such encoder.
    """
    module, _, attribute = encoder_entry(name).target.partition(":")
    cls: type[Encoder] = getattr(importlib.import_module(module), attribute)
    return cls


def make_encoder(name: str, options: dict[str, Any] | None = None, files: Files | None = None) -> Encoder:
    """Make an encoder with validated settings and fresh weights.

    Args:
        name: as in `ENCODERS`.
        options: settings that differ from those of the entry.
        files: other files that the encoder needs, e.g. a tokenizer, as `Encoder.prepare` made them.

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
