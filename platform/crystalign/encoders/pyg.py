"""Crystal encoder around a geometric network of PyTorch Geometric or of the user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from crystalign.config import Config
from crystalign.encoders.crystal_graph import mean_over_atoms
from crystalign.encoders.encoder import Encoder
from crystalign.encoders.graph_batch import as_inputs, to_batch
from crystalign.encoders.trusted_code import IMPORT_PATH, trusted_class
from crystalign.errors import ConfigError
from crystalign.modalities import Inputs

if TYPE_CHECKING:
    from torch_geometric.data import Batch

SIZES = ("hidden", "layers", "gaussians", "cutoff")
MODELS = {
    "schnet": SIZES,
    "visnet": (*SIZES, "heads", "degree"),
    "cgconv": SIZES,
    "transformer": (*SIZES, "heads"),
}
"""Model → its options besides `width`."""
REFUSED = {"dimenet", "dimenet++", "dimenetplusplus", "gnnff"}
"""Networks of PyTorch Geometric that are not supported; see the docstring of `PyG` for the reason."""


class PyG(Encoder):
    """A geometric network of PyTorch Geometric over a crystal's periodic edges.

    In a model's configuration::

        modalities:
          crystal: {encoder: pyg, options: {model: schnet, hidden: 128, layers: 6}}

    `model` is one of

    - `schnet`: SchNet, continuous filters of the distance (Schütt et al. 2018). Exact: with the same weights, PyTorch
      Geometric's `SchNet` gives the same numbers
    - `visnet`: ViSNet, attention with directions up to `degree` (Wang et al. 2024). An edge between an atom and its
      own periodic image is an edge like any other
    - `cgconv`: a stack of `CGConv`, the convolution of CGCNN (Xie & Grossman 2018), with LayerNorm
    - `transformer`: a stack of `TransformerConv`, softmax attention over neighbours (Shi et al. 2021), with LayerNorm
    - `my_package.module:Class`: your own network, see below

    The network gives each atom a vector; the output is W times their mean, of length `width`. Edges join all
    neighbours within 5 Å. For another radius, set `cutoff` here and in the modality's `features`. A site with mixed
    occupancy gets the occupancy-weighted sum of its element vectors.

    DimeNet, DimeNet++ and GNNFF are not offered: they need the compiled extension torch_sparse, and compute distances
    from positions without periodic images.

    Your own network is a `torch.nn.Module` that is created as `Class(**arguments)`, has an attribute `width`, and
    turns a `torch_geometric.data.Batch` (`crystalign.encoders.graph_batch.to_batch` lists its tensors) into
    (n, width) vectors of its n crystals. It must not use BatchNorm. Its module is imported only if you mark it as
    trusted: set CRYSTALIGN_TRUSTED_MODULES=my_package wherever the model is made or loaded, or load within
    `crystalign.encoders.trusted_code.trust("my_package")`. A model directory holds its weights, not its code.
    """

    class Settings(Config):
        """Choice of the network, and its size."""

        model: str = "schnet"
        """schnet, visnet, cgconv, transformer, or the import path of your own network, `my_package.module:Class`."""
        hidden: int = Field(default=64, ge=4, multiple_of=2)
        """Channels per atom."""
        layers: int = Field(default=3, ge=1)
        """Number of message-passing layers; each extends the receptive field by one neighbour."""
        gaussians: int = Field(default=40, ge=2)
        """Number of basis functions of the distance."""
        cutoff: float = Field(default=5.0, gt=0)
        """Å; longer edges, which occur at isolated sites, are clamped to this length."""
        heads: int = Field(default=4, ge=1)
        """Attention heads of visnet and transformer; `hidden` must be a multiple."""
        degree: Literal[1, 2] = 1
        """Highest degree of the spherical harmonics in visnet."""
        width: int = Field(default=256, ge=4)
        """Length of the output vector; your own network sets its own."""
        arguments: dict[str, Any] = Field(default_factory=dict)
        """Arguments with which your own network is created."""

        @field_validator("model")
        @classmethod
        def _known(cls, model: str) -> str:
            offered = ", ".join(MODELS)
            if model.lower() in REFUSED:
                raise ValueError(
                    f"{model!r} needs the compiled extension torch_sparse and computes distances from positions, which "
                    f"knows no periodic images: use one of {offered}"
                )
            if model not in MODELS and not IMPORT_PATH.fullmatch(model):
                raise ValueError(f"no model {model!r}; there are {offered}, and your own as my_package.module:Class")
            return model

        @model_validator(mode="after")
        def _own_options(self) -> PyG.Settings:
            used = {"model", "width", *MODELS[self.model]} if self.model in MODELS else {"model", "arguments"}
            for name, field in type(self).model_fields.items():
                if name not in used and getattr(self, name) != field.get_default(call_default_factory=True):
                    raise ValueError(f"{name} is no option of {self.model}; it has {', '.join(sorted(used))}")
            if "heads" in used and self.hidden % self.heads:
                raise ValueError(f"{self.heads} heads do not divide hidden {self.hidden}")
            return self

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if settings.model in MODELS:
            from crystalign.encoders.pyg_networks import NETWORKS

            options = {name: getattr(settings, name) for name in MODELS[settings.model]}
            self.network: Any = NETWORKS[settings.model](**options)
            self.head: nn.Linear | None = nn.Linear(self.network.channels, settings.width)
            self.width = settings.width
        else:
            self.network, self.head = own_network(settings.model, settings.arguments), None
            self.width = self.network.width

    def forward(self, inputs: Inputs | Batch) -> Tensor:
        """(n, width) from the graph of n crystals with A atoms and E edges.

        Raises:
            ConfigError: the user's network returned another shape.
        """
        inputs = as_inputs(inputs)
        if self.head is not None:
            pooled: Tensor = self.head(mean_over_atoms(self.network(inputs), inputs))
            return pooled
        vectors: Tensor = self.network(to_batch(inputs))
        expected = (len(inputs["n_atoms"]), self.width)
        if tuple(vectors.shape) != expected:
            raise ConfigError(f"{self.settings.model} returned {tuple(vectors.shape)}, expected {expected}: (n, width)")
        return vectors


def own_network(target: str, arguments: dict[str, Any]) -> nn.Module:
    """Create the user's own network.

    Raises:
        ConfigError: its module is not trusted or does not exist; it cannot be created with these arguments; it has no
            integer `width`; it has batch statistics, so that a vector would depend on its batch; or two of its weights
            share memory.
    """
    try:
        network = trusted_class(target)(**arguments)
    except TypeError as error:
        raise ConfigError(f"{target} cannot be made with arguments {arguments}: {error}") from error
    if not isinstance(getattr(network, "width", None), int):
        raise ConfigError(f"{target} has no `width`: set it to the length of the vectors that it returns")
    if any(isinstance(module, nn.modules.batchnorm._NormBase) for module in network.modules()):  # noqa: SLF001
        raise ConfigError(f"{target} uses BatchNorm: a crystal's vector must depend on it alone. Use LayerNorm")
    addresses = [tensor.data_ptr() for tensor in network.state_dict().values() if tensor.numel()]
    if len(set(addresses)) < len(addresses):
        raise ConfigError(
            f"{target} holds one tensor under two names, which a model directory cannot: keep one of them"
        )
    return network
