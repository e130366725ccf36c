"""What follows a run of a deployment, whatever its end was: page, data and lock pushed, notices, cleaning. Nothing here can fail the run."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.config.settings import Settings
from components.files import read_json
from components.operations.cleaning.sweep import sweep
from components.operations.notices.notice import notices_of
from components.operations.notices.send import send
from components.processes.outcome import RunOutcome
from components.report.run_record import SUMMARY
from components.stages import STAGE_NAMES
from components.storage.push import commit_lock, push_run
from flows.night_page import Page
from flows.workplace import Workplace

Say = Callable[[str], None]


def aftermath(
    root: Path,
    place: Workplace,
    settings: Settings,
    outcome: RunOutcome,
    *,
    name: str,
    began: float,
    troubles: Sequence[str],
    page: Page,
    cancel: threading.Event,
    say: Say,
) -> str:
    """Publish, tell and clean after the run `name` in `place`; the sentence that the run ends with."""
    summary = fresh_summary(place.folder, began)
    remarks = _push(root, place, settings, name, cancel, say) if outcome.kind == "ok" else []
    page.finish(summary, outcome, remarks)
    tell(root, settings, summary, outcome, name=name, folder=place.folder, troubles=troubles, remarks=remarks, say=say)
    try:
        swept = sweep(root, settings.clean, time.time(), locked=[place.folder])
    except Exception as error:  # noqa: BLE001 -- what is not removed tonight is removed tomorrow
        say(f"nothing was cleaned ({type(error).__name__}: {' '.join(str(error).split())[:200]})")
    else:
        say(f"cleaned: {len(swept.removable)} things, {swept.size / 1e6:.0f} MB")
    return closing_sentence(summary, outcome)


def _push(root: Path, place: Workplace, settings: Settings, name: str, cancel: threading.Event, say: Say) -> list[str]:
    """Store what a run made outside this machine; sentences on what could not be done."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    done = []
    if settings.deployments.push_data:
        done.append(push_run(root, place.folder, root / "logs" / f"push-{stamp}.log", cancel=cancel))
    if place.commit is not None:
        branch = f"mmalign/{re.sub(r'[^A-Za-z0-9_-]+', '-', name)}/{stamp}"
        done.append(commit_lock(place.folder, branch, push=settings.deployments.push_lock))
    for pushed in done:
        if pushed is not None:
            say(pushed.sentence)
    return [pushed.sentence for pushed in done if pushed is not None and not pushed.ok]


def tell(
    root: Path,
    settings: Settings,
    summary: dict[str, Any] | None,
    outcome: RunOutcome,
    *,
    name: str,
    folder: Path,
    troubles: Sequence[str],
    say: Say,
    remarks: Sequence[str] = (),
) -> None:
    """Send the notices of the run `name` in `folder`."""
    for notice in notices_of(summary, outcome, run=name, workdir=folder, troubles=troubles, remarks=remarks):
        send(root, settings.notices, notice, log=say)


def fresh_summary(folder: Path, began: float) -> dict[str, Any] | None:
    """The summary of a run that began at `began` (seconds since the epoch); None where the run was refused before it wrote one."""
    path = folder / SUMMARY
    if not path.is_file() or path.stat().st_mtime < began:
        return None
    found: dict[str, Any] = read_json(path)
    return found


def closing_sentence(summary: dict[str, Any] | None, outcome: RunOutcome) -> str:
    """What Prefect's page shows beside the run's state."""
    if outcome.kind != "ok" or summary is None:
        return outcome.sentence or "done"
    done: dict[str, list[str]] = {}
    for stage in STAGE_NAMES:
        done.setdefault(summary["stages"][stage]["status"], []).append(stage)
    parts = ["nothing was stale" if set(done) == {"skipped"} else "; ".join(f"{word}: {', '.join(names)}" for word, names in done.items())]
    parts += [
        f"{model} {verdict.replace('_', ' ')}" for model in ("mm-policy", "mm-reward") if (verdict := summary["gate"][model]["verdict"])
    ]
    return "; ".join(parts)
