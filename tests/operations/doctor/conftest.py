"""A checkout a test."""

from __future__ import annotations

from tests.checkout import checkout, checkout_template
from tests.operations.doctor.whole_checkout import own_environment, whole

__all__ = ["checkout", "checkout_template", "own_environment", "whole"]
