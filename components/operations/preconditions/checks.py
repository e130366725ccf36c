"""The preconditions, in the order in which a run names them, and what a run does where one does not hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from components.errors import UserError
from components.operations.doctor.findings import Finding
from components.operations.preconditions.base_model import base_model
from components.operations.preconditions.critiques import critiques
from components.operations.preconditions.gate_rules import gate_rules
from components.operations.preconditions.ground_truth import ground_truth
from components.operations.preconditions.machine import deadlines, disk, gpus, kernels, open_files, shared_memory
from components.operations.preconditions.rows import bundled_files_apart, rows
from components.operations.preconditions.servers import servers
from components.operations.preconditions.situation import Situation

Precondition = Callable[[Situation], Finding]
GATE = "gate rules"
PRECONDITIONS: dict[str, Precondition] = {
    "base model": base_model,
    "rows": rows,
    "ground truth": ground_truth,
    "critiques": critiques,
    "servers": servers,
    "bundled files": bundled_files_apart,
    "gpus": gpus,
    "kernels": kernels,
    "shared memory": shared_memory,
    "open files": open_files,
    GATE: gate_rules,
    "deadlines": deadlines,
    "disk": disk,
}


def checked(situation: Situation) -> dict[str, Finding]:
    """The findings of all preconditions, by name."""
    return {name: check(situation) for name, check in PRECONDITIONS.items()}


def unmet(findings: Mapping[str, Finding]) -> dict[str, Finding]:
    """Those that do not hold: problems, which a run refuses, and warnings."""
    return {name: finding for name, finding in findings.items() if finding.state != "ok"}


def require(situation: Situation, log: Callable[[str], None]) -> None:
    """Log the warnings of a run that is about to start, and which rules of the gate apply. Raises UserError, in one sentence, for the first
    precondition that does not hold.
    """
    if not situation.stages:
        return
    every = checked(situation)
    findings = unmet(every)
    for finding in findings.values():
        if finding.state == "problem":
            raise UserError(sentence(finding))
    for finding in findings.values():
        log(f"warning: {sentence(finding)}")
    if GATE not in findings and every[GATE].details is not None:
        log(f"gate: {every[GATE].text}")


def require_base(situation: Situation) -> None:
    """As `require` for the base model alone: without it every stage is stale, whatever DVC would say."""
    finding = base_model(situation)
    if finding.state == "problem":
        raise UserError(sentence(finding))


def sentence(finding: Finding) -> str:
    """What is wrong, and what to do."""
    return finding.text if finding.cure is None else f"{finding.text}: {finding.cure}"


def as_json(findings: Mapping[str, Finding]) -> list[dict[str, Any]]:
    """The findings for scripts, as `mmalign doctor --json` has them."""
    return [finding.as_json(name) for name, finding in findings.items()]
