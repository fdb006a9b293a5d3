"""`PropertyModel`: encoders, fusion and heads that predict a property of a material."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from crystalign.batch import Batch
from crystalign.crystal import Crystal
from crystalign.encoders.encoder import Encoder
from crystalign.errors import ConfigError, ModelError
from crystalign.finetuning.data.features import batch_of
from crystalign.finetuning.model.building import fresh_encoders, fresh_projection
from crystalign.finetuning.model.description import DOMAIN, KIND, domain_file, parse_description, readme
from crystalign.finetuning.network.config import FORMAT, Calibration, NetworkConfig, PropertyCard, PropertyModelFile
from crystalign.finetuning.network.elastic_head import ElasticHead
from crystalign.finetuning.network.elastic_tensors import mandel_to_voigt
from crystalign.finetuning.network.fusion import Fusion, Views, weighted
from crystalign.finetuning.network.heads import vector_head
from crystalign.finetuning.prediction.domain import Domain
from crystalign.finetuning.prediction.predictor import Prediction, as_material, predict_together
from crystalign.material import Material
from crystalign.modalities import Inputs, Modality, make_modality
from crystalign.model_config import ModalitySpec
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
    write_files,
)
from crystalign.storage import FileEntry


class PropertyModel(nn.Module):
    """ẑ = Σ_p w_p head_p(fusion_p(encoder_m(x_m), …)), the mean over predictors p; y = scale⁻¹(ẑ).

    With early fusion, one modality and a linear head this is MultiMat's property network plus a LayerNorm before the
    head. It is saved in a directory like that of `Model`: see `save_pretrained` and `from_pretrained`.
    """

    weights: Tensor

    def __init__(
        self,
        config: NetworkConfig,
        encoders: Mapping[str, Encoder],
        projections: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Make a network with fresh fusion and heads on given encoders.

        Args:
            config: settings of the network.
            encoders: modality → its network; `fresh_encoders` makes them, `taken_from` takes them.
            projections: modality → its map to the aligned space, where `config.vectors` is `embedding`.
        """
        super().__init__()
        self.encoders = nn.ModuleDict({name: encoders[name] for name in config.modalities})
        chosen = {name: projections[name] for name in config.modalities} if projections else {}
        self.projections = nn.ModuleDict(chosen)
        assert bool(chosen) == (config.vectors == "embedding")
        self._modalities = {name: make_modality(name, spec.features) for name, spec in config.modalities.items()}
        self.config = config.model_copy(update={"modalities": self._resolved(config.modalities)})
        widths = {name: config.embedding_dim or encoders[name].width for name in config.modalities}
        self.fusion = Fusion(config.fusion, widths)
        targets, scaler = config.targets, config.scaler
        self.heads = nn.ModuleDict()
        for name in self.fusion.predictors:
            width = self.fusion.widths[name]
            self.heads[name] = (
                ElasticHead(width, config.head.hidden[0], targets, scaler)
                if config.head.kind == "elastic"
                else vector_head(config.head, width, len(targets))
            )
        self.register_buffer("weights", torch.full((len(self.heads),), 1.0 / len(self.heads)))
        self.card = PropertyCard()
        self.format = FORMAT
        """Format of the directory that the model was read from. It stays the same, so the model's identity does
        too."""
        self.calibration: Calibration | None = None
        self.domain: Domain | None = None
        self.frozen = False

    # --- what it holds ----------------------------------------------------------------------------------------------

    @property
    def modalities(self) -> dict[str, Modality[Any]]:
        """Modalities that the model can read, by name, with the settings it was trained with."""
        return dict(self._modalities)

    @property
    def targets(self) -> tuple[str, ...]:
        """The T property columns that the model predicts."""
        return tuple(spec.column for spec in self.config.targets)

    @property
    def members(self) -> tuple[PropertyModel, ...]:
        """The model itself; an ensemble has several members."""
        return (self,)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def encoder_sha256(self) -> str:
        """Identity of the model up to the fusion; models with equal identities share one pass of the encoders."""
        specs = {name: spec.model_dump(mode="json") for name, spec in self.config.modalities.items()}
        digest = hashlib.sha256(json.dumps([specs, self.config.vectors], sort_keys=True).encode())
        for part in (self.encoders, self.projections):
            for name, tensor in sorted(part.state_dict().items()):
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def freeze(self) -> None:
        """Freeze the encoders, so that only fusion and heads are trained (probing)."""
        self.frozen = True
        for part in (self.encoders, self.projections):
            part.requires_grad_(requires_grad=False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; frozen encoders stay in evaluation mode, without dropout."""
        super().train(mode)
        if self.frozen:
            self.encoders.eval()
            self.projections.eval()
        return self

    # --- the network ------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return outputs (n, P, T) of the predictors, and a mask (n, P) of those that have input."""
        return self.answers(self.encode(batch), batch.inputs.get("crystal"))

    def encode(self, batch: Batch) -> Views:
        """Run the encoders, the part of the network that is independent for each modality."""
        vectors: dict[str, Tensor] = {}
        present = {name: batch.present[name] for name in self.encoders}
        for name, encoder in self.encoders.items():
            rows = present[name].nonzero().flatten()  # (k,)
            width = self.config.embedding_dim or int(encoder.width)  # type: ignore[arg-type]
            vectors[name] = torch.zeros(len(batch), width, dtype=self.dtype, device=rows.device)  # (n, width)
            if len(rows):
                inputs = self._cast(batch.inputs[name])
                hidden = encoder(inputs)  # (k, width)
                if name in self.projections:
                    hidden = F.normalize(self.projections[name](hidden), dim=-1)  # (k, D)
                vectors[name] = vectors[name].index_copy(0, rows, hidden.to(self.dtype))
        return Views(vectors, present)

    def answers(self, views: Views, crystals: Inputs | None = None) -> tuple[Tensor, Tensor]:
        """Return outputs (n, P, T) and mask (n, P) from the encoders' output; elastic heads need the crystals."""
        vectors, able = self.fusion(views)
        inputs = None if crystals is None else self._cast(crystals)
        outputs = [self.heads[name](vectors[name], inputs) for name in self.fusion.predictors]  # (n, T) each
        return torch.stack(outputs, dim=1), able

    def combined(self, outputs: Tensor, able: Tensor) -> Tensor:
        """Return the weighted mean (n, T) of the predictors on the network's scale; probabilities are averaged."""
        if self.config.task.kind == "regression" or outputs.shape[1] == 1:
            return weighted(outputs, able, self.weights)
        return weighted(outputs.sigmoid(), able, self.weights).logit(eps=1e-6)

    def represent(self, views: Views) -> Tensor:
        """Return the vectors (n, R) that `Domain` compares: concatenated modalities, normalised, zero if missing."""
        embeddings = [views.vectors[name] for name in self.fusion.modalities]
        vectors = [F.layer_norm(v, v.shape[1:]) / v.shape[1] ** 0.5 for v in embeddings]
        present = [views.present[name][:, None].to(self.dtype) for name in self.fusion.modalities]
        return torch.cat([vector * flag for vector, flag in zip(vectors, present, strict=True)], dim=1)

    @torch.no_grad()
    def elastic_tensors(self, materials: Sequence[Material | Crystal]) -> NDArray[np.float64]:
        """Predict elastic tensors (n, 6, 6) in GPa, Voigt notation, in the Cartesian axes of each crystal.

        Use `in_ieee_frame` for the orientation in which tensors are tabulated.


        Raises:
            ConfigError: the head is not elastic.
            InputError: a crystal cannot be encoded.
        """
        head = self.heads[self.fusion.predictors[0]]
        if not isinstance(head, ElasticHead):
            raise ConfigError(f"this model has a {self.config.head.kind} head, not an elastic one")
        self.eval()
        batch = batch_of([as_material(value) for value in materials], self._modalities).to(self.device)
        vectors, _ = self.fusion(self.encode(batch))
        tensors = head.tensors(vectors[self.fusion.predictors[0]], self._cast(batch.inputs["crystal"]))
        return np.asarray(mandel_to_voigt(tensors.double()).cpu().numpy())

    def predict(
        self, materials: Sequence[Material | Crystal], *, level: float = 0.9, batch_size: int = 64
    ) -> Prediction:
        """Predict values, intervals and out-of-domain scores of n materials.

        Args:
            materials: materials with any modalities; a crystal provides its structure and its composition.
            level: coverage of the intervals, one of `LEVELS`.
            batch_size: materials per forward pass.

        Raises:
            InputError: a material has none of the model's modalities, or cannot be encoded.
            ConfigError: the level is not calibrated.
        """
        return predict_together({"": self}, materials, level=level, batch_size=batch_size)[""]

    def _cast(self, inputs: Inputs) -> Inputs:
        return {key: t.to(self.dtype) if t.is_floating_point() else t for key, t in inputs.items()}

    def _resolved(self, specs: Mapping[str, ModalitySpec]) -> dict[str, ModalitySpec]:
        """Settings with all defaults written out, so that a later version's defaults do not change this model."""
        return {
            name: spec.model_copy(
                update={
                    "options": self.encoders[name].settings.model_dump(mode="json"),  # type: ignore[union-attr,operator]
                    "features": self._modalities[name].settings.model_dump(mode="json"),
                }
            )
            for name, spec in specs.items()
        }

    # --- the directory ----------------------------------------------------------------------------------------------

    def to_files(self) -> Files:
        """Return every file of the model directory, `config.json` last."""
        own = {name: encoder.files() for name, encoder in self.encoders.items()}  # type: ignore[operator]
        files = described_files(self, own, {} if self.domain is None else {DOMAIN: domain_file(self.domain)})
        described = PropertyModelFile(
            format=self.format,
            config=self.config,
            calibration=self.calibration,
            domain_scale=None if self.domain is None else self.domain.scale,
            card=self.card,
            files=digests(files),
        )
        files[README] = readme(described, sum(p.numel() for p in self.parameters())).encode()
        files[CONFIG] = (described.model_dump_json(indent=2) + "\n").encode()
        return files

    @property
    def sha256(self) -> str:
        """Identity of the model: sha256 of its settings, weights and files, without the card."""
        return PropertyModelFile.model_validate_json(self.to_files()[CONFIG]).identity

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the model directory with `self.card`; the folder must not hold another model."""
        save_files(self.to_files(), directory)

    def write(self, uri: str) -> list[FileEntry]:
        """Write the model directory to any URI, `config.json` last, and read every file back to verify it.

        Returns:
            The files, with paths relative to `uri`.

        Raises:
            StorageError: the store refuses a file, or returns other content than was written.
        """
        return write_files(self.to_files(), uri)

    @classmethod
    def from_pretrained(cls, uri: str | Path) -> Self:
        """Read a model from a path or URI, and verify it.

        Raises:
            ModelError: there is no such model, or it is broken or of a version that is not known.
        """
        uri = str(uri)
        files = read_files(uri, lambda data: parse_description(data, uri).files, kind=KIND)
        return cls.from_files(files, origin=uri)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, origin: str) -> Self:
        """Load a model from the files of its directory and verify them.

        Raises:
            ModelError: a file is missing, altered, or of a version that is not known.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        described = parse_description(files[CONFIG], origin)
        check_files(files, described.files, origin)
        config = described.config
        try:
            own = {path: files[path] for path in described.files if "/" in path}
            encoders = fresh_encoders(config.modalities, own, restore=True)
            projections = {
                name: fresh_projection(encoder.width, config.embedding_dim)
                for name, encoder in encoders.items()
                if config.embedding_dim is not None
            }
            model = cls(config, encoders, projections)
            model.config = config  # as saved, so that its identity does not change
            model.load_state_dict(load(files[WEIGHTS]))
            if DOMAIN in described.files and described.domain_scale is not None:
                model.domain = Domain(load(files[DOMAIN])["reference"].numpy(), described.domain_scale)
        except (ConfigError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"the model at {origin} does not fit this version of Crystalign: {error}") from error
        model.card, model.calibration, model.format = described.card, described.calibration, described.format
        return model.eval()
