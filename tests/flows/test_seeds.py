"""`mmalign run --seeds` on the small checkout: real runs, killed and continued, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import statistics
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.storage.copies import workspace_of
from tests.checkout import behave, mmalign, start_mmalign, started, wait_for


def content(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "reports/seeds.json").read_text()))


def measure_by_seed(checkout: Path) -> None:
    """Let stage evaluate write a metric that follows from the seed: 90 + the seed's square."""
    script = checkout / "stage.py"
    metric = '"policy.aligned.conversation": 90.0 + (settings["alignment"]["seed"] or 0) ** 2'
    text = script.read_text()
    assert '{"queries": 3}' in text
    script.write_text(text.replace('{"queries": 3}', '{"queries": 3, ' + metric + "}"))


@pytest.mark.slow
def test_seeds_are_run_killed_continued_and_reused(checkout: Path) -> None:
    measure_by_seed(checkout)
    copies = {seed: workspace_of(Checkout(checkout), [f"alignment.seed={seed}"]).root for seed in (1, 2)}

    # Seed 1 waits in its alignment when everything is killed: the file has the first seed alone.
    process = start_mmalign(checkout, "run", "--seeds", "3")
    try:
        wait_for((checkout / "reports/seeds.json").is_file, 300)
        wait_for(copies[1].is_dir, 300)
        (copies[1] / "behaviour").mkdir(exist_ok=True)
        behave(copies[1], "align", "wait")
        wait_for((copies[1] / "waiting.align").is_file, 300)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert [run["seed"] for run in content(checkout)["runs"]] == [0]
    assert content(checkout)["missing"] == [1, 2]

    # The same command goes on: the checkout's own run is not repeated, and only the last stages are, with their seeds.
    behave(copies[1], "align")
    before = started(checkout)
    completed = mmalign(checkout, "run", "--seeds", "3", "--json", timeout=900)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert started(checkout) == before
    assert started(copies[2]) == ["align", "evaluate"]
    printed = json.loads(completed.stdout)
    assert printed == content(checkout)
    assert {run["seed"]: run["metrics"]["policy.aligned.conversation"] for run in printed["runs"]} == {0: 90.0, 1: 91.0, 2: 94.0}
    spread = printed["metrics"]["policy.aligned.conversation"]
    assert spread == {
        "seeds": 3,
        "mean": pytest.approx(275 / 3),
        "standard_deviation": pytest.approx(statistics.stdev([90, 91, 94])),
        "least": 90.0,
        "greatest": 94.0,
    }
    assert "seeds: 3 of 3 are finished" in completed.stderr
    assert "91.7" in (checkout / "reports/report.html").read_text()

    # No seed but the first was judged, and MLflow has the spread with the seeds' runs below it.
    for copy in copies.values():
        assert json.loads((copy / "reports/summary.json").read_text())["gate"]["mm-policy"]["verdict"] is None
    with closing(sqlite3.connect(checkout / "mlflow.db")) as record:
        parents = record.execute("SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId' AND value = ?", (printed["mlflow_run_id"],))
        assert {run for (run,) in parents} == {run["mlflow_run_id"] for run in printed["runs"][1:]}
        means = record.execute("SELECT value FROM latest_metrics WHERE run_uuid = ? AND key LIKE '%.mean'", (printed["mlflow_run_id"],))
        assert means.fetchall() == [(pytest.approx(275 / 3),)]

    # Once more: nothing runs, in no folder.
    ran = {folder: started(folder) for folder in (checkout, *copies.values())}
    repeated = mmalign(checkout, "run", "--seeds", "3", timeout=900)
    assert repeated.returncode == 0, repeated.stdout + repeated.stderr
    assert {folder: started(folder) for folder in ran} == ran
    assert content(checkout)["mlflow_run_id"] == printed["mlflow_run_id"]
    assert "91.7" in repeated.stdout
