"""Parent runs: one a `mmalign run`, and one that the stages of a bare `dvc repro` share.

The flow calls `open_parent`, hands the id to its stages as MLFLOW_RUN_ID, adds its results (`record_stages`, `attach_file`,
`record_summary`) and calls `close_parent`. None of these raises when the store is away.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.printable import printable
from components.processes.marks import FLOW_RUN, checkout_mark
from components.tracking.provenance import RUN_FILES, data_version, environment_tags, git_diff, git_state, lock_hashes, untracked
from components.tracking.recorder import PARENT_TAG, PENDING, Recorder, Status, is_orphan, now_ms, replay
from components.tracking.store import reach, store_lock

STAGE_ORIGIN = "stage"  # a parent that a stage opened for itself and for later stages


def open_parent(checkout: Checkout, origin: str) -> str:
    """Open a parent run; returns its id (`pending-...` while the store is away). `origin` names its command, such as "mmalign run"."""
    replay(checkout)
    close_orphans(checkout)
    _end_shared_parents(checkout)
    return _open_parent(checkout, origin)


def _end_shared_parents(checkout: Checkout) -> None:
    """End parents of bare stages that no evaluation has ended: a new run follows."""
    try:
        client, experiment = reach(checkout)
        shared = f"tags.`mmalign.checkout` = '{checkout_mark(checkout)}' and tags.`mmalign.origin` = '{STAGE_ORIGIN}'"
        for parent in client.search_runs([experiment], f"{shared} and attributes.status = 'RUNNING'"):
            children = client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'")
            statuses = {child.info.status for child in children}
            if "RUNNING" not in statuses:
                client.set_terminated(parent.info.run_id, "FINISHED" if statuses <= {"FINISHED"} else "KILLED", now_ms())
    except Exception as error:  # noqa: BLE001 -- no failure of the store may stop a run
        print(f"tracking: parents of earlier stages stay open: {' '.join(str(error).split())[:300]}", file=sys.stderr)


def _open_parent(checkout: Checkout, origin: str) -> str:
    flow_run = os.environ.get(FLOW_RUN)
    tags = {"mmalign.origin": origin, **base_tags(checkout), **({"prefect.flow_run": flow_run} if flow_run else {})}
    recorder = Recorder.create(checkout, origin, parent=None, tags=tags)
    _record_files(checkout, recorder)
    return recorder.run_id


def join_or_open_parent(checkout: Checkout) -> str:
    """The parent of a stage without MLFLOW_RUN_ID: the shared parent opened after the last finished evaluation, else a new one."""
    replay(checkout)
    close_orphans(checkout)
    with store_lock(checkout):
        return _shared_parent(checkout) or _open_parent(checkout, STAGE_ORIGIN)


def close_parent(checkout: Checkout, run_id: str, status: Status) -> None:
    """Record the present files (dvc.lock among them) and end the run."""
    recorder = Recorder.attach(checkout, run_id)
    _record_files(checkout, recorder)
    recorder.end(status)
    replay(checkout)
    close_orphans(checkout)


def record_stages(checkout: Checkout, run_id: str, stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Record each stage's status (ran, skipped, restored, failed, not_reached), the run that wrote its outs, and DVC's hashes.

    Each stage maps to at least `status` and `mlflow_run_id`. They become tags and, whole, stages.json. The runs of stages that ran get the
    hashes of their outs, which DVC computes after a stage has ended.
    """
    recorder = Recorder.attach(checkout, run_id)
    full = {name: {**entry, "dvc": lock_hashes(checkout, name)} for name, entry in stages.items()}
    tags: dict[str, str] = {}
    for name, entry in full.items():
        tags[f"stage.{name}"] = str(entry["status"])
        if entry.get("mlflow_run_id"):
            tags[f"stage.{name}.run_id"] = str(entry["mlflow_run_id"])
    recorder.tags(tags)
    recorder.text("stages.json", json.dumps(full, indent=2, sort_keys=True) + "\n")
    for entry in full.values():
        if entry["status"] == "ran" and entry.get("mlflow_run_id"):
            Recorder.attach(checkout, entry["mlflow_run_id"]).tags({f"dvc.{path}": md5 for path, md5 in entry["dvc"].items()})


def record_summary(checkout: Checkout, run_id: str, path: Path) -> None:
    """Store the run's summary as an artifact, and its numbers as the parent's metrics."""
    recorder = Recorder.attach(checkout, run_id)
    recorder.artifact(path)
    metrics: dict[str, float] = {}
    _numbers("", json.loads(path.read_text(encoding="utf-8")), metrics)
    recorder.metrics(metrics)


def attach_file(checkout: Checkout, run_id: str, path: Path, folder: str | None = None) -> None:
    """Store a file, such as a failed stage's log, as an artifact of a run."""
    Recorder.attach(checkout, run_id).artifact(path, folder)


def close_orphans(checkout: Checkout) -> None:
    """Mark runs of this checkout as killed whose process has ended: a SIGKILL leaves them open."""
    try:
        client, experiment = reach(checkout)
        open_runs = f"tags.`mmalign.checkout` = '{checkout_mark(checkout)}' and attributes.status = 'RUNNING'"
        for run in client.search_runs([experiment], open_runs):
            if is_orphan(run.data.tags):
                client.set_terminated(run.info.run_id, "KILLED", now_ms())
    except Exception as error:  # noqa: BLE001 -- no failure of the store may stop a run
        print(f"tracking: killed runs stay marked as running: {' '.join(str(error).split())[:300]}", file=sys.stderr)


def base_tags(checkout: Checkout) -> dict[str, str]:
    """Tags of every run: git, data version, environment, user."""
    git = git_state(checkout)
    tags = {"git.dirty": str(git.dirty).lower(), "mlflow.user": os.environ.get("USER", "unknown"), **environment_tags(checkout)}
    if git.sha is not None:
        tags |= {"git.sha": git.sha, "mlflow.source.git.commit": git.sha}
    version = data_version(checkout)
    return tags if version is None else {**tags, "dvc.data": version}


def _shared_parent(checkout: Checkout) -> str | None:
    try:
        client, experiment = reach(checkout)
        ours = f"tags.`mmalign.checkout` = '{checkout_mark(checkout)}'"
        shared = f"{ours} and tags.`mmalign.origin` = '{STAGE_ORIGIN}' and attributes.status = 'RUNNING'"
        parents = client.search_runs([experiment], shared, max_results=1, order_by=["attributes.start_time DESC"])
        evaluated = f"{ours} and tags.`mmalign.stage` = 'evaluate' and attributes.status = 'FINISHED'"
        last = client.search_runs([experiment], evaluated, max_results=1, order_by=["attributes.end_time DESC"])
    except Exception:  # noqa: BLE001 -- the next step opens a run, and reports the fault
        return None
    if parents and (not last or parents[0].info.start_time > last[0].info.end_time):
        return str(parents[0].info.run_id)
    return None


def is_shared(checkout: Checkout, run_id: str) -> bool:
    """Whether a parent run belongs to bare stages, not to a `mmalign run` that will close it."""
    if run_id.startswith(PENDING):
        return False
    try:
        client, _ = reach(checkout)
        tags = client.get_run(run_id).data.tags
    except Exception:  # noqa: BLE001 -- unreadable: leave it open
        return False
    return tags.get("mmalign.origin") == STAGE_ORIGIN and PARENT_TAG not in tags


def _record_files(checkout: Checkout, recorder: Recorder) -> None:
    for name in RUN_FILES:
        if (checkout.root / name).is_file():
            recorder.artifact(checkout.root / name)
    if git_state(checkout).dirty:
        recorder.text("git.diff", git_diff(checkout))
        names = untracked(checkout)
        if names:
            recorder.text("untracked.txt", "".join(f"{printable(name)}\n" for name in names))


def _numbers(prefix: str, value: Any, into: dict[str, float]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _numbers(f"{prefix}.{key}" if prefix else str(key), inner, into)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        into[prefix] = float(value)
