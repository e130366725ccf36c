"""Runs of a deployment with other settings, by the real stages: their curve, their record, and a checkout that stays as it is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from components.checkout import Checkout
from components.operations.services.state import client_environment
from components.processes.marks import checkout_mark
from components.stages import STAGE_NAMES, command
from components.storage.clones import clones_folder
from components.storage.copies import workspace_of
from mlflow import MlflowClient
from tests.checkout import alive, git, wait_for
from tests.recipe.conftest import Recipe

pytestmark = pytest.mark.slow

EDIT = "# an edit that nobody has committed\n"


@pytest.fixture
def committed(recipe: Recipe) -> Recipe:
    """The checkout with all of it committed, as `source: git` sees it."""
    if git(recipe.root, "status", "--porcelain"):
        git(recipe.root, "add", "-A")
        git(recipe.root, "commit", "-qm", "Data and results")
    return recipe


def overridden(steps: int, *more: str) -> list[str]:
    return ["run", "--deployment", "on-demand", "--set", f"alignment.max_steps={steps}", *more, "--wait"]


def untouched(recipe: Recipe) -> tuple[str, dict[str, bytes]]:
    """What git sees of the checkout, and its results."""
    folders = [recipe.root / name for name in ("artifacts", "reports")]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return git(recipe.root, "status", "--porcelain"), {str(path): path.read_bytes() for path in files}


def summary_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "reports/summary.json").read_text())
    return content


def assert_run_took(recipe: Recipe, folder: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve, the recorded parameters and the verdict of the run in `folder` are those of so many steps."""
    summary = summary_of(folder)
    assert summary["status"] == "ok"
    for name, value in client_environment(Checkout(recipe.root)).items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(client_environment(Checkout(recipe.root))["MLFLOW_TRACKING_URI"])
    run_id = summary["stages"]["align"]["mlflow_run_id"]
    assert client.get_run(run_id).data.params["alignment.max_steps"] == str(steps)
    assert [point.step for point in client.get_metric_history(run_id, "loss")] == list(range(1, steps + 1))
    assert summary["gate"]["mm-policy"]["verdict"] == "refused"
    version = summary["registry"]["mm-policy"]
    shown = recipe.mmalign("lineage", f"mm-policy/{version['version']}", "--json")
    assert shown.returncode == 0, shown.stderr
    lineage = json.loads(shown.stdout)
    assert lineage["version"]["digest"] == version["digest"]
    assert lineage["promotion"]["verdict"] == "refused"
    assert yaml.safe_load(lineage["files"]["params.yaml"])["alignment"]["max_steps"] == steps


def test_overrides_of_deployment_hold_for_their_run(committed: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    before = untouched(committed)
    completed = committed.mmalign(*overridden(2))
    assert completed.returncode == 0, completed.stdout + completed.stderr
    copy = workspace_of(Checkout(committed.root), ["alignment.max_steps=2"]).root
    assert {name: stage["status"] for name, stage in summary_of(copy)["stages"].items()} == {
        **dict.fromkeys(STAGE_NAMES, "restored"), "align": "ran", "evaluate": "ran"
    }  # fmt: skip
    assert_run_took(committed, copy, 2, monkeypatch)
    assert untouched(committed) == before

    repeated = committed.mmalign(*overridden(2))
    assert repeated.returncode == 0, repeated.stdout + repeated.stderr
    assert {stage["status"] for stage in summary_of(copy)["stages"].values()} == {"skipped"}
    assert untouched(committed) == before

    nightly = committed.mmalign("run", "--deployment", "nightly", "--wait")
    assert nightly.returncode == 0, nightly.stdout + nightly.stderr
    assert {stage["status"] for stage in committed.summary()["stages"].values()} == {"skipped"}
    assert untouched(committed)[0] == before[0]
    assert committed.summary()["stages"]["align"]["mlflow_run_id"] != summary_of(copy)["stages"]["align"]["mlflow_run_id"]


@pytest.mark.parametrize(("source", "steps"), [("checkout", 3), ("git", 4)])
def test_killed_align_and_edit_change_no_overrides(committed: Recipe, monkeypatch: pytest.MonkeyPatch, source: str, steps: int) -> None:
    params = committed.root / "params.yaml"
    mine = params.read_text()
    before = untouched(committed)
    process = subprocess.Popen(
        [*command("cli"), *overridden(steps, "--source", source)],
        cwd=committed.root,
        env=committed.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        copy = workspace_of(Checkout(committed.root), [f"alignment.max_steps={steps}"]).root

        def folders() -> list[Path]:
            """Where the run may work: its copy, or any clone."""
            return [copy] if source == "checkout" else list(clones_folder(Checkout(committed.root)).glob("*-*-*-*-*"))

        def ranks() -> list[psutil.Process]:
            live = [process for folder in folders() for process in alive(folder) if process.stage_mark.startswith("align:")]
            return [psutil.Process(one.pid) for one in live if "components.engine.worker" in one.command]

        wait_for(ranks, seconds=900)
        params.write_text(mine + EDIT)
        for rank in ranks():
            rank.kill()
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
        assert params.read_text() == mine + EDIT
    finally:
        process.kill()
        params.write_text(mine)
    assert "stage align failed" in output, "the run says what it repeated"
    (folder,) = [folder for folder in folders() if yaml.safe_load((folder / "params.yaml").read_text())["alignment"]["max_steps"] == steps]
    assert EDIT not in (folder / "params.yaml").read_text()
    assert checkout_mark(Checkout(folder)) != checkout_mark(Checkout(committed.root))
    assert_run_took(committed, folder, steps, monkeypatch)
    assert untouched(committed) == before
    assert yaml.safe_load(mine)["alignment"]["max_steps"] is None

    if source == "checkout":  # a clone of source git belongs to its run
        repeated = committed.mmalign(*overridden(steps))
        assert repeated.returncode == 0, repeated.stdout + repeated.stderr
        assert {stage["status"] for stage in summary_of(folder)["stages"].values()} == {"skipped"}
