"""Writes the record of a run: reports/summary.json, whole at any time, reports/report.html at its end, and both in MLflow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.files import write_json
from components.report.summary import FINISHED, RunRecord, summarize

SUMMARY = Path("reports") / "summary.json"
PAGE = Path("reports") / "report.html"
MLFLOW_STATUS = {"ok": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}


def on_monotonic_clock(started: float) -> float:
    """A start in seconds since the epoch, a moment ago, on the clock that nobody sets: a run may outlast a change of the other one."""
    return time.monotonic() - max(0.0, time.time() - started)


def write_summary(checkout: Checkout, record: RunRecord, started: float) -> None:
    """Write reports/summary.json with the present state; `started` is the run's start by `on_monotonic_clock`."""
    record.seconds = time.monotonic() - started
    write_json(checkout.root / SUMMARY, summarize(record, checkout.artifacts, _judges(checkout, record)))


def _judges(checkout: Checkout, record: RunRecord) -> dict[str, list[dict[str, Any]]]:
    """The judges of the metrics, once the evaluation has finished."""
    evaluated = record.stages.get("evaluate")
    if evaluated is None or evaluated.status not in FINISHED:
        return {}
    from components.report.judgements import read_judgements

    return read_judgements(checkout)


def open_record(checkout: Checkout, record: RunRecord) -> None:
    """Open the run's parent in MLflow."""
    from components.tracking.runs import open_parent

    record.mlflow_run_id = open_parent(checkout, "mmalign run")


def close_record(checkout: Checkout, record: RunRecord, started: float) -> None:
    """Write the final summary, and close the parent run with the status of each stage."""
    from components.files import read_json
    from components.tracking.runs import attach_file, close_parent, record_stages, record_summary

    assert record.status != "running", "a closed run has ended"
    write_summary(checkout, record, started)
    page = render_page(checkout)
    if record.mlflow_run_id is None:
        return
    record_stages(checkout, record.mlflow_run_id, read_json(checkout.root / SUMMARY)["stages"])
    if record.log is not None and (checkout.root / record.log).is_file():
        attach_file(checkout, record.mlflow_run_id, checkout.root / record.log, "logs")
    if page is not None:
        attach_file(checkout, record.mlflow_run_id, page)
    record_summary(checkout, record.mlflow_run_id, checkout.root / SUMMARY)
    close_parent(checkout, record.mlflow_run_id, MLFLOW_STATUS[record.status])  # type: ignore[arg-type]


def render_page(checkout: Checkout) -> Path | None:
    """Render reports/report.html; returns its path. A failure ends no run, since the summary has the metrics."""
    from components.report.render import render_report

    try:
        return render_report(checkout)
    except Exception as error:  # noqa: BLE001 -- no fault of a page changes the run's result
        print(f"{PAGE} could not be rendered ({type(error).__name__}: {error}); try `mmalign report`")
        return None
