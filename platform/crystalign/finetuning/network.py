"""`PropertyModel`: encoders, fusion and heads that predict a property of a material."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from crystalign.encoders import encoder_class, encoder_settings
from crystalign.encoders.encoder import Encoder, Files
from crystalign.errors import ConfigError
from crystalign.finetuning.domain import Domain
from crystalign.finetuning.elastic import mandel_to_voigt
from crystalign.finetuning.elastic_head import ElasticHead
from crystalign.finetuning.features import batch_of
from crystalign.finetuning.fusion import Fusion, Views, weighted
from crystalign.finetuning.heads import vector_head
from crystalign.finetuning.network_config import FORMAT, Calibration, NetworkConfig, PropertyCard
from crystalign.modalities import Inputs, Modality, make_modality
from crystalign.model import Model
from crystalign.model_config import ModalitySpec
from crystalign.training.batch import Batch

if TYPE_CHECKING:
    from crystalign.crystal import Crystal
    from crystalign.finetuning.prediction import Prediction
    from crystalign.material import Material


class PropertyModel(nn.Module):
    """ẑ = Σ_p w_p head_p(fusion_p(encoder_m(x_m), …)), the mean over predictors p; y = scale⁻¹(ẑ).

    With an early fusion of one modality and a linear head this is MultiMat's network for properties, but for a
    LayerNorm before the head. A directory like `Model`'s holds it: `save_pretrained`, `from_pretrained`.
    """

    weights: Tensor

    def __init__(
        self,
        config: NetworkConfig,
        encoders: Mapping[str, Encoder],
        projections: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Fresh fusion and heads on given encoders.

        Args:
            config: what there is.
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
        """Of the directory it was read from: a model keeps its identity."""
        self.calibration: Calibration | None = None
        self.domain: Domain | None = None
        self.frozen = False

    # --- what it holds ----------------------------------------------------------------------------------------------

    @property
    def modalities(self) -> dict[str, Modality[Any]]:
        """Every modality that it may read, by name, with the settings it was trained with."""
        return dict(self._modalities)

    @property
    def targets(self) -> tuple[str, ...]:
        """(T,) the property columns that it predicts."""
        return tuple(spec.column for spec in self.config.targets)

    @property
    def members(self) -> tuple[PropertyModel, ...]:
        """Itself: an ensemble has several."""
        return (self,)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encoder_sha256(self) -> str:
        """Identity of what happens before the fusion: models of one identity share one pass of the encoders."""
        specs = {name: spec.model_dump(mode="json") for name, spec in self.config.modalities.items()}
        digest = hashlib.sha256(json.dumps([specs, self.config.vectors], sort_keys=True).encode())
        for part in (self.encoders, self.projections):
            for name, tensor in sorted(part.state_dict().items()):
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def freeze(self) -> None:
        """Keep the encoders as they are: only fusion and heads learn (a probe)."""
        self.frozen = True
        for part in (self.encoders, self.projections):
            part.requires_grad_(requires_grad=False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As any module; frozen encoders never drop anything."""
        super().train(mode)
        if self.frozen:
            self.encoders.eval()
            self.projections.eval()
        return self

    # --- the network ------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(n, P, T) answers of the predictors, and (n, P) bool, which of them know anything."""
        return self.answers(self.encode(batch), batch.inputs.get("crystal"))

    def encode(self, batch: Batch) -> Views:
        """What the encoders say: the only part that materials pass one by one."""
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
        """(n, P, T) and (n, P), from what the encoders say; the crystals are for an elastic head."""
        vectors, able = self.fusion(views)
        inputs = None if crystals is None else self._cast(crystals)
        found = [self.heads[name](vectors[name], inputs) for name in self.fusion.predictors]  # (n, T) each
        return torch.stack(found, dim=1), able

    def combined(self, outputs: Tensor, able: Tensor) -> Tensor:
        """(n, T) the weighted mean of the predictors, on the scale of the network; probabilities are averaged."""
        if self.config.task.kind == "regression" or outputs.shape[1] == 1:
            return weighted(outputs, able, self.weights)
        return weighted(outputs.sigmoid(), able, self.weights).logit(eps=1e-6)

    def represent(self, views: Views) -> Tensor:
        """(n, R) the modalities side by side, each normalised and zero where missing: what `Domain` compares."""
        found = [views.vectors[name] for name in self.fusion.modalities]
        vectors = [F.layer_norm(v, v.shape[1:]) / v.shape[1] ** 0.5 for v in found]
        known = [views.present[name][:, None].to(self.dtype) for name in self.fusion.modalities]
        return torch.cat([vector * flag for vector, flag in zip(vectors, known, strict=True)], dim=1)

    @torch.no_grad()
    def elastic_tensors(self, materials: Sequence[Material | Crystal]) -> NDArray[np.float64]:
        """(n, 6, 6) GPa, Voigt's notation, in the Cartesian axes of each crystal; tables print them `in_ieee_frame`.

        Raises:
            ConfigError: the head is not elastic.
            InputError: a crystal that cannot be encoded.
        """
        from crystalign.finetuning.prediction import as_material

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
        """Values, intervals and out-of-domain scores of n materials.

        Args:
            materials: with whatever modalities they have; a bare crystal has its structure and its composition.
            level: of the intervals, one of `LEVELS`.
            batch_size: materials that pass the encoders together.

        Raises:
            InputError: a material that has none of the model's modalities, or that cannot be encoded.
            ConfigError: a level that is not calibrated.
        """
        from crystalign.finetuning.prediction import predict_together

        return predict_together({"": self}, materials, level=level, batch_size=batch_size)[""]

    def _cast(self, inputs: Inputs) -> Inputs:
        return {key: t.to(self.dtype) if t.is_floating_point() else t for key, t in inputs.items()}

    def _resolved(self, specs: Mapping[str, ModalitySpec]) -> dict[str, ModalitySpec]:
        """Every default written out: a later version's defaults do not change this model."""
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

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the model's directory; it must not hold another model. The card is `self.card`."""
        from crystalign.finetuning.network_files import to_files

        for path, data in to_files(self).items():
            target = Path(directory) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)

    @classmethod
    def from_pretrained(cls, uri: str | Path) -> PropertyModel:
        """Read a model from a path or URI, and verify it.

        Raises:
            ModelError: there is no such model, or it is broken or of a version that is not known.
        """
        from crystalign.finetuning.network_files import read_model

        return read_model(str(uri))


def fresh_encoders(
    specs: Mapping[str, ModalitySpec], files: Mapping[str, bytes], *, restore: bool = False
) -> dict[str, Encoder]:
    """Encoders with fresh weights, of published networks with theirs.

    Args:
        specs: modality → its encoder.
        files: `<modality>/<file>` → content, as `crystalign.model.prepare` makes them.
        restore: the caller will load the weights, so published ones are not read.

    Raises:
        ConfigError: a setting that an encoder does not have, or a file that it needs.
    """
    found = {}
    for name, spec in specs.items():
        cls, settings = encoder_class(spec.encoder), encoder_settings(spec.encoder, spec.options)
        own: Files = {path.partition("/")[2]: data for path, data in files.items() if path.startswith(f"{name}/")}
        found[name] = cls.restore(settings, own) if restore else cls.build(settings, own)
    return found


def taken_from(model: Model, modalities: Sequence[str]) -> tuple[dict[str, Encoder], dict[str, nn.Module]]:
    """Copies of a pre-trained model's encoders and projections.

    Raises:
        ConfigError: it has no such modality.
    """
    for name in modalities:
        model.modality(name)
    encoders = {name: copy.deepcopy(model.encoders[name]) for name in modalities}
    return encoders, {name: copy.deepcopy(model.projections[name]) for name in modalities}  # type: ignore[return-value]


def fresh_projection(width: int, embedding_dim: int) -> nn.Module:
    """What `Model` puts on an encoder, with fresh weights."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, embedding_dim, bias=False))
