"""Requests to this checkout's Prefect server over its REST API, for commands that can't wait for Prefect's client to load."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import Any

from components.checkout import Checkout
from components.errors import ServiceAway, UserError
from components.operations.services.state import read_addresses
from components.processes.secrets import read_secrets

TIMEOUT_SECONDS = 10.0


def ask(checkout: Checkout, path: str, body: dict[str, Any] | None = None) -> Any:
    """The server's reply to a POST of `body`, or to a GET without one. `path` lies below /api, such as "deployments/filter".

    Raises UserError where the checkout has no services, OSError (urllib.error.URLError) where the server does not answer.
    """
    addresses = read_addresses(checkout)
    if addresses is None:
        raise UserError(f"{checkout.root} has no services: `mmalign up` starts them")
    who = base64.b64encode(read_secrets(checkout).prefect_auth.encode()).decode()
    request = urllib.request.Request(  # noqa: S310 -- http to our own server
        f"{addresses.prefect}/api/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json", "authorization": f"Basic {who}"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
        text = answer.read()
    return json.loads(text) if text else None


def ask_checked(checkout: Checkout, path: str, body: dict[str, Any] | None = None) -> Any:
    """As `ask`, but raises UserError where the server refuses, and ServiceAway where it does not answer."""
    try:
        return ask(checkout, path, body)
    except urllib.error.HTTPError as error:
        raise UserError(_refusal(error.read().decode(errors="replace"))) from error
    except OSError as error:
        raise ServiceAway("Prefect's server does not answer: run `mmalign up --detach`") from error


def _refusal(text: str) -> str:
    try:
        detail = json.loads(text).get("detail") or json.loads(text).get("exception_detail") or text
    except ValueError:
        detail = text
    return f"Prefect's server refused the request: {' '.join(str(detail).split())[:600]}"
