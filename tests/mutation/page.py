"""docs/mutants.md: equivalent mutants, which a person declares with a reason, and the last run's scores and survivors, which the tool writes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.mutation.campaign import Score
from tests.mutation.mutant import Mutant

DECLARED, LAST = "## Equivalent mutants", "## Last run"
WIDTH = 110  # characters of a line of code in the page


class PageError(Exception):
    """A row of the page that can't be used. The sentence is for the user."""


def read_declared(page: Path) -> dict[str, str]:
    """Digest of each declared equivalent mutant, with the path of its file.

    Raises PageError for a row without a reason, with a wrong digest, or for a digest that stands twice.
    """
    if not page.is_file():
        return {}
    section = page.read_text().partition(DECLARED)[2].partition("\n## ")[0]
    declared: dict[str, str] = {}
    rows = [line for line in section.splitlines() if line.startswith("|")]
    for row in rows[2:]:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        if len(cells) != 5 or not all(cells):
            raise PageError(f"{page}: the row {row!r} needs five cells: digest, file, operator, change, reason")
        digest, path = cells[0].strip("`"), cells[1].strip("`")
        if not re.fullmatch(r"[0-9a-f]{10}", digest) or digest in declared:
            raise PageError(f"{page}: {digest!r} is no digest of ten hexadecimal digits, or stands twice")
        declared[digest] = path
    return declared


def write_run(page: Path, scores: Sequence[Score], workers: int, seconds: float) -> None:
    """Replace the sections of these packages under "Last run"; those of others stay."""
    text = page.read_text()
    head, _, last = text.partition(LAST)
    blocks = {block.partition("\n")[0]: block for block in last.split("\n### ")[1:]}
    today = datetime.now(UTC).date().isoformat()
    for score in scores:
        blocks[score.package.name] = _block(
            score, f"{today}, {workers} workers on {os.cpu_count()} cores, {seconds / 60:.0f} minutes in all"
        )
    body = "\n### ".join(["", *(blocks[name].rstrip("\n") + "\n" for name in sorted(blocks))])
    intro = "`make mutate` writes this section; a run of some packages leaves the others' sections. Survivors are to be killed or declared above."
    page.write_text(f"{head}{LAST}\n\n{intro}\n{body}")


def _block(score: Score, run: str) -> str:
    low, high = score.interval
    lines = [
        score.package.name,
        "",
        f"Score {score.score:.3f}, 95 % interval {low:.3f} to {high:.3f}: {len(score.killed)} of {score.judged} killed, "
        f"{len(score.survivors)} survived, {len(score.equivalent)} equivalent, of {score.mutants} mutants in all. Seed {score.seed}, {run}.",
    ]
    if score.survivors:
        lines += ["", "| digest | line | operator | change |", "|---|---|---|---|"]
        lines += [_row(mutant, "" if reached else " (no test reaches it)") for mutant, reached in score.survivors]
    return "\n".join(lines) + "\n"


def _row(mutant: Mutant, note: str) -> str:
    before, after = _window(mutant.before, mutant.after)
    return f"| `{mutant.digest}` | `{mutant.path}:{mutant.line}` | {mutant.operator}{note} | {_code(before)} → {_code(after)} |"


def _window(before: str, after: str) -> tuple[str, str]:
    """Both lines cut to the part around their first difference, where they are long."""
    if max(len(before), len(after)) <= WIDTH:
        return before, after
    same = next((i for i, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), min(len(before), len(after)))
    start = max(0, same - WIDTH // 3)
    cut = []
    for line in (before, after):
        part = line[start : start + WIDTH]
        cut.append(f"{'…' if start else ''}{part}{'…' if start + WIDTH < len(line) else ''}")
    return cut[0], cut[1]


def _code(line: str) -> str:
    escaped = line.replace("|", "\\|")
    return f"`` {escaped} ``" if "`" in line else f"`{escaped}`"
