"""What follows a run of a deployment, however it ended: page, pushes of data and lock, notices, cleaning. Nothing here can fail the run."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.checkout import Checkout
from components.config.settings import Settings
from components.files import read_json, version_of
from components.operations.cleaning.sweep import sweep
from components.operations.notices.notice import notices_of
from components.operations.notices.send import send
from components.processes.faults import RunOutcome
from components.stages import STAGE_NAMES
from components.storage.push import commit_lock, push_run
from flows.console import Console
from flows.new_data import note_end
from flows.parameters import RunParameters
from flows.run_page import Page
from flows.workspace import Workspace


@dataclass(frozen=True)
class ScheduledRun:
    """One run of a deployment of `checkout`. `name` is what people read; `run_id` is the flow run's id on Prefect's server."""

    checkout: Checkout
    settings: Settings
    parameters: RunParameters
    run_id: str
    deployment: str
    name: str
    console: Console
    cancel: threading.Event


Version = tuple[int, int, int] | None  # of the summary, as `version_of` tells it


def after_run(
    run: ScheduledRun, workspace: Workspace, outcome: RunOutcome, troubles: Sequence[str], *, earlier: Version, page: Page
) -> str:
    """Publish, notify and clean up after `run`; returns the sentence that the run ends with.

    `troubles` are sentences on failed attempts, `earlier` is the version of the summary before the run.
    """
    log = run.console.print
    summary = fresh_summary(workspace.checkout, earlier)
    remarks = _push(run, workspace) if outcome.kind == "ok" else []
    page.finish(summary, outcome, remarks)
    if note_end(run.checkout, run.parameters, run.name, outcome) and run.parameters.only_new_data:
        log("no notice: an earlier run failed likewise on the same data and settings")
    else:
        notify(run, summary, outcome, checkout=workspace.checkout, troubles=troubles, remarks=remarks)
    try:
        swept = sweep(run.checkout, run.settings.clean, time.time(), locked=[workspace.checkout.root])
    except Exception as error:  # noqa: BLE001 -- the next run removes what this one does not
        log(f"nothing was cleaned ({type(error).__name__}: {' '.join(str(error).split())[:200]})")
    else:
        log(f"cleaned: {len(swept.removable)} things, {swept.size / 1e6:.0f} MB")
    return closing_sentence(summary, outcome)


def _push(run: ScheduledRun, workspace: Workspace) -> list[str]:
    """Store the run's outputs outside this machine; returns sentences on pushes that failed."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    pushes = []
    if run.settings.deployments.push_data:
        pushes.append(push_run(run.checkout, workspace.checkout.root, run.checkout.logs / f"push-{stamp}.log", cancel=run.cancel))
    if workspace.commit is not None:
        branch = f"mmalign/{re.sub(r'[^A-Za-z0-9_-]+', '-', run.name)}/{stamp}"
        pushes.append(commit_lock(workspace.checkout.root, branch, push=run.settings.deployments.push_lock))
    for pushed in pushes:
        if pushed is not None:
            run.console.print(pushed.sentence)
    return [pushed.sentence for pushed in pushes if pushed is not None and not pushed.ok]


def notify(
    run: ScheduledRun,
    summary: dict[str, Any] | None,
    outcome: RunOutcome,
    *,
    checkout: Checkout,
    troubles: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> None:
    """Send the notices of `run`, which worked in `checkout`."""
    for notice in notices_of(summary, outcome, run=run.name, workdir=checkout.root, troubles=troubles, remarks=remarks):
        send(run.checkout, run.settings.notices, notice, log=run.console.print)


def fresh_summary(checkout: Checkout, earlier: Version) -> dict[str, Any] | None:
    """The summary of a run, before which it had the version `earlier`; None where the run was refused before it wrote one."""
    if version_of(checkout.summary) in {earlier, None}:
        return None
    summary: dict[str, Any] = read_json(checkout.summary)
    return summary


def closing_sentence(summary: dict[str, Any] | None, outcome: RunOutcome) -> str:
    """The sentence beside the run's state on Prefect's page."""
    if outcome.kind != "ok" or summary is None:
        return outcome.sentence or "done"
    by_status: dict[str, list[str]] = {}
    for stage in STAGE_NAMES:
        by_status.setdefault(summary["stages"][stage]["status"], []).append(stage)
    stages = "; ".join(f"{status}: {', '.join(names)}" for status, names in by_status.items())
    parts = ["nothing was stale" if set(by_status) == {"skipped"} else stages]
    parts += [
        f"{model} {verdict.replace('_', ' ')}" for model in ("mm-policy", "mm-reward") if (verdict := summary["gate"][model]["verdict"])
    ]
    return "; ".join(parts)
