"""A checkout a test."""

from __future__ import annotations

from tests.checkout import checkout, checkout_template

__all__ = ["checkout", "checkout_template"]
