"""Requests to a checkout's Prefect server over its REST API, beside Prefect's client, which the code under test uses."""

from __future__ import annotations

import base64
import json
import urllib.request
from typing import Any

from components.checkout import Checkout
from components.errors import UserError
from components.operations.services.state import read_addresses
from components.processes.secrets import read_secrets


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
        data=None if body is None else json.dumps(body, default=str).encode(),
        headers={"content-type": "application/json", "authorization": f"Basic {who}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        text = answer.read()
    return json.loads(text) if text else None
