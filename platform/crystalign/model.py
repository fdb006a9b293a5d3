"""`Model`: one encoder and projection per modality, a shared embedding space, and the objective's own parameters.

`crystalign.model_directory` describes the files of a model directory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from crystalign.batch import Batch
from crystalign.encoders import encoder_class, encoder_settings
from crystalign.errors import ConfigError, ModelError
from crystalign.modalities import Inputs, Modality, make_modality
from crystalign.model_config import ModalitySpec, ModelCard, ModelConfig, ModelFile
from crystalign.model_description import FORMAT, KIND, parse_description
from crystalign.model_directory import (
    CONFIG,
    README,
    WEIGHTS,
    Files,
    check_files,
    described_files,
    digests,
    read_files,
    save_files,
)
from crystalign.objectives import Loss, Names

__all__ = ["ModalitySpec", "Model", "ModelCard", "ModelConfig", "load", "prepare"]


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Model(nn.Module):
    """Maps each modality of a material to a unit vector in one space.

    z_m = normalise(W_m · LayerNorm(encoder_m(x_m))) ∈ R^D. Some encoders need files, such as a tokenizer;
    `from_pretrained` and `prepare` supply them.
    """

    def __init__(self, config: ModelConfig, files: Mapping[str, bytes] | None = None, *, restore: bool = False) -> None:
        """Make a model with fresh weights.

        Args:
            config: encoders, pairs, objective.
            files: `<modality>/<file>` → content, as `prepare` made them.
            restore: skip published weights because the caller loads the weights afterwards.
        """
        super().__init__()
        self.config = config
        self.format = FORMAT
        """Format of the directory that the model was read from. It stays the same, so the model's identity does
        too."""
        self.stored: ModelFile | None = None
        """Content of `config.json` in that directory."""
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
        self.config = config if restore else self._resolved()
        groups = config.objective.parameters(tuple(config.modalities))
        for group, module in groups.items():
            if hasattr(self, group):
                raise ConfigError(f"objective {config.objective.kind!r} must not call its parameters {group!r}")
            self.add_module(group, module)
        self._objective_groups = tuple(groups)

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
        """Data type of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    # --- its objective ----------------------------------------------------------------------------------------------

    @property
    def objective_parameters(self) -> dict[str, nn.Module]:
        """The objective's trained parameters by name, e.g. temperatures and biases."""
        return {group: self.get_submodule(group) for group in self._objective_groups}

    def loss(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor], keys: Mapping[str, Tensor]) -> Loss:
        """Compute the objective on a batch of embeddings.

        Args:
            embeddings: modality → (b, D), this rank's unit vectors; zero where absent.
            present: modality → (b,) bool.
            keys: modality → (b, K) int64; two rows with an equal key in any column look alike in the modality.

        Returns:
            This rank's share, whose mean over ranks is the global loss.
        """
        return self.config.objective.loss(self.objective_parameters, embeddings, present, keys)

    def logit_scales(self) -> dict[Names, Tensor]:
        """Pair (or tuple of all modalities) → scalar 1/τ; empty if the objective has no temperature."""
        return self.config.objective.logit_scales(self.objective_parameters)

    @torch.no_grad()
    def constrain(self) -> None:
        """Clamp the objective's parameters to their bounds; called after each optimiser step."""
        self.config.objective.constrain(self.objective_parameters)

    # --- embeddings -------------------------------------------------------------------------------------------------

    def encode(self, name: str, inputs: Inputs) -> Tensor:
        """Return (n, D) unit vectors of the n samples in `inputs`."""
        cast = {key: t.to(self.dtype) if t.is_floating_point() else t for key, t in inputs.items()}
        hidden = self.encoders[name](cast)  # (n, width)
        projected = self.projections[name](hidden)  # (n, D)
        return F.normalize(projected.to(self.dtype), dim=-1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Embed a batch: modality → (b, D), with a zero row where a material lacks the modality.

        If no row has a modality, its empty sample passes the encoder with weight zero. Every rank then builds the
        same graph and joins the same collectives.
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
        """Check that each encoder accepts the tensors of its modality, by encoding an empty sample.

        Raises:
            ConfigError: the settings of encoder and modality do not match; the message names the modality.
        """
        was_training = self.training
        self.eval()
        try:
            for name, modality in self._modalities.items():
                self.encode(name, modality.collate([modality.empty_sample()]))
        except ConfigError as error:
            raise ConfigError(f"modalities.{name}: {error}") from error
        finally:
            self.train(was_training)

    @torch.no_grad()
    def embed(self, name: str, values: Sequence[Any], batch_size: int = 64) -> NDArray[np.float32]:
        """Embed values of one modality. The features of a batch are made while the network encodes the one before.

        Args:
            name: the modality.
            values: what the modality's parser returns, e.g. `Crystal` or `DensityOfStates`.
            batch_size: values per forward pass.

        Returns:
            (n, D) unit vectors.

        Raises:
            ConfigError: the model has no such modality.
            InputError: a value cannot be featurised.
        """
        modality = self.modality(name)
        was_training = self.training
        self.eval()
        parts = [np.empty((0, self.config.embedding_dim), dtype=np.float32)]
        try:
            batches = [values[start : start + batch_size] for start in range(0, len(values), batch_size)]
            for inputs in _ahead(lambda some: modality.collate([modality.featurise(v) for v in some]), batches):
                moved = {key: tensor.to(self.device) for key, tensor in inputs.items()}
                parts.append(self.encode(name, moved).float().cpu().numpy())
        finally:
            self.train(was_training)
        return np.concatenate(parts)

    # --- the directory ----------------------------------------------------------------------------------------------

    def to_files(self, card: ModelCard | None = None) -> Files:
        """Return every file of the model directory, `config.json` last."""
        card = self.card if card is None else card
        own = {name: encoder.files() for name, encoder in self.encoders.items()}  # type: ignore[operator]
        files = described_files(self, own, {})
        listed = digests(files)
        described = ModelFile(format=self.format, config=self.config, card=card, files=listed)
        if self.stored is not None:
            described = self.stored.model_copy(update={"card": card, "files": listed})
        files[README] = _readme(self, card).encode()
        files[CONFIG] = described.to_json().encode()
        return files

    def _resolved(self) -> ModelConfig:
        """Settings with all defaults written out, so that a later version's defaults do not change this model.

        Saved settings are left unchanged, so a model keeps its identity when a later version adds a setting.
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
        return self.config.model_copy(update={"modalities": specs}).written_out()

    @property
    def sha256(self) -> str:
        """Identity of the model: sha256 of its settings, weights and files, without the card."""
        return ModelFile.model_validate_json(self.to_files()[CONFIG]).identity

    def save_pretrained(self, directory: str | Path, card: ModelCard | Mapping[str, Any] | None = None) -> None:
        """Write the model directory; the folder must not hold another model."""
        if card is not None:
            self.card = card if isinstance(card, ModelCard) else ModelCard.from_mapping(dict(card), origin="the card")
        save_files(self.to_files(), directory)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, origin: str) -> Self:
        """Load a model from the files of its directory and verify them.

        Raises:
            ModelError: a file is missing, altered, or of a version that is not known.
        """
        described = parse_description(files[CONFIG], origin)
        check_files(files, described.files, origin)
        from safetensors import SafetensorError
        from safetensors.torch import load as load_tensors

        try:
            model = cls(described.config, {p: files[p] for p in described.files if "/" in p}, restore=True)
            model.load_state_dict(load_tensors(files[WEIGHTS]))
        except (ConfigError, RuntimeError, SafetensorError) as error:
            message = f"the model at {origin} does not fit this version of Crystalign: {error}"
            raise ModelError(message) from error
        model.card, model.format, model.stored = described.card, described.format, described
        return model.eval()

    @classmethod
    def from_pretrained(cls, uri: str | Path) -> Self:
        """Read a model from a path or URI, and verify it.

        Raises:
            ModelError: there is no model, or it is broken or of a version that is not known.
        """
        uri = str(uri)
        files = read_files(uri, lambda data: parse_description(data, uri).files, kind=KIND)
        return cls.from_files(files, origin=uri)


def load(uri: str | Path) -> Model:
    """The model at a path or URI (`file://`, `s3://`), ready to embed.

    Raises:
        ModelError: there is no model, or it is broken or of a version that is not known.
    """
    return Model.from_pretrained(uri)


def prepare(config: ModelConfig, values: Mapping[str, Sequence[Any]]) -> Files:
    """Make the files that encoders need before the first step, e.g. a tokenizer trained on captions.

    Args:
        config: settings of the model.
        values: modality → training values; only encoders that need files use them.

    Returns:
        `<modality>/<file>` → content, to be passed to `Model` on every rank.
    """
    files: Files = {}
    for name, spec in config.modalities.items():
        cls = encoder_class(spec.encoder)
        settings = encoder_settings(spec.encoder, spec.options)
        files |= {f"{name}/{path}": data for path, data in cls.prepare(settings, values.get(name, ())).items()}
    return files


def _ahead(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """The result of `work` for each item, in order; the next one is computed in a thread while one is used."""
    if len(items) < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(1, "features") as thread:
        following = thread.submit(work, items[0])
        for item in items[1:]:
            result, following = following.result(), thread.submit(work, item)
            yield result
        yield following.result()


def _readme(model: Model, card: ModelCard) -> str:
    rows = [
        f"| {name} | {spec.encoder} | {sum(p.numel() for p in model.encoders[name].parameters()):,} |"
        for name, spec in model.config.modalities.items()
    ]
    facts = {
        "Aligned pairs": ", ".join(" ↔ ".join(pair) for pair in model.config.aligned),
        "Embedding": f"{model.config.embedding_dim} dimensions, unit length",
        "Objective": model.config.objective.kind,
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
