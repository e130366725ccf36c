"""Writes the notices of a finished run: promoted, refused with the first reason, failed with the end of its log, recovered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.config.ops import NoticeKind
from components.processes.faults import RunOutcome
from components.processes.log_lines import last_lines
from components.report.summary import MODELS

SHOWN_LINES = 15  # of a failed stage's log
REMEDIES = {
    "mistake": "Correct the data or the settings. The run was not retried.",
    "training": "Training went wrong. The run was not retried.",
    "infrastructure": "The machine or its services failed.",
    "fault": "This fault is unknown. The run was not retried.",
}


@dataclass(frozen=True)
class Notice:
    """One message. `details` holds the same for scripts; their key in the journal is `facts`."""

    kind: NoticeKind
    title: str
    text: str
    details: dict[str, Any] = field(default_factory=dict)


def notices_of(
    summary: Mapping[str, Any] | None,
    outcome: RunOutcome,
    *,
    run: str,
    workdir: Path,
    troubles: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> list[Notice]:
    """The notices of a run, in reading order; none for a run that changed nothing, or that a person cancelled.

    `summary` is the run's reports/summary.json, None where it wrote none. `run` names the run, such as "nightly 2026-11-25 02:00".
    `workdir` is the folder of the run. `troubles` has the reason of each failed try or crashed run before this one. `remarks` are sentences
    for the end of every notice, such as the failure of a push.
    """
    if outcome.kind == "cancelled":
        return []
    details: dict[str, Any] = {"run": run, "mlflow_run_id": summary["mlflow_run_id"] if summary else None, "remarks": list(remarks)}
    if outcome.kind != "ok":
        return [_failed(outcome, run, workdir, troubles, remarks, details)]
    notices = _verdicts(summary, run, remarks, details) if summary is not None else []
    if troubles:
        notices.append(_recovered(run, troubles, remarks, details))
    if remarks and not notices:
        # A run that changed nothing has no notice, but a failure after the run still needs one.
        notices.append(Notice("failed", f"{run}: a step after the run failed", "\n".join(remarks), details))
    return notices


def _verdicts(summary: Mapping[str, Any], run: str, remarks: Sequence[str], details: Mapping[str, Any]) -> list[Notice]:
    notices = []
    gate, registry = summary["gate"], summary["registry"]
    for name in reversed(MODELS):  # the policy first: people wait for it
        verdict, reasons = gate[name]["verdict"], gate[name]["reasons"]
        if verdict not in {"promoted", "refused"}:
            continue
        version = registry[name]["version"]
        named = f"{name} version {version}" if version is not None else f"{name}, not registered,"
        why = reasons[0] if reasons else "no reason is recorded"
        lines = [f"{named} is champion now" if verdict == "promoted" else f"{named} was refused; the champion stays", why]
        if verdict == "refused" and len(reasons) > 1:
            lines.append(f"and {len(reasons) - 1} more findings in the report")
        extended = {**details, "model": name, "version": version, "reason": why, "digest": registry[name]["digest"]}
        notices.append(Notice(verdict, f"{run}: {name} {verdict}", "\n".join([*lines, *remarks]), extended))
    unjudged = [gate[name]["reasons"][0] for name in MODELS if gate[name]["verdict"] is None and gate[name]["reasons"]]
    if unjudged and not notices:
        extended = {**details, "reason": unjudged[0]}
        notices.append(Notice("failed", f"{run}: no model was judged", "\n".join([unjudged[0], *remarks]), extended))
    return notices


def _failed(
    outcome: RunOutcome, run: str, workdir: Path, troubles: Sequence[str], remarks: Sequence[str], details: Mapping[str, Any]
) -> Notice:
    where = f"stage {outcome.stage}" if outcome.stage else "the run"
    lines = [outcome.sentence or f"{where} failed", REMEDIES[outcome.kind]]
    if troubles:
        lines.append(f"Tried {_times(len(troubles) + 1)}; before: {'; '.join(troubles)}")
    log = workdir / outcome.log if outcome.log else None
    if log is not None and log.is_file():
        lines += [f"The last lines of {log}:", *(f"  {line}" for line in last_lines(log, SHOWN_LINES))]
    extended = {**details, "stage": outcome.stage, "fault": outcome.kind, "sentence": outcome.sentence, "log": str(log) if log else None}
    return Notice("failed", f"{run}: {where} failed", "\n".join([*lines, *remarks]), extended)


def _recovered(run: str, troubles: Sequence[str], remarks: Sequence[str], details: Mapping[str, Any]) -> Notice:
    lines = [f"It succeeded at the {_ordinal(len(troubles) + 1)} try. The failures before:", *(f"- {trouble}" for trouble in troubles)]
    return Notice("recovered", f"{run}: recovered", "\n".join([*lines, *remarks]), {**details, "troubles": list(troubles)})


def _times(count: int) -> str:
    return {2: "twice", 3: "three times"}.get(count, f"{count} times")


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
