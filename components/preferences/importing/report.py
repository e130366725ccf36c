"""What an import read, made and left out: counts with the first places, for the terminal and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.preferences.importing.convert import Finding

PLACES = 5  # that the report names of a kind

# What a finding means. The kinds that no sentence stands for are refused rows, and have their reason.
WORDS = {
    "missing_pair": "pairs missing that follow from others: their rankings hold them now",
    "no_single_ranking": "pairs that no single ranking of their prompt holds: each is a query of its own",
    "contradiction": "queries left out: two of their pairs contradict each other",
    "cycle": "queries left out: their pairs run in a circle",
    "too_many_answers": "queries left out: they have too many answers",
    "repeated_pair": "pairs that stand more than once: used once",
    "second_reason": "reasons beside another reason for the same answer: the first one stays",
    "unrated": "answers without any rating: left out",
    "repeated_row": "rows that stand more than once: used once",
    "present_row": "rows that data/preferences has already: left as they are",
    "repeated_id": "rows with the id of an earlier row: validation will refuse them",
    "id_changed": "ids changed, since another query has them",
}


@dataclass
class KindOfFinding:
    """How often a kind of finding occurs, and where first."""

    count: int = 0
    places: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class ImportReport:
    """The counts of an import. `refused` rows hold nothing usable; `changed` holds the other findings, by kind."""

    format: str
    title: str
    source: str
    wrote: str
    rows: int = 0
    pairs: int = 0
    queries: int = 0
    pairs_written: int = 0
    media: int = 0
    refused: dict[str, KindOfFinding] = field(default_factory=dict)
    changed: dict[str, KindOfFinding] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, findings: Iterable[Finding], names: Sequence[str]) -> None:
        """Count findings; `names` are those of the source's files."""
        for finding in findings:
            kinds = self.changed if finding.kind in WORDS else self.refused
            kind = kinds.setdefault(finding.kind, KindOfFinding())
            kind.count += finding.times
            if len(kind.places) < PLACES:
                kind.places.append(located(finding, names))

    def as_json(self) -> dict[str, Any]:
        """All of it, for scripts."""
        values = {name: value for name, value in vars(self).items() if name not in {"refused", "changed"}}
        kinds = {"refused": self.refused, "changed": self.changed}
        return values | {name: {kind: vars(value) for kind, value in group.items()} for name, group in kinds.items()}

    def lines(self) -> list[str]:
        """All of it, for a person."""
        refused = sum(kind.count for kind in self.refused.values())
        lines = [
            f"{self.source}: {self.rows:,} rows of {self.title}",
            f"{self.wrote}: {self.queries:,} queries with {self.pairs_written:,} pairs ({self.pairs:,} read), {self.media:,} media",
        ]
        lines += self.notes
        if self.unread:
            shown = ", ".join(f"{name} ({count:,})" for name, count in Counter(self.unread).most_common(8))
            lines.append(f"fields that nothing reads: {shown}{'' if len(self.unread) <= 8 else ' and others'}")
        lines += [f"{value.count:,} {WORDS[kind]} ({_first(value)})" for kind, value in sorted(self.changed.items())]
        if refused:
            lines.append(f"{refused:,} of {self.rows:,} rows refused:")
            lines += [
                f"  {kind}: {value.count:,}, first {_first(value)}: {_reason(value.places[0])}"
                for kind, value in sorted(self.refused.items())
            ]
        return lines


def located(finding: Finding, names: Sequence[str]) -> dict[str, Any]:
    """A finding with its file and line, as JSON."""
    return {
        "file": names[finding.file],
        "line": finding.line,
        "kind": finding.kind,
        "field": finding.field,
        "reason": finding.reason,
        "count": finding.times,
    }


def _first(kind: KindOfFinding) -> str:
    return ", ".join(f"{one['file']}:{one['line']}" for one in kind.places[:3]) + (", ..." if kind.count > 3 else "")


def _reason(one: dict[str, Any]) -> str:
    return f"{one['field']}: {one['reason']}" if one["field"] else str(one["reason"])
