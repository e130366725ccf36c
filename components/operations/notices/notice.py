"""What a finished run gives to tell: promoted, refused with the first reason, failed with the end of its log, recovered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.config.notices import NoticeKind
from components.processes.log_lines import last_lines
from components.processes.outcome import RunOutcome
from components.report.summary import MODELS

SHOWN_LINES = 15  # of a failed stage's log
WHOSE = {
    "mistake": "Data or settings have to be mended: it was not tried again.",
    "training": "Training went wrong: it was not tried again.",
    "infrastructure": "The machine or its services failed it.",
    "fault": "Nobody foresaw this fault: it was not tried again.",
}


@dataclass(frozen=True)
class Notice:
    """One message. `facts` holds the same for scripts."""

    kind: NoticeKind
    title: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


def notices_of(
    summary: Mapping[str, Any] | None,
    outcome: RunOutcome,
    *,
    run: str,
    workdir: Path,
    troubles: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> list[Notice]:
    """The notices of a run, in the order in which they should be read; none for a run that changed nothing or that a person cancelled.

    `summary` is this run's reports/summary.json, None where it wrote none. `run` names the run, such as "nightly 2026-11-25 02:00".
    `workdir` is the folder that it ran in. `troubles` say what ended each earlier try or crashed run that this one recovered from;
    `remarks` are sentences that belong under every notice, such as a push that failed.
    """
    if outcome.kind == "cancelled":
        return []
    facts: dict[str, Any] = {"run": run, "mlflow_run_id": summary["mlflow_run_id"] if summary else None, "remarks": list(remarks)}
    if outcome.kind != "ok":
        return [_failed(outcome, run, workdir, troubles, remarks, facts)]
    found = _verdicts(summary, run, remarks, facts) if summary is not None else []
    if troubles:
        found.append(_recovered(run, troubles, remarks, facts))
    if remarks and not found:
        # A run that changed nothing has no notice of its own, and what could not be done after it must still be said.
        found.append(Notice("failed", f"{run}: what follows a run was not done", "\n".join(remarks), facts))
    return found


def _verdicts(summary: Mapping[str, Any], run: str, remarks: Sequence[str], facts: Mapping[str, Any]) -> list[Notice]:
    found = []
    gate, registry = summary["gate"], summary["registry"]
    for name in reversed(MODELS):  # the policy is what people wait for
        verdict, reasons = gate[name]["verdict"], gate[name]["reasons"]
        if verdict not in {"promoted", "refused"}:
            continue
        version = registry[name]["version"]
        named = f"{name} version {version}" if version is not None else f"{name}, not registered,"
        why = reasons[0] if reasons else "no reason is recorded"
        lines = [f"{named} is champion now" if verdict == "promoted" else f"{named} was refused; the champion stays", why]
        if verdict == "refused" and len(reasons) > 1:
            lines.append(f"and {len(reasons) - 1} more findings in the report")
        told = {**facts, "model": name, "version": version, "reason": why, "digest": registry[name]["digest"]}
        found.append(Notice(verdict, f"{run}: {name} {verdict}", "\n".join([*lines, *remarks]), told))
    unjudged = [gate[name]["reasons"][0] for name in MODELS if gate[name]["verdict"] is None and gate[name]["reasons"]]
    if unjudged and not found:
        found.append(Notice("failed", f"{run}: nothing was judged", "\n".join([unjudged[0], *remarks]), {**facts, "reason": unjudged[0]}))
    return found


def _failed(
    outcome: RunOutcome, run: str, workdir: Path, troubles: Sequence[str], remarks: Sequence[str], facts: Mapping[str, Any]
) -> Notice:
    where = f"stage {outcome.stage}" if outcome.stage else "the run"
    lines = [outcome.sentence or f"{where} failed", WHOSE[outcome.kind]]
    if troubles:
        lines.append(f"Tried {_times(len(troubles) + 1)}; before: {'; '.join(troubles)}")
    log = workdir / outcome.log if outcome.log else None
    if log is not None and log.is_file():
        lines += [f"The last lines of {log}:", *(f"  {line}" for line in last_lines(log, SHOWN_LINES))]
    told = {**facts, "stage": outcome.stage, "fault": outcome.kind, "sentence": outcome.sentence, "log": str(log) if log else None}
    return Notice("failed", f"{run}: {where} failed", "\n".join([*lines, *remarks]), told)


def _recovered(run: str, troubles: Sequence[str], remarks: Sequence[str], facts: Mapping[str, Any]) -> Notice:
    lines = [f"It ended well at the {_ordinal(len(troubles) + 1)} try. What had happened:", *(f"- {trouble}" for trouble in troubles)]
    return Notice("recovered", f"{run}: recovered", "\n".join([*lines, *remarks]), {**facts, "troubles": list(troubles)})


def _times(count: int) -> str:
    return {2: "twice", 3: "three times"}.get(count, f"{count} times")


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
