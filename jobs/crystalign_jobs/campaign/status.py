"""The state of a fine-tuning campaign, read from its folder."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import Error
from crystalign_jobs.campaign.config import Campaign
from crystalign_jobs.campaign.grid import expand
from crystalign_jobs.campaign.store import FAILURE, TRIALS
from crystalign_ray.driver_lock import is_driven


class CampaignSummary(Config):
    """The state of one campaign."""

    uri: str
    """URI of the campaign."""
    running: bool
    """Whether a driver process is alive."""
    finished: int
    """Trials with a result; results are not verified here."""
    failed: int
    """Trials with a failure file and no result."""
    known: int | None
    """Trials in total according to the settings; None for a search, or if the settings can no longer be read."""
    reported: bool
    """Whether the table is newer than all results."""
    written: datetime | None = None
    """When a result or the settings were last written, by the clock of the storage."""

    @property
    def resume_command(self) -> str | None:
        """The command that continues the campaign; None if it is running or complete."""
        complete = self.reported and (self.known is None or self.finished >= self.known)
        return None if self.running or complete else f"crystalign tune --resume {self.uri}"


def summarise_campaign(run: str, settings: dict[str, Any]) -> CampaignSummary:
    """Count the trials of a campaign.

    Args:
        run: URI of its folder.
        settings: content of its `config.yaml`.
    """
    folders = [folder.rstrip("/") for folder in storage.list_folders(storage.join(run, TRIALS))]
    results = {folder: storage.modified(storage.join(folder, "result.json")) for folder in folders}
    written = [time for time in results.values() if time is not None]
    failed = [
        folder for folder, time in results.items() if time is None and storage.exists(storage.join(folder, FAILURE))
    ]
    reported = storage.modified(storage.join(run, "results.md"))
    return CampaignSummary(
        uri=run,
        running=is_driven(run),
        finished=len(written),
        failed=len(failed),
        known=_known(run, settings),
        reported=reported is not None and reported >= max(written, default=reported),
        written=max([*written, *filter(None, [storage.modified(storage.join(run, "config.yaml"))])], default=None),
    )


def _known(run: str, settings: dict[str, Any]) -> int | None:
    own = {name: value for name, value in settings.items() if name in Campaign.model_fields}
    try:
        campaign = Campaign.from_mapping(own, origin=run)
        return None if campaign.search is not None else len(expand(campaign))
    except Error:  # settings of another version, or the dataset is gone
        return None
