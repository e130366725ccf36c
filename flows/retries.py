"""When a run of a deployment is tried again, and after what pause."""

from __future__ import annotations

from components.config.deployments import DeploymentSettings
from components.processes.outcome import RunOutcome


def pauses(settings: DeploymentSettings) -> list[float]:
    """The seconds before each retry, each twice as long as the one before: what is away for a minute is found soon, what is away for an hour
    is waited for."""
    return [settings.retry_seconds * 2**number for number in range(settings.retries)]


def is_retried(outcome: RunOutcome) -> bool:
    """Whether another try can end better: after faults of infrastructure alone."""
    return outcome.kind == "infrastructure"
