"""Section `deployments`: schedules, retries and pushes."""

from __future__ import annotations

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from components.config.section import Section


class DeploymentSettings(Section):
    """What `mmalign deploy` gives to the services."""

    cron: str
    timezone: str
    poll_cron: str
    repositories: list[str]
    wait_minutes: float = Field(gt=0)
    retries: int = Field(ge=0)
    retry_seconds: float = Field(gt=0)
    crashed_after_seconds: int = Field(ge=100)  # three heartbeats and a little
    push_data: bool
    push_lock: bool

    @field_validator("cron", "poll_cron")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        if len(value.split()) != 5:
            raise ValueError("must have five fields: minute, hour, day of month, month, day of week")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("must be an IANA time zone, such as Europe/Berlin") from error
        return value
