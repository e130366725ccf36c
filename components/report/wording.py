"""Formats numbers, times and texts for the page."""

from __future__ import annotations

import re
from typing import Any

DASH = "–"
MINUS = "\u2212"
SPACE = "\u00a0"  # where a line may not break
ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")


def number(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A number with a true minus sign and separated thousands; a dash for None."""
    if value is None:
        return DASH
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def count(value: int | None) -> str:
    """A whole number with separated thousands; a dash for None."""
    return DASH if value is None else f"{value:,}"


def capitalized(text: str) -> str:
    """A sentence with its first letter large, the rest as it is."""
    return text[:1].upper() + text[1:]


def plain(value: Any) -> str:
    """A setting or a small number in its shortest form."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    """Seconds in readable units; empty for 0 and None."""
    if not seconds:
        return ""
    if seconds < 60:
        return f"{seconds:.1f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = (hours, "h", f"{minutes:02d}", "min") if hours else (minutes, "min", f"{rest:02d}", "s")
    return SPACE.join(map(str, parts))


def cut(text: str, limit: int) -> str:
    """`text` up to `limit` characters, followed by the number of omitted ones."""
    return text if len(text) <= limit else f"{text[:limit]} [{len(text) - limit:,} more characters]"


def without_escapes(text: str) -> str:
    """A terminal's output as text: without colors and cursor moves, rewritten lines in their last state."""
    clean = ANSI.sub("", text)
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in clean.split("\n"))
