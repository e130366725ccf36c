"""Where runs of deployments work: clones, folders of their own, other checkouts, a renamed host. On the real services."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from components.checkout import Checkout
from components.processes.marks import SERVICE_MARK, checkout_mark, marked
from components.storage.copies import workspace_of
from tests.checkout import ROOT, alive, behave, clean_environment, make_checkout, mmalign, started, wait_for
from tests.flows.scheduled import ended, fresh, quiet, runs, served, start

__all__ = ["quiet", "served"]
pytestmark = pytest.mark.slow


def test_run_on_clone_ignores_edits_of_checkout(served: Path) -> None:
    mine = (served / "params.yaml").read_text()
    (served / "params.yaml").write_text(mine + "# an edit that nobody has committed\n")
    (served / "dvc.lock").unlink(missing_ok=True)
    completed = mmalign(served, "run", "--deployment", "on-demand", "--source", "git", "--set", fresh(51), "--wait", timeout=600)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert (served / "params.yaml").read_text() == mine + "# an edit that nobody has committed\n"
    assert not (served / "dvc.lock").exists()
    run = runs(served, "on-demand")[-1]
    clone = served / ".mmalign/services/clones" / run["id"]
    settings = yaml.safe_load((clone / "params.yaml").read_text())
    assert settings["reward"]["epochs"] == 51
    assert "an edit" not in (clone / "params.yaml").read_text()
    assert (clone / ".dvc/config.local").read_text().count(str(served / ".dvc/cache")) == 1
    branch = subprocess.run(["git", "branch", "--show-current"], cwd=clone, capture_output=True, text=True, check=True).stdout
    assert branch.startswith("mmalign/on-demand-")
    (served / "params.yaml").write_text(mine)
    shutil.rmtree(clone)

    unknown = mmalign(served, "run", "--deployment", "on-demand", "--source", "git", "--ref", "no-such-branch", "--wait")
    assert unknown.returncode == 2
    assert "no-such-branch" in unknown.stderr


def test_overrides_hold_for_their_run_alone(served: Path) -> None:
    """In a folder of its own, through a kill of its flow and an edit of params.yaml meanwhile; the command again trains nothing."""
    assert ended(served, start(served))["state_type"] == "COMPLETED"
    results = {path: path.read_bytes() for path in sorted((served / "artifacts").rglob("*")) if path.is_file()}
    lock, summary = (served / "dvc.lock").read_bytes(), (served / "reports/summary.json").read_bytes()
    mine = (served / "params.yaml").read_text()
    count = len(started(served))
    copy = workspace_of(Checkout(served), [fresh(61)]).root
    (copy / "behaviour").mkdir(parents=True)
    behave(copy, "align", "wait")
    try:
        run = start(served, overrides=[fresh(61)])
        wait_for((copy / "waiting.align").exists, seconds=120)
        (served / "params.yaml").write_text(mine + "# an edit that nobody has committed\n")
        for process in marked(SERVICE_MARK, checkout_mark(Checkout(served))):
            if "prefect.engine" in process.command:
                psutil.Process(process.pid).kill()
        wait_for(lambda: not alive(copy), seconds=60)  # a stage that ends by itself would need no second start
        behave(copy, "align")
        assert ended(served, run, 240)["state_type"] == "CRASHED"
        wait_for(lambda: runs(served, "on-demand")[-1]["parameters"]["run"].get("recovers") == run["id"], seconds=60)
        assert ended(served, runs(served, "on-demand")[-1])["state_type"] == "COMPLETED"
    finally:
        behave(copy, "align")
    ran = started(copy)
    assert ran == ["reward", "critique", "align", "align", "evaluate"]
    assert yaml.safe_load((copy / "params.yaml").read_text())["reward"]["epochs"] == 61
    assert "an edit" not in (copy / "params.yaml").read_text()
    assert json.loads((copy / "artifacts/reward/result.txt").read_text().splitlines()[0])["epochs"] == 61

    repeated = mmalign(served, "run", "--deployment", "on-demand", "--set", fresh(61), "--wait", timeout=600)
    assert repeated.returncode == 0, repeated.stderr
    assert started(copy) == ran
    assert "nothing was stale" in repeated.stdout
    assert "an edit" in (copy / "params.yaml").read_text()

    # The checkout is as it was, and its next run has its own settings.
    assert (served / "params.yaml").read_text() == mine + "# an edit that nobody has committed\n"
    assert {path: path.read_bytes() for path in sorted((served / "artifacts").rglob("*")) if path.is_file()} == results
    assert ((served / "dvc.lock").read_bytes(), (served / "reports/summary.json").read_bytes()) == (lock, summary)
    assert len(started(served)) == count
    assert "nothing was stale" in ended(served, start(served))["state"]["message"]
    (served / "params.yaml").write_text(mine)


def test_two_checkouts_share_no_processes_or_ports(served: Path, tmp_path: Path) -> None:
    other = make_checkout(tmp_path / "other")
    status = mmalign(other, "status", "--json")
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)["running"]["processes"] == []
    down = mmalign(other, "down")
    assert down.returncode == 2
    assert marked(SERVICE_MARK, checkout_mark(Checkout(served))) != []


def test_renamed_host_runs_deployments(served: Path) -> None:
    def renamed(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "--uts", "sh", "-c", 'hostname renamed-host && exec "$@"', "sh", sys.executable, "-m", "components.cli.main"]
        environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
        return subprocess.run([*command, *arguments], cwd=served, env=environment, capture_output=True, text=True, timeout=900, check=False)

    if subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not make a namespace for a host's name")
    assert mmalign(served, "down", timeout=300).returncode == 0
    up = renamed("up", "--detach")
    assert up.returncode == 0, up.stderr
    completed = renamed("run", "--deployment", "on-demand", "--wait")
    assert completed.returncode == 0, completed.stdout + completed.stderr
