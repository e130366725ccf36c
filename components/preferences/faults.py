"""A row that can't be used, and how its values may be shown."""

from __future__ import annotations

import math
from typing import Any


class RowError(ValueError):
    """A row that can't be used: the kind of fault (for counts), the field, and the reason in words."""

    def __init__(self, kind: str, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.kind, self.field, self.reason = kind, field, reason


def wrong_type(field: str, value: Any, wanted: str) -> RowError:
    """The fault of a value of another type."""
    return RowError("type", field, f"is {type(value).__name__}, not {wanted}")


def shorten(value: Any, limit: int = 60) -> str:
    """`value` as it may stand in a message: ASCII only, cut."""
    text = ascii(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def finite_number(value: Any) -> float | None:
    """A number, or text that is one; None for anything else, truth values and NaN included."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
