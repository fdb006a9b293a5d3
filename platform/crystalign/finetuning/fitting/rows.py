"""Inputs of a network for labelled rows: features, or cached vectors of frozen encoders."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalign.errors import ConfigError
from crystalign.finetuning.data.features import FeatureStore
from crystalign.finetuning.data.task import Labels
from crystalign.finetuning.model.property_model import PropertyModel
from crystalign.finetuning.network.fusion import Views
from crystalign.modalities import Inputs

CHUNK = 256
"""Rows per forward pass in inference."""

Rows = NDArray[np.int64]


class LabelledRows:
    """Outputs of a model for rows of `Labels`; the vectors of frozen encoders are computed once and cached."""

    def __init__(self, model: PropertyModel, store: FeatureStore, labels: Labels) -> None:
        """Join the three.

        Args:
            model: used in its current state at each call.
            store: where features are kept.
            labels: of the store's dataset.
        """
        self.model, self.store, self.labels = model, store, labels
        scaled = model.config.scaler.scaled(labels.values)
        self.wanted = torch.from_numpy(np.asarray(scaled, np.float32))
        """(N, T) labels on the scale of the network; NaN where not known."""
        self._views: Views | None = None
        self._where = np.full(len(labels), -1, np.int64)

    def prepare(self, rows: Rows) -> None:
        """Featurise these rows and, if the encoders are frozen, encode them.

        Raises:
            ConfigError: a row has none of the model's modalities.
            InputError: a value cannot be featurised.
        """
        self.store.prepare(self.labels.places[rows], self.model.modalities)
        if self.model.frozen:
            new = rows[self._where[rows] < 0]
            parts = [self._encode(new[start : start + CHUNK]) for start in range(0, len(new), CHUNK)]
            if parts:
                self._where[new] = np.arange(len(new)) + int((self._where >= 0).sum())
                self._views = _joined([*([self._views] if self._views else []), *parts])

    def answers(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return outputs (n, P, T) and mask (n, P), with gradients if the model is in training."""
        if self.model.frozen:
            return self.model.answers(self._views_of(rows), self._crystals(rows))
        batch = self.store.batch(self.labels.places[rows], self.model.modalities).to(self.model.device)
        outputs, able = self.model(batch)
        return outputs, able

    @torch.no_grad()
    def outputs(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return `answers` for any number of rows, in evaluation mode: no gradients, no dropout."""
        was_training = self.model.training
        self.model.eval()
        try:
            parts = [self.answers(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)]
        finally:
            self.model.train(was_training)
        return torch.cat([out for out, _ in parts]).cpu(), torch.cat([able for _, able in parts]).cpu()

    def predict(self, rows: Rows) -> Tensor:
        """Return predictions (n, T) on the scale of the network."""
        outputs, able = self.outputs(rows)
        device = self.model.device
        return self.model.combined(outputs.to(device), able.to(device)).detach().cpu()

    @torch.no_grad()
    def tell(self, rows: Rows) -> tuple[Tensor, NDArray[np.float32]]:
        """Return `predict` and the vectors (n, R) that `Domain` compares, from one pass of the encoders."""
        self.model.eval()
        predicted, vectors = [], []
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            views = self._views_of(chunk)
            predicted.append(self.model.combined(*self.model.answers(views, self._crystals(chunk))).cpu())
            vectors.append(self.model.represent(views).float().cpu())
        return torch.cat(predicted), np.asarray(torch.cat(vectors).numpy())

    def _views_of(self, rows: Rows) -> Views:
        if not self.model.frozen:
            return self._encode(rows)
        if (self._where[rows] < 0).any():
            self.prepare(rows)
        assert self._views is not None
        at = torch.from_numpy(self._where[rows]).to(self.model.device)
        vectors = {name: vector[at] for name, vector in self._views.vectors.items()}
        return Views(vectors, {name: present[at] for name, present in self._views.present.items()})

    @torch.no_grad()
    def _encode(self, rows: Rows) -> Views:
        batch = self.store.batch(self.labels.places[rows], self.model.modalities)
        has_input = torch.stack(list(batch.present.values())).any(dim=0)
        if not bool(has_input.all()):
            lacking = self.labels.ids[int(rows[int((~has_input).nonzero()[0, 0])])]
            raise ConfigError(
                f"modalities: {lacking} and perhaps others have none of {', '.join(batch.present)}; derive them, or "
                "choose others"
            )
        return self.model.encode(batch.to(self.model.device))

    def _crystals(self, rows: Rows) -> Inputs | None:
        if self.model.config.head.kind != "elastic":
            return None
        crystal = {"crystal": self.model.modalities["crystal"]}
        return self.store.batch(self.labels.places[rows], crystal).to(self.model.device).inputs["crystal"]


def _joined(parts: list[Views]) -> Views:
    names = list(parts[0].vectors)
    return Views(
        {name: torch.cat([part.vectors[name] for part in parts]) for name in names},
        {name: torch.cat([part.present[name] for part in parts]) for name in names},
    )
