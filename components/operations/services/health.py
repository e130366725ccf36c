"""Checks whether the services answer."""

from __future__ import annotations

import os
import urllib.error
import urllib.request

from components.checkout import Checkout
from components.errors import ServiceAway
from components.operations.services import postgres
from components.operations.services.state import read_addresses
from components.processes.secrets import read_secrets

TIMEOUT_SECONDS = 5.0


def silence(url: str, seconds: float = TIMEOUT_SECONDS) -> str | None:
    """The reason why `url` is not healthy; None where it is. A server that demands a password is healthy."""
    try:
        with urllib.request.urlopen(url, timeout=seconds):  # noqa: S310 -- the callers pass http addresses only
            return None
    except urllib.error.HTTPError as error:
        return None if error.code in {401, 403} else f"status {error.code} from {url}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def answers(url: str) -> bool:
    """Whether an address is healthy."""
    return silence(url) is None


def require_services(checkout: Checkout) -> None:
    """Raises ServiceAway where this checkout has services and they do not answer."""
    addresses = read_addresses(checkout)
    if addresses is None:
        return
    if os.environ.get("MLFLOW_TRACKING_URI") == addresses.mlflow and not answers(f"{addresses.mlflow}/health"):
        raise ServiceAway(f"MLflow at {addresses.mlflow}, which holds this checkout's record, does not answer: run `mmalign up --detach`")
    if os.environ.get("PREFECT_API_URL") == f"{addresses.prefect}/api" and not answers(f"{addresses.prefect}/api/health"):
        raise ServiceAway(f"Prefect at {addresses.prefect} does not answer: run `mmalign up --detach`")


def healthy(checkout: Checkout) -> dict[str, bool]:
    """Whether each server answers, by name. Worker and monitor have no address and are left out."""
    addresses = read_addresses(checkout)
    if addresses is None:
        return {}
    servers = {"prefect": answers(f"{addresses.prefect}/api/health"), "mlflow": answers(f"{addresses.mlflow}/health")}
    return {"postgres": postgres.answers(addresses, read_secrets(checkout)), **servers}
