"""A client of the tests' own server, with pauses of hundredths of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.checkout import Checkout
from components.config.endpoint import EndpointSettings
from components.endpoints.client import Client
from components.endpoints.request import Request
from components.storage.content_cache import ContentCache
from tests.checkout import ROOT
from tests.faulty_endpoint import MODEL

MakeClient = Callable[..., Client]


def settings_for(url: str, **changes: Any) -> EndpointSettings:
    """The shipped settings with `url` as the reward model's server. Prices and a key of that server are changed like other keys."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())["endpoint"]
    server = {name: changes.pop(name) for name in ("key", "input_price", "output_price") if name in changes}
    values["reward"] |= {"url": url, "model": MODEL, **server}
    return EndpointSettings(**values | changes)


@pytest.fixture
def make_client(tmp_path: Path) -> MakeClient:
    """A client whose answers are cached in the test's folder."""

    def make(url: str, **changes: Any) -> Client:
        store = ContentCache(Checkout(tmp_path), "endpoints")
        return Client("reward", MODEL, settings_for(url, **changes), store, backoff_seconds=0.02)

    return make


def prompts(count: int) -> list[Request]:
    return [Request.asking(f"question {number}", max_tokens=8) for number in range(count)]
