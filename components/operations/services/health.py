"""Whether a service answers."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path

from components.errors import ServiceAway
from components.operations.services import postgres
from components.operations.services.state import read_addresses
from components.processes.secrets import read_secrets

TIMEOUT_SECONDS = 5.0


def answers(url: str) -> bool:
    """Whether an address that needs no password answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 -- http to a server of our own
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def require_services(root: Path) -> None:
    """Raises ServiceAway where this checkout's record lies with services that do not answer. Nothing where it has none."""
    addresses = read_addresses(root)
    if addresses is None:
        return
    if os.environ.get("MLFLOW_TRACKING_URI") == addresses.mlflow and not answers(f"{addresses.mlflow}/health"):
        raise ServiceAway(
            f"this checkout's record is kept by its services, and MLflow at {addresses.mlflow} does not answer: run `mmalign up --detach`"
        )
    if os.environ.get("PREFECT_API_URL") == f"{addresses.prefect}/api" and not answers(f"{addresses.prefect}/api/health"):
        raise ServiceAway(f"Prefect at {addresses.prefect} does not answer: run `mmalign up --detach`")


def healthy(root: Path) -> dict[str, bool]:
    """Which of the servers answer, by name; worker and sentinel have no address and are not among them."""
    addresses = read_addresses(root)
    if addresses is None:
        return {}
    found = {"prefect": answers(f"{addresses.prefect}/api/health"), "mlflow": answers(f"{addresses.mlflow}/health")}
    return {"postgres": postgres.answers(addresses, read_secrets(root)), **found}
