"""How a campaign of fine-tuning stands, as its folder shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import Error
from crystalign_jobs.campaign import Campaign
from crystalign_jobs.campaign_run import TRIALS
from crystalign_jobs.campaign_trials import expand
from crystalign_jobs.campaign_worker import FAILURE
from crystalign_jobs.ownership import is_driven


class CampaignSummary(Config):
    """One campaign."""

    uri: str
    """Of the campaign."""
    running: bool
    """Whether a driver gives signs of life."""
    finished: int
    """Trials with a result, which is not verified here."""
    failed: int
    """Trials that said why they failed and have no result."""
    known: int | None
    """Trials that its settings ask for; None where a search draws them, or the settings no longer say."""
    reported: bool
    """Whether its table is newer than its results."""
    written: datetime | None = None
    """When a result or the settings were last written, by the store's clock."""

    @property
    def resume_command(self) -> str | None:
        """What goes on with it, where there is something to go on with."""
        over = self.reported and (self.known is None or self.finished >= self.known)
        return None if self.running or over else f"crystalign tune --resume {self.uri}"


def is_campaign(settings: Any) -> bool:
    """Whether the settings in a folder are a campaign's, not a pre-training run's."""
    return isinstance(settings, dict) and "initialisations" in settings


def summarise_campaign(run: str, settings: dict[str, Any]) -> CampaignSummary:
    """Count what there is.

    Args:
        run: URI of the folder.
        settings: in its `config.yaml`.
    """
    places = [place.rstrip("/") for place in storage.list_folders(storage.join(run, TRIALS))]
    results = {place: storage.modified(storage.join(place, "result.json")) for place in places}
    done = [when for when in results.values() if when is not None]
    failed = [place for place, when in results.items() if when is None and storage.exists(storage.join(place, FAILURE))]
    table = storage.modified(storage.join(run, "results.md"))
    return CampaignSummary(
        uri=run,
        running=is_driven(run),
        finished=len(done),
        failed=len(failed),
        known=_known(run, settings),
        reported=table is not None and table >= max(done, default=table),
        written=max([*done, *filter(None, [storage.modified(storage.join(run, "config.yaml"))])], default=None),
    )


def _known(run: str, settings: dict[str, Any]) -> int | None:
    own = {name: value for name, value in settings.items() if name in Campaign.model_fields}
    try:
        campaign = Campaign.from_mapping(own, origin=run)
        return None if campaign.search is not None else len(expand(campaign))
    except Error:  # of another version, or its dataset is gone
        return None
