"""The file of a fine-tuning campaign: what is compared with what.

A campaign is a product: task × initialisation × modalities × fusion × number of labels are the *cells*, the rows of its
table; learning rate × seed are the trials of a cell (`campaign_trials`). Importing this imports no torch.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from tyro.conf import Fixed

from crystalign.config import Config
from crystalign.finetuning.network_config import FusionConfig, HeadConfig
from crystalign.finetuning.recipe import Recipe
from crystalign.finetuning.splits import SplitConfig, sixty_twenty_twenty
from crystalign.finetuning.task import Task
from crystalign.finetuning.trial_config import CONSTANTS, SCRATCH
from crystalign.model_config import ModalitySpec
from crystalign.storage import Uri
from crystalign_jobs.campaign_search import Search

ALL: Literal["all"] = "all"

Labels = int | Literal["all"]
FusionName = Literal["early", "late", "late-stacked", "hybrid", "hybrid-stacked", "attention"]


class CampaignTask(Task):
    """A property, and what holds for it alone."""

    split: SplitConfig | None = None
    """Of its labels, in place of the campaign's."""
    head: HeadConfig | None = None
    """In place of the campaign's."""
    n_labels: tuple[Labels, ...] | None = None
    """In place of the campaign's."""
    modalities: tuple[str, ...] = ()
    """What it is predicted from, in place of the campaign's; an initialisation that names its own keeps them."""

    @property
    def task(self) -> Task:
        """The property alone, as a trial has it."""
        return Task.model_validate(self.model_dump(include=set(Task.model_fields)))


class Start(Config):
    """Where a network starts from, and what holds for this row of the table alone."""

    initialisation: str = SCRATCH
    """`scratch`, `mean`, `median`, or the URI of a pre-trained model."""
    like: Uri | None = None
    """Of `scratch`: a model whose encoders are built anew."""
    encoders: dict[str, ModalitySpec] = Field(default_factory=dict)
    """Of `scratch`: modality → encoder, in place of `like`."""
    modalities: tuple[str, ...] = ()
    """What it reads, in place of the campaign's."""
    vectors: Literal["encoder", "embedding"] = "encoder"
    """What the head reads: the encoder's own vector, or the unit vector of the aligned space."""
    head: HeadConfig | None = None
    """In place of the campaign's and the task's."""
    recipe: Recipe | None = None
    """In place of the campaign's."""

    @property
    def constant(self) -> bool:
        """Whether it learns nothing but a number."""
        return self.initialisation in CONSTANTS


class Stopping(Config):
    """When a trial ends early because another learning rate does better.

    Only the learning rates of one task, initialisation, modalities, fusion, number of labels and seed compete. Whoever
    is stopped is tested with its best epoch, as after `patience`: the table has no holes. Not with `keep: last`, which
    means the end of the schedule.
    """

    rule: Literal["asha", "median"] = "asha"
    """Asynchronous successive halving (Li et al., MLSys 2020), or: worse than the median of the others' means
    (Golovin et al., KDD 2017)."""
    grace_epochs: int | None = Field(default=None, ge=1)
    """No trial ends sooner; by default twice the warm-up, and at least a quarter of all epochs: small learning rates
    begin slowly."""
    reduction: float = Field(default=3.0, gt=1)
    """Of `asha`: one of so many goes on at each rung."""
    min_others: int = Field(default=2, ge=1)
    """Of `median`: how many others there must be."""


class Campaign(Config):
    """What is compared with what, on which labels."""

    data: Uri
    """Dataset with the labels."""
    out: Uri
    """Where campaigns are written."""
    name: str = Field(default="campaign", pattern=r"^[\w.+-]+$")
    """Folder of this one in `out`."""
    tasks: Fixed[dict[str, CampaignTask]] = {}
    """Name → property: its `target`, and `transform`, `kind`, limits; also a `split`, `head`, `n_labels` and
    `modalities` of its own."""
    initialisations: Fixed[dict[str, str | Start]] = {}
    """Name → where the network starts: `mean`, `median`, the URI of a pre-trained model, a network of `crystalign
    encoders` (fresh weights), `composition-only` (CrabNet), or a mapping such as `{encoders: {…}, modalities: […]}`.
    `scratch` is the network of the first pre-trained model here with fresh weights; without one it is the default
    crystal encoder."""
    baseline: str = SCRATCH
    """The initialisation with which the others are compared; nothing is where none has this name."""
    modalities: tuple[str, ...] = ()
    """What is read in fine-tuning, e.g. `crystal`, `crystal+xrd`: one row of the table each; by default the crystal, or
    what `encoders` of an initialisation read."""
    require: tuple[str, ...] = ()
    """Modalities that every material must have, so that all subsets are tested on the same ones."""
    fusion: tuple[FusionName, ...] = ("early",)
    """Where several modalities meet: one row each; `stacked` fits the weights of the parts to the validation part."""
    fusion_options: FusionConfig = FusionConfig()
    """What else there is to say of fusion."""
    head: HeadConfig = HeadConfig()
    """What follows the encoders."""
    n_labels: tuple[Labels, ...] = (ALL,)
    """Training labels, e.g. 100 300 1000 all: a learning curve."""
    learning_rates: tuple[float, ...] = (1e-3, 1e-4, 1e-5)
    """Of each cell; the table takes the one that the validation part prefers."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of each learning rate; the table has their mean and standard deviation."""
    split: Fixed[SplitConfig] = Field(default_factory=sixty_twenty_twenty)
    """How labels are split: `{by, train, validation, salt}`, or `{lists, part}` as others published it."""
    recipe: Recipe = Recipe()
    """How networks are fitted."""
    search: Fixed[Search | None] = None
    """`{kind: random|optuna, samples: 12, …}` in place of the learning rates: settings are drawn in each cell with the
    first seed, and the best is run with the others."""
    stop_early: Fixed[Stopping | None] = None
    """`{rule: asha|median}`: end trials whose learning rate does worse than others; by default all run to their end."""
    ensemble: bool = False
    """Write as the best model of each task all seeds together: their mean is better than one of them, and intervals are
    wider where they disagree."""
    missing_targets: Literal["refuse", "name"] = "refuse"
    """Of a target that the dataset lacks: end at once, or name it below the table and go on without."""
    note: str = ""
    """Stands below the table."""
    shuffle_labels: bool = False
    """A control: labels change places. What then is better than the mean is a leak."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field in ("learning_rates", "seeds", "n_labels", "fusion", "modalities"):
            values = getattr(self, field)
            if len(set(values)) < len(values) or not (values or field == "modalities"):
                raise ValueError(f"{field}: {values} is empty, or names something twice")
        if min(self.learning_rates) <= 0 or min(self.seeds) < 0:
            raise ValueError("learning_rates are above 0, and seeds not below")
        if self.shuffle_labels and self.ensemble:
            raise ValueError("ensemble: each seed shuffles the labels in its own way (`shuffle_labels`); leave out one")
        recipes = (self.recipe, *(s.recipe for s in self.initialisations.values() if isinstance(s, Start) and s.recipe))
        if self.stop_early is not None and any(recipe.keep == "last" for recipe in recipes):
            raise ValueError(
                "stop_early: a trial with `keep: last` is tested at the end of its schedule; leave out one of them"
            )
        return self
