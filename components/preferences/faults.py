"""The error of an unusable row, and safe forms of its values for messages."""

from __future__ import annotations

import math
from typing import Any


class RowError(ValueError):
    """An unusable row: the kind of fault (for counts), the field, and the reason in words."""

    def __init__(self, kind: str, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.kind, self.field, self.reason = kind, field, reason

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str, str]]:
        """A fault travels between processes by its three parts."""
        return RowError, (self.kind, self.field, self.reason)


def wrong_type(field: str, value: Any, wanted: str) -> RowError:
    """The error for a value of a wrong type."""
    return RowError("type", field, f"is {type(value).__name__}, not {wanted}")


def shorten(value: Any, limit: int = 60) -> str:
    """`value` in a safe form for messages: ASCII only, at most `limit` characters."""
    text = ascii(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def finite_number(value: Any) -> float | None:
    """The value of a finite number or of its text; None for all else, also booleans and NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
