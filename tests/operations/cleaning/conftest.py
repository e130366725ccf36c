"""A checkout a test."""

from __future__ import annotations

from tests.checkout import checkout, checkout_template
from tests.operations.cleaning.swept import fixture_two, fixture_two_template

__all__ = ["checkout", "checkout_template", "fixture_two", "fixture_two_template"]
