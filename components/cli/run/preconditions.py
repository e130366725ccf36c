"""Prints the preconditions that do not hold, a line each, below what `configure` and `plan` print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from components.operations.doctor.findings import Finding

WORDS = {"problem": ("a run needs", "bold red"), "warning": ("note", "yellow")}


def render(findings: Mapping[str, Finding]) -> Text:
    """The findings as lines, each with its cure."""
    lines = []
    for name, finding in findings.items():
        words, style = WORDS[finding.state]
        lines.append(Text.assemble((f"{words}, {name}: ", style), finding.text, (f": {finding.cure}", "cyan") if finding.cure else ""))
    return Text("\n").join(lines)
