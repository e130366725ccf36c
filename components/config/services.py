"""Section `services`: the services that `mmalign up` runs."""

from __future__ import annotations

from pydantic import Field

from components.config.section import Positive, Section


class ServicesSettings(Section):
    """Addresses and logs of the services that `mmalign up` runs."""

    host: str = Field(min_length=1)
    prefect_port: int = Field(ge=0, le=65535)
    mlflow_port: int = Field(ge=0, le=65535)
    postgres_port: int = Field(ge=0, le=65535)
    log_max_mb: Positive
    log_backups: Positive
