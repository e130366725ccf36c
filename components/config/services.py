"""Section `services`: the services that `mmalign up` runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from components.config.section import Positive, Section


class ServicesSettings(Section):
    """Addresses and logs of the services that `mmalign up` runs."""

    host: str = Field(min_length=1)
    allowed_hosts: list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]+$")]]
    prefect_port: int = Field(ge=0, le=65535)
    mlflow_port: int = Field(ge=0, le=65535)
    postgres_port: int = Field(ge=0, le=65535)
    log_max_mb: Positive
    log_backups: Positive
