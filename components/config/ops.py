"""The sections of ops.yaml: when and where stages run, the services, deployments, notices and cleaning. No result depends on them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from components.config.schedules import check_cron, check_timezone
from components.config.section import Positive, Section
from components.stages import StageName

Cron = Annotated[str, AfterValidator(check_cron)]
Timezone = Annotated[str, AfterValidator(check_timezone)]
NoticeKind = Literal["promoted", "refused", "failed", "recovered", "missed"]


class StageSettings(Section):
    """Deadline and GPUs of one stage."""

    deadline_minutes: float = Field(gt=0)
    gpus: int = Field(ge=0)


StagesSettings = dict[StageName, StageSettings]


class ServicesSettings(Section):
    """Addresses and logs of the services that `mmalign up` runs."""

    host: str = Field(min_length=1)
    allowed_hosts: list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]+$")]]
    prefect_port: int = Field(ge=0, le=65535)
    mlflow_port: int = Field(ge=0, le=65535)
    postgres_port: int = Field(ge=0, le=65535)
    log_max_mb: Positive
    log_backups: Positive


class DeploymentSettings(Section):
    """What `mmalign deploy` gives to the services."""

    cron: Cron
    timezone: Timezone
    poll_cron: Cron
    repositories: list[str]
    wait_minutes: float = Field(gt=0)
    retries: int = Field(ge=0)
    retry_seconds: float = Field(gt=0)
    crashed_after_seconds: int = Field(ge=100)  # three heartbeats and a little
    push_data: bool
    push_lock: bool


class NoticeSettings(Section):
    """Kinds of notices, and when a run counts as missed."""

    kinds: list[NoticeKind]
    late_minutes: float = Field(gt=0)


class CleanSettings(Section):
    """Days after which each kind of unused file goes."""

    scratch_days: float = Field(ge=0)
    logs_days: float = Field(ge=0)
    clones_days: float = Field(ge=0)
    cache_days: float = Field(ge=0)
