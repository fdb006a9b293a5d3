"""`Model`: encoders, projections into one space, and temperatures; a directory without pickle.

model/
├── config.json         settings, model card, and the sha256 of every other file; written last
├── model.safetensors   weights
├── README.md           the card, for people
└── text/tokenizer.json whatever files an encoder needs, in a folder named after its modality
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from crystalign.encoders import encoder_class, encoder_settings
from crystalign.encoders.encoder import Files
from crystalign.errors import ConfigError, ModelError, StorageError, VerificationError
from crystalign.modalities import Inputs, Modality, make_modality, modality_class
from crystalign.model_config import ModalitySpec, ModelCard, ModelConfig, ModelFile, Names
from crystalign.training.batch import Batch

__all__ = ["ModalitySpec", "Model", "ModelCard", "ModelConfig", "load", "prepare"]

FORMAT = 2
"""2: networks of charge densities and pictures see them in settings that do not depend on the crystal's description."""
READABLE = (1, 2)
MAX_LOG_SCALE = math.log(100.0)
CONFIG, WEIGHTS, README = "config.json", "model.safetensors", "README.md"


class Model(nn.Module):
    """Maps each modality of a material to a unit vector in one space.

    z_m = normalise(W_m · LayerNorm(encoder_m(x_m))) ∈ R^D. `from_pretrained` and `prepare` supply
    the files of encoders that need any.
    """

    def __init__(self, config: ModelConfig, files: Mapping[str, bytes] | None = None, *, restore: bool = False) -> None:
        """Fresh weights.

        Args:
            config: encoders, pairs, objective.
            files: `<modality>/<file>` → content, as `prepare` made them.
            restore: the caller will load the weights, so published ones are not read.
        """
        super().__init__()
        self.config = config
        self.format = FORMAT
        """Of the directory it was read from: a model keeps its identity."""
        self.card = ModelCard()
        self.encoders = nn.ModuleDict()
        self.projections = nn.ModuleDict()
        self._modalities: dict[str, Modality[Any]] = {}
        for name, spec in config.modalities.items():
            cls = encoder_class(spec.encoder)
            settings = encoder_settings(spec.encoder, spec.options)
            own = {path.partition("/")[2]: data for path, data in (files or {}).items() if path.startswith(f"{name}/")}
            encoder = cls.restore(settings, own) if restore else cls.build(settings, own)
            self.encoders[name] = encoder
            self.projections[name] = nn.Sequential(
                nn.LayerNorm(encoder.width), nn.Linear(encoder.width, config.embedding_dim, bias=False)
            )
            self._modalities[name] = make_modality(name, spec.features)
        start = -math.log(config.initial_temperature)
        self.log_scales = nn.ParameterDict(
            {_key(names): nn.Parameter(torch.tensor(start), config.learn_temperature) for names in config.scaled}
        )
        self.config = config if restore else self._resolved()
        siglip = config.aligned if config.objective == "siglip" else ()
        self.logit_biases = nn.ParameterDict({_key(pair): nn.Parameter(torch.tensor(-10.0)) for pair in siglip})

    # --- what it holds ----------------------------------------------------------------------------------------------

    def modality(self, name: str) -> Modality[Any]:
        """The modality with the settings this model was trained with.

        Raises:
            ConfigError: the model has no such modality.
        """
        if name not in self._modalities:
            message = f"this model has no modality {name!r}; it has {', '.join(self._modalities)}"
            raise ConfigError(message)
        return self._modalities[name]

    @property
    def modalities(self) -> dict[str, Modality[Any]]:
        """Every modality, by name."""
        return dict(self._modalities)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def logit_scales(self) -> dict[Names, Tensor]:
        """Pair, or all modalities, → scalar 1/τ; empty where the objective has no temperature."""
        return {names: self.log_scales[_key(names)].exp() for names in self.config.scaled}

    def pair_biases(self) -> dict[Names, Tensor]:
        """Pair → scalar bias of the sigmoid objective; empty for the others."""
        return {pair: self.logit_biases[_key(pair)] for pair in self.config.aligned if _key(pair) in self.logit_biases}

    @torch.no_grad()
    def clamp_scales(self) -> None:
        """Keep 1/τ <= 100, as CLIP does: beyond it, training becomes unstable."""
        for scale in self.log_scales.values():
            scale.clamp_(max=MAX_LOG_SCALE)

    # --- embeddings -------------------------------------------------------------------------------------------------

    def encode(self, name: str, inputs: Inputs) -> Tensor:
        """(n, D) unit vectors of the n samples in `inputs`."""
        cast = {key: t.to(self.dtype) if t.is_floating_point() else t for key, t in inputs.items()}
        hidden = self.encoders[name](cast)  # (n, width)
        projected = self.projections[name](hidden)  # (n, D)
        return F.normalize(projected.to(self.dtype), dim=-1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Modality → (b, D); zero rows where a row does not have it.

        A modality that no row has passes its stand-in through the encoder with weight zero, so that
        every rank builds the same graph and joins the same collectives.
        """
        embeddings: dict[str, Tensor] = {}
        for name in self.config.modalities:
            z = self.encode(name, batch.inputs[name])  # (n, D)
            rows = batch.present[name].nonzero().flatten()  # (n,) or (0,)
            out = z.new_zeros(len(batch), z.shape[1])  # (b, D)
            embeddings[name] = out.index_copy(0, rows, z) if len(rows) else out + 0.0 * z.sum()
        return embeddings

    @torch.no_grad()
    def check_inputs(self) -> None:
        """See to it that every encoder takes what its modality makes, by a stand-in for a value.

        Raises:
            ConfigError: the settings of the two do not agree; the message names the modality.
        """
        was_training = self.training
        self.eval()
        try:
            for name, modality in self._modalities.items():
                self.encode(name, modality.collate([modality.stand_in()]))
        except ConfigError as error:
            raise ConfigError(f"modalities.{name}: {error}") from error
        finally:
            self.train(was_training)

    @torch.no_grad()
    def embed(self, name: str, values: Sequence[Any], batch_size: int = 64) -> NDArray[np.float32]:
        """Embed values of one modality.

        Args:
            name: the modality.
            values: what the modality's parser returns, e.g. `Crystal` or `DensityOfStates`.
            batch_size: values that pass the encoder together.

        Returns:
            (n, D) unit vectors.

        Raises:
            ConfigError: the model has no such modality.
            InputError: a value that cannot be featurised.
        """
        modality = self.modality(name)
        was_training = self.training
        self.eval()
        parts = [np.empty((0, self.config.embedding_dim), dtype=np.float32)]
        try:
            for start in range(0, len(values), batch_size):
                inputs = modality.collate([modality.featurise(value) for value in values[start : start + batch_size]])
                moved = {key: tensor.to(self.device) for key, tensor in inputs.items()}
                parts.append(self.encode(name, moved).float().cpu().numpy())
        finally:
            self.train(was_training)
        return np.concatenate(parts)

    # --- the directory ----------------------------------------------------------------------------------------------

    def to_files(self, card: ModelCard | None = None) -> Files:
        """Every file of the model's directory, `config.json` last."""
        from safetensors.torch import save

        card = self.card if card is None else card
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        files: Files = {WEIGHTS: save(state)}
        for name, encoder in self.encoders.items():
            files |= {f"{name}/{path}": data for path, data in encoder.files().items()}  # type: ignore[operator]
        digests = {path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())}
        described = ModelFile(format=self.format, config=self.config, card=card, files=digests)
        files[README] = _readme(self, card).encode()
        files[CONFIG] = described.to_json().encode()
        return files

    def _resolved(self) -> ModelConfig:
        """The settings with every default written out: a later version's defaults do not change this model.

        What was saved stays as it was: a model keeps its identity when a version adds a setting.
        """
        specs = {
            name: spec.model_copy(
                update={
                    "options": self.encoders[name].settings.model_dump(mode="json"),  # type: ignore[union-attr,operator]
                    "features": self._modalities[name].settings.model_dump(mode="json"),
                }
            )
            for name, spec in self.config.modalities.items()
        }
        written = {name: getattr(self.config, name) for name in ModelConfig.model_fields}
        return self.config.model_copy(update=written | {"modalities": specs})

    @property
    def sha256(self) -> str:
        """Identity of what the model computes: its settings, weights and files, without the card."""
        return ModelFile.model_validate_json(self.to_files()[CONFIG]).identity

    def save_pretrained(self, directory: str | Path, card: ModelCard | Mapping[str, Any] | None = None) -> None:
        """Write the model's directory; it must not hold another model."""
        if card is not None:
            self.card = card if isinstance(card, ModelCard) else ModelCard.from_mapping(dict(card), origin="the card")
        for path, data in self.to_files().items():
            target = Path(directory) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, origin: str) -> Self:
        """The model of a directory's files, verified.

        Raises:
            ModelError: a file is missing, altered, or of a version that is not known.
        """
        described = _read_config(files[CONFIG], origin)
        for path, digest in described.files.items():
            if path not in files or hashlib.sha256(files[path]).hexdigest() != digest:
                state = "missing" if path not in files else "not what config.json says it is"
                message = f"the model at {origin} is broken: {path} is {state}. Copy it again"
                raise ModelError(message)
        from safetensors import SafetensorError
        from safetensors.torch import load as load_tensors

        try:
            model = cls(described.config, {p: files[p] for p in described.files if "/" in p}, restore=True)
            model.load_state_dict(load_tensors(files[WEIGHTS]))
        except (ConfigError, RuntimeError, SafetensorError) as error:
            message = f"the model at {origin} does not fit this version of Crystalign: {error}"
            raise ModelError(message) from error
        model.card, model.format = described.card, described.format
        return model.eval()

    @classmethod
    def from_pretrained(cls, uri: str | Path) -> Self:
        """Read a model from a path or URI, and verify it.

        Raises:
            ModelError: there is no model, or it is broken or of a version that is not known.
        """
        from crystalign import storage

        uri = str(uri)
        try:
            files = {CONFIG: storage.read_bytes(storage.join(uri, CONFIG))}
            for path in _read_config(files[CONFIG], uri).files:
                files[path] = storage.read_bytes(storage.join(uri, *path.split("/")))
        except VerificationError:
            raise
        except StorageError as error:
            message = f"no model at {uri}: {error}"
            raise ModelError(message) from error
        return cls.from_files(files, origin=uri)


def load(uri: str | Path) -> Model:
    """The model at a path or URI (`file://`, `s3://`), ready to embed.

    Raises:
        ModelError: there is no model, or it is broken or of a version that is not known.
    """
    return Model.from_pretrained(uri)


def prepare(config: ModelConfig, values: Mapping[str, Sequence[Any]]) -> Files:
    """The files that the encoders need before the first step, e.g. a tokenizer trained on captions.

    Args:
        config: the model to be.
        values: modality → training values; only encoders with files look at theirs.

    Returns:
        `<modality>/<file>` → content, to be passed to `Model` on every rank.
    """
    files: Files = {}
    for name, spec in config.modalities.items():
        cls = encoder_class(spec.encoder)
        settings = encoder_settings(spec.encoder, spec.options)
        files |= {f"{name}/{path}": data for path, data in cls.prepare(settings, values.get(name, ())).items()}
    return files


def _key(names: Names) -> str:
    return "__".join(names)


def _read_config(data: bytes, origin: str) -> ModelFile:
    try:
        values = json.loads(data)
        version = values["format"]
    except (ValueError, KeyError, TypeError) as error:
        message = f"{origin} is not a model directory of Crystalign: its config.json has no format"
        raise ModelError(message) from error
    if version not in READABLE:
        readable = " and ".join(map(str, READABLE))
        message = f"the model at {origin} has format {version}, this version reads {readable}. Update Crystalign"
        raise ModelError(message)
    try:
        described = ModelFile.from_mapping(values, origin=f"{origin}/{CONFIG}")
    except ConfigError as error:
        raise ModelError(str(error)) from error
    refuse_older(described.config.modalities, version, origin)
    for path in described.files:
        if path.startswith("/") or ".." in path.split("/") or WEIGHTS not in described.files:
            message = f"the model at {origin} names {path!r}: a file outside its directory, or no weights"
            raise ModelError(message)
    return described


def refuse_older(modalities: Iterable[str], model_format: int, origin: str) -> None:
    """Refuse a model whose networks were trained on something else than this release would show them.

    Raises:
        ModelError: it reads such a modality.
    """
    for name in modalities:
        if model_format < modality_class(name).seen_since:
            raise ModelError(
                f"the model at {origin} has format {model_format}: an earlier release trained it on {name} in other "
                "settings than this one makes, so that it would answer wrongly. Train it again"
            )


def _readme(model: Model, card: ModelCard) -> str:
    rows = [
        f"| {name} | {spec.encoder} | {sum(p.numel() for p in model.encoders[name].parameters()):,} |"
        for name, spec in model.config.modalities.items()
    ]
    facts = {
        "Aligned pairs": ", ".join(" ↔ ".join(pair) for pair in model.config.aligned),
        "Embedding": f"{model.config.embedding_dim} dimensions, unit length",
        "Objective": model.config.objective,
        "Dataset": f"{card.dataset_uri or 'not recorded'} (sha256 {card.dataset_sha256[:16] or 'not recorded'})",
        "Split": json.dumps(card.split) if card.split else "not recorded",
        "Sources": ", ".join(card.sources) or "not recorded",
        "Licences of the data": ", ".join(card.licences) or "not recorded",
        "Trained": f"{card.steps:,} steps, {card.samples:,} samples",
    }
    lines = [f"# {card.name or 'A Crystalign model'}", "", *(f"- **{key}**: {text}" for key, text in facts.items())]
    lines += ["", "| modality | encoder | parameters |", "| --- | --- | ---: |", *rows]
    if card.metrics:
        lines += ["", "| metric | value |", "| --- | ---: |", *(f"| {k} | {v:.4g} |" for k, v in card.metrics.items())]
    usage = '```python\nimport crystalign\n\nmodel = crystalign.load("<this directory>")\n```'
    return "\n".join([*lines, "", usage, ""])
