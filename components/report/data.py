"""The data of a run: counts of queries and responses, where they come from by their own words, and refused rows by reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from components.report.record import Record, lookup
from components.report.summary import CATEGORIES
from components.report.wording import count, cut, number
from components.storage.bundled import mixture

REASONS_SHOWN = 20
SOURCES_SHOWN = 20
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
DIGITS = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class RefusedKind:
    """Rows refused for one reason, with the first of them."""

    reason: str
    rows: int
    where: str
    example: str


@dataclass(frozen=True)
class Data:
    """Counts (name, training, held-out, whether it is part of the count above), sizes (name, value), the quarantine by reason.

    `sources` has (source as the rows name it, training queries, held-out queries), the most frequent first.
    """

    counts: list[tuple[str, int | None, int | None, bool]]
    sources: list[tuple[str, int, int]]
    sizes: list[tuple[str, str]]
    quarantined: int | None
    refused: list[RefusedKind]
    other_reasons: int
    mixture: str | None = None  # what is bundled beside own rows


def read_data(record: Record) -> Data:
    """Counts from validation, and its quarantine grouped by reason without names and numbers."""
    metrics = record.metrics("validate")
    kinds: dict[str, RefusedKind] = {}
    for row in record.lines("validate", "quarantine.jsonl"):
        field, reason = str(row.get("field") or ""), str(row.get("reason") or "")
        words = cut(f"{field}: {reason}" if field else reason, 200)
        kind = cut(DIGITS.sub("N", QUOTED.sub("'…'", words)), 120)
        first = kinds.get(kind)
        where = cut(f"{row.get('file')}, line {row.get('line')}", 200)
        kinds[kind] = RefusedKind(kind, 1, where, words) if first is None else replace(first, rows=first.rows + 1)
    refused = sorted(kinds.values(), key=lambda kind: -kind.rows)
    return Data(
        _counts(metrics),
        _sources(record),
        [*_sizes(metrics), *_drift(record)],
        metrics.get("quarantined"),
        refused[:REASONS_SHOWN],
        len(refused[REASONS_SHOWN:]),
        mixed.sentence() if (mixed := mixture(record.checkout)) is not None else None,
    )


def _counts(metrics: Mapping[str, Any]) -> list[tuple[str, int | None, int | None, bool]]:
    rows = [("queries", "queries", False)]
    rows += [(f"{name}_queries", name, True) for name in CATEGORIES]
    rows += [("harmful", "harmful requests", True), ("harmless", "harmless requests", True)]
    rows += [("responses", "responses", False), ("pairs", "pairs of different rank", False), ("ties", "ties", False)]
    return [
        (words, metrics.get(key), metrics.get(f"heldout_{key}"), part)
        for key, words, part in rows
        if metrics.get(key) is not None or metrics.get(f"heldout_{key}") is not None
    ]


def _sources(record: Record) -> list[tuple[str, int, int]]:
    by_split = [
        Counter(str(row["source"] or "") for row in record.table("validate", f"{split}/queries.parquet", "source"))
        for split in ("train", "heldout")
    ]
    total = by_split[0] + by_split[1]
    return [(cut(name or "not named", 200), by_split[0][name], by_split[1][name]) for name, _ in total.most_common(SOURCES_SHOWN)]


def _sizes(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    sizes = []
    if metrics.get("rows") is not None:
        share = metrics.get("quarantined_share")
        refused = f", {count(metrics.get('quarantined'))} of them refused" + (f" ({number(100 * share)} %)" if share else "")
        sizes.append(("rows read", count(metrics["rows"]) + refused))
    if metrics.get("longest_tokens") is not None:
        sizes.append(("longest sequence", f"{count(metrics['longest_tokens'])} tokens"))
    return [*sizes, *_remarks(metrics)]


def _drift(record: Record) -> list[tuple[str, str]]:
    """How each split differs from the data of the champion that the run was compared with."""
    rows = []
    for split, drift in (lookup(record.summary, "gate", "mm-policy", "drift") or {}).items():
        words = f"{'training' if split == 'train' else 'held-out'} queries since champion {drift['version']}"
        rows.append((words, f"{count(drift['new'])} new, {count(drift['gone'])} gone"))
        rows += [(f"{words}: {name}", f"{number(100 * share)} % of the rows moved") for name, share in drift["moved"].items()]
    return rows


def _remarks(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the held-out rows share with training, how ranks and scores agree, and what looks like personal data."""
    remarks: list[tuple[str, str]] = []
    heldout = metrics.get("heldout_queries")
    if heldout and metrics.get("leaked_queries") is not None:
        for name, words in (
            ("leaked_queries", "held-out rows that share a picture or a group with training"),
            ("near_duplicates", "held-out rows that ask the same about a picture that looks like one in training"),
            ("shared_wordings", "held-out rows whose question training asks too"),
        ):
            remarks.append((words, f"{count(metrics[name])} of {count(heldout)}"))
    if metrics.get("contradicting_share") is not None:
        share = f"{number(100 * metrics['contradicting_share'])} %"
        remarks.append(("pairs whose ranks contradict their scores", f"{count(metrics['contradictions'])} ({share})"))
    for name, words in (
        ("rows_without_scores", "rows without a pair that has scores"),
        ("equal_texts", "pairs left out: equal answers at different ranks"),
        ("rows_with_personal_data", "rows with what looks like personal data"),
    ):
        if metrics.get(name):
            remarks.append((words, count(metrics[name])))
    return remarks
