"""The settings of a fine-tuning campaign.

A campaign is a product: task × initialisation × modalities × fusion × number of labels are the *cells*, the rows of its
table; learning rate × seed are the trials of a cell (`campaign.grid`). Importing this imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from tyro.conf import Fixed

from crystalign.config import Config
from crystalign.finetuning.data.splits import SplitConfig, sixty_twenty_twenty
from crystalign.finetuning.data.task import Task
from crystalign.finetuning.fitting.recipe import Recipe
from crystalign.finetuning.network.config import FusionConfig, HeadConfig
from crystalign.finetuning.trials.config import CONSTANTS, SCRATCH
from crystalign.model_config import ModalitySpec
from crystalign.storage import Uri
from crystalign_jobs.campaign.search_space import Search

ALL: Literal["all"] = "all"

Labels = int | Literal["all"]
FusionName = Literal["early", "late", "late-stacked", "hybrid", "hybrid-stacked", "attention"]
_EARLIER_WORDS = {"refuse": "error", "name": "skip"}
"""Values of `missing_targets` in campaigns that earlier releases stored."""


def _current_word(value: Any) -> Any:
    return _EARLIER_WORDS.get(value, value) if isinstance(value, str) else value


class CampaignTask(Task):
    """A property to predict, and settings that apply to it alone."""

    split: SplitConfig | None = None
    """How its labels are split; default: as in the campaign."""
    head: HeadConfig | None = None
    """Prediction head; default: the campaign's."""
    n_labels: tuple[Labels, ...] | None = None
    """Numbers of training labels; default: the campaign's."""
    modalities: tuple[str, ...] = ()
    """Input modalities; default: the campaign's. Modalities named by an initialisation take precedence."""

    @property
    def task(self) -> Task:
        """The property without these settings, as a trial stores it."""
        return Task.model_validate(self.model_dump(include=set(Task.model_fields)))


class Start(Config):
    """How a network is initialised, and settings that apply to this initialisation alone."""

    initialisation: str = SCRATCH
    """`scratch`, `mean`, `median`, or the URI of a pre-trained model."""
    like: Uri | None = None
    """With `scratch`: a model whose encoders are rebuilt with fresh weights."""
    encoders: dict[str, ModalitySpec] = Field(default_factory=dict)
    """With `scratch`: modality → encoder, in place of `like`."""
    modalities: tuple[str, ...] = ()
    """Input modalities; default: those of the task or the campaign."""
    vectors: Literal["encoder", "embedding"] = "encoder"
    """Input of the head: the output of the encoder, or the unit vector in the shared embedding space."""
    head: HeadConfig | None = None
    """Prediction head; default: that of the task or the campaign."""
    recipe: Recipe | None = None
    """Fitting settings; default: the campaign's."""

    @property
    def constant(self) -> bool:
        """Whether it predicts a constant: the mean or the median of the training labels."""
        return self.initialisation in CONSTANTS


class Stopping(Config):
    """When a trial ends early because another learning rate does better.

    Trials compete only if they differ in nothing but the learning rate. A stopped trial is tested at its best epoch, as
    after `patience`, so the table has no gaps. Cannot be combined with `keep: last`, which keeps the last epoch of the
    schedule.
    """

    rule: Literal["asha", "median"] = "asha"
    """`asha`: asynchronous successive halving (Li et al., MLSys 2020). `median`: stop a trial that is worse than the
    median of the other trials' running means (Golovin et al., KDD 2017)."""
    grace_epochs: int | None = Field(default=None, ge=1)
    """Fewest epochs of a trial; default: twice the warm-up and at least a quarter of all epochs, because small learning
    rates start slowly."""
    reduction: float = Field(default=3.0, gt=1)
    """With `asha`: one in this many trials continues at each rung."""
    min_others: int = Field(default=2, ge=1)
    """With `median`: fewest other trials to compare with."""


class Campaign(Config):
    """What a campaign compares, and on which labels."""

    data: Uri
    """Dataset with the labels."""
    out: Uri
    """Folder in which campaigns are written."""
    name: str = Field(default="campaign", pattern=r"^[\w.+-]+$")
    """Name of this campaign and of its folder in `out`."""
    tasks: Fixed[dict[str, CampaignTask]] = {}
    """Name → property: its `target`, `transform`, `kind` and limits. It may have its own `split`, `head`, `n_labels`
    and `modalities`."""
    initialisations: Fixed[dict[str, str | Start]] = {}
    """Name → initialisation: `mean`, `median`, the URI of a pre-trained model, a network of `crystalign encoders` (with
    fresh weights), `composition-only` (CrabNet), or a mapping such as `{encoders: {…}, modalities: […]}`. `scratch` is
    the network of the first pre-trained model listed here with fresh weights, or the default crystal encoder if none
    is listed."""
    baseline: str = SCRATCH
    """The initialisation that the others are compared with; gains are left out if none has this name."""
    modalities: tuple[str, ...] = ()
    """Sets of input modalities to compare, e.g. `crystal` and `crystal+xrd`; each becomes a row of the table.
    Default: the modalities in the `encoders` of an initialisation, or the crystal alone."""
    require: tuple[str, ...] = ()
    """Modalities that every material must have, so that all rows are tested on the same materials."""
    fusion: tuple[FusionName, ...] = ("early",)
    """How several modalities are combined: one row each; `stacked` fits the weights of the modalities on the validation
    part."""
    fusion_options: FusionConfig = FusionConfig()
    """Further settings of fusion."""
    head: HeadConfig = HeadConfig()
    """The prediction head on top of the encoders."""
    n_labels: tuple[Labels, ...] = (ALL,)
    """Numbers of training labels, e.g. 100 300 1000 all, for a learning curve."""
    learning_rates: tuple[float, ...] = (1e-3, 1e-4, 1e-5)
    """Learning rates of each cell; the table shows the one with the lowest validation error."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each learning rate; the table shows their mean and standard deviation."""
    split: Fixed[SplitConfig] = Field(default_factory=sixty_twenty_twenty)
    """How labels are split: `{by, train, validation, salt}`, or `{lists, part}` for a published split."""
    recipe: Recipe = Recipe()
    """How networks are fitted."""
    search: Fixed[Search | None] = None
    """`{kind: random|optuna, samples: 12, …}` in place of the learning rates: each cell samples settings with the first
    seed, and runs the best one with the other seeds."""
    stop_early: Fixed[Stopping | None] = None
    """`{rule: asha|median}`: stop trials whose learning rate does worse than others; by default all trials run to the
    end."""
    ensemble: bool = False
    """Write the ensemble of all seeds as the best model of each task: its mean is more accurate than one seed, and its
    intervals are wider where the seeds disagree."""
    missing_targets: Annotated[Literal["error", "skip"], BeforeValidator(_current_word)] = "error"
    """If the dataset lacks the target of a task: `error` stops at once, `skip` leaves out the task and says so below
    the table."""
    note: str = ""
    """Text below the table."""
    shuffle_labels: bool = False
    """Control experiment: shuffle the labels. A row that then beats the mean baseline shows a leak."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field in ("learning_rates", "seeds", "n_labels", "fusion", "modalities"):
            values = getattr(self, field)
            if len(set(values)) < len(values) or not (values or field == "modalities"):
                raise ValueError(f"{field}: {values} must be neither empty nor contain duplicates")
        if min(self.learning_rates) <= 0 or min(self.seeds) < 0:
            raise ValueError("learning_rates must be above 0, and seeds must not be negative")
        if self.shuffle_labels and self.ensemble:
            raise ValueError("ensemble: `shuffle_labels` shuffles differently for each seed; use only one of the two")
        recipes = (self.recipe, *(s.recipe for s in self.initialisations.values() if isinstance(s, Start) and s.recipe))
        if self.stop_early is not None and any(recipe.keep == "last" for recipe in recipes):
            raise ValueError(
                "stop_early: `keep: last` tests a trial at the end of its schedule; use only one of the two"
            )
        return self


class Tune(Campaign):
    """Fine-tune to properties: how much does pre-training gain, with how many labels, and which model is best?

    The first argument is a YAML file or the preset `costa-fusion`. The file lists tasks, initialisations, and what else
    to compare. Every combination is run with each learning rate and seed:

      data: mp
      out: campaigns
      tasks:
        bulk modulus: {target: bulk_modulus_vrh, transform: log10, lower: 1}
      initialisations:
        mean: mean                     # or median: predicts a constant
        composition only: composition-only
        cgcnn: cgcnn                   # any network listed by `crystalign encoders`
        scratch: scratch               # the network below with fresh weights
        pre-trained: runs/first/model
      n_labels: [100, 1000, all]
      search: {kind: random, samples: 12}   # or optuna: in place of learning_rates
      stop_early: {rule: asha}              # or median: among the learning rates of one cell and seed

    Run the same command again, or use --resume, to run the missing trials. To extend a campaign, add to its lists and
    run it again.

    For example:

      crystalign tune campaign.yaml
      crystalign tune campaign.yaml --learning-rates 1e-3 1e-4 --seeds 0 1 2 3 4
      crystalign tune --resume campaigns/campaign
    """

    resume: bool = False
    """Continue a campaign with its stored settings; `--resume OUT/NAME` needs nothing else."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, else this machine."""
    concurrent: int | None = Field(default=None, ge=1)
    """Trials at the same time; default: one per core, or as many as fit on the GPUs."""
    workers: int = Field(default=1, ge=1)
    """Ray Train processes of each trial. They share its batches and compute the same result as one process. Use more
    than one for long fits; with more trials than cores, one is faster."""
    cpus: int = Field(default=1, ge=1)
    """CPU cores of each process."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs of each process; with one process, 0.25 puts four trials on one."""
    max_failures: int = Field(default=2, ge=0)
    """How often a trial is restarted after its process died. A trial that raises an error is not restarted."""
    dry_run: bool = False
    """Check everything, list the trials that would run, and exit."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.workers > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus: a trial on {self.workers} workers needs whole GPUs, not {self.gpus:g}")
        return self
