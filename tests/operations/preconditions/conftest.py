"""A checkout a test, and the situation of a run of all its stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.config.settings import parse_settings
from components.operations.preconditions.situation import Situation
from tests.checkout import checkout, checkout_template
from tests.settings import shipped

__all__ = ["checkout", "checkout_template"]

Situated = Callable[..., Situation]


@pytest.fixture
def situated(checkout: Path) -> Situated:
    """Make the situation of the checkout, with settings by dotted key over the shipped ones."""

    def make(changes: dict[str, Any] | None = None, **fields: Any) -> Situation:
        values = shipped()
        for key, value in (changes or {}).items():
            *path, last = key.split(".")
            section = values
            for part in path:
                section = section[part]
            section[last] = value
        return Situation(Checkout(checkout), parse_settings(values, "params.yaml"), **fields)

    return make
