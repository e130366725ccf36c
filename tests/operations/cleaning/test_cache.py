"""Cleaning of a small checkout with real git and DVC. Tests pass a later time, since files can't be made older."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.checkout import Checkout
from components.operations.cleaning.folders import remove_folder
from components.operations.cleaning.sweep import inspect, sweep
from components.processes.guard import try_lock
from components.processes.marks import RUN_MARK, new_run_mark
from tests.checkout import clean_environment, git
from tests.operations.cleaning.swept import SETTINGS, cached, clone, data, later, outs, repro, setting, write


def test_old_unnamed_objects_go_and_used_ones_stay(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, second = two
    assert first <= cached(checkout)
    seen = inspect(Checkout(checkout), SETTINGS, later(31))
    assert first <= cached(checkout)  # inspect removes nothing

    findings = sweep(Checkout(checkout), SETTINGS, later(31))

    assert not first & cached(checkout)
    assert second <= cached(checkout)
    assert [item.path for item in findings.removable] == [item.path for item in seen.removable]
    assert findings.size > 0
    assert all(not item.path.exists() for item in findings.removable)
    status = subprocess.run(
        ["dvc", "status", "validate", "data.dvc"], cwd=checkout, capture_output=True, text=True, env=clean_environment(), check=True
    )
    assert status.stdout == "Data and pipelines are up to date.\n"
    second_sweep = sweep(Checkout(checkout), SETTINGS, later(31))
    assert second_sweep.removable == []


@pytest.mark.slow
def test_run_cache_entry_goes_with_its_output(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two
    before = set((checkout / ".dvc/cache/runs").glob("??/*/*"))
    assert len(before) == 2

    sweep(Checkout(checkout), SETTINGS, later(31))

    assert len(set((checkout / ".dvc/cache/runs").glob("??/*"))) == 1
    setting(checkout, 13)
    repro(checkout, "validate")
    assert first <= cached(checkout)
    assert (checkout / "started.log").read_text().split() == ["validate"] * 3


def test_empty_run_cache_key_is_removed(checkout: Path) -> None:
    key = checkout / ".dvc/cache/runs/ab/ab12"
    key.mkdir(parents=True)

    assert inspect(Checkout(checkout), SETTINGS, later(29)).removable == []
    findings = sweep(Checkout(checkout), SETTINGS, later(31))

    assert [item.why for item in findings.removable] == ["it is empty, and DVC fails on it"]
    assert not key.exists()


def test_young_objects_stay(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two

    assert inspect(Checkout(checkout), SETTINGS, later(29)).removable == []
    assert inspect(Checkout(checkout), SETTINGS.model_copy(update={"cache_days": 1e-6}), later(0)).removable == []  # not even then
    assert first <= cached(checkout)


@pytest.mark.slow
def test_last_use_is_last_cleaning_that_saw_it(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, _, second = two
    sweep(Checkout(checkout), SETTINGS, later(40))
    setting(checkout, 15)
    repro(checkout, "validate")

    unused = second - {*outs(checkout, "validate"), data(checkout)}

    sweep(Checkout(checkout), SETTINGS, later(69))
    assert unused <= cached(checkout)
    sweep(Checkout(checkout), SETTINGS, later(71))
    assert not unused & cached(checkout)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["branch", "tag", "stash"])
def test_object_named_by_commit_stays(checkout: Path, how: str) -> None:
    setting(checkout, 13)
    first = data(checkout)
    git(checkout, "add", "-A")
    if how == "stash":
        git(checkout, "stash")
    else:
        git(checkout, "checkout", "-q", "-b", "side")
        git(checkout, "commit", "-q", "-m", "side")
        if how == "tag":
            git(checkout, "tag", "kept")
        git(checkout, "checkout", "-q", "main")
        if how == "tag":
            git(checkout, "branch", "-q", "-D", "side")
    assert data(checkout) != first

    sweep(Checkout(checkout), SETTINGS, later(31))

    assert first in cached(checkout)


REGISTER = """
import sys
from pathlib import Path
from components.checkout import Checkout
from components.registry.registry import Registry
from components.tracking.runs import close_parent, open_parent

checkout = Checkout(Path.cwd())
run = open_parent(checkout, "mmalign run")
close_parent(checkout, run, "FINISHED")
Registry(checkout).register("mm-policy", checkout.root / "weights", whole=False, run_id=run, tags={"dvc.model": sys.argv[1]})
"""


def registered(checkout: Path) -> str:
    """Register a version whose weights lie only in DVC's cache. Returns the hash of its model."""
    write(checkout / "weights/config.json", "{}")
    write(checkout / "weights/model.safetensors", "weights")
    subprocess.run(["dvc", "add", "weights"], cwd=checkout, check=True, capture_output=True, env=clean_environment())
    value = str(yaml.safe_load((checkout / "weights.dvc").read_text())["outs"][0]["md5"])
    (checkout / "weights.dvc").unlink()
    environment = {**clean_environment(), "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    completed = subprocess.run(
        [sys.executable, "-c", REGISTER, value], cwd=checkout, capture_output=True, text=True, env=environment, check=False
    )
    assert completed.returncode == 0, completed.stderr
    return value


@pytest.mark.slow
def test_registered_version_retains_model_and_inputs(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, _, second = two
    model = registered(checkout)
    inner = {entry["md5"] for entry in json.loads((checkout / ".dvc/cache/files/md5" / model[:2] / model[2:]).read_text())}
    setting(checkout, 15)
    repro(checkout, "validate")

    sweep(Checkout(checkout), SETTINGS, later(31))

    assert {model, *inner} <= cached(checkout)
    assert second <= cached(checkout)  # dvc.lock and data.dvc of its run name them


@pytest.mark.slow
def test_unreachable_registry_spares_cache(two: tuple[Path, set[str], set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    checkout, first, _ = two
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    findings = sweep(Checkout(checkout), SETTINGS, later(31))

    assert first <= cached(checkout)
    assert any("DVC's cache is spared" in sentence and "can't be reached" in sentence for sentence in findings.spared)


def test_waiting_records_retain_objects(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two
    waiting = write(checkout / ".mmalign/tracking/pending-1.jsonl", json.dumps({"op": "tags", "values": {"dvc.x": min(first)}}))

    sweep(Checkout(checkout), SETTINGS, later(31))

    assert min(first) in cached(checkout)
    assert waiting.exists()


def test_killed_sweep_leaves_no_folder_without_files(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two
    order = [item.path for item in inspect(Checkout(checkout), SETTINGS, later(31)).removable]
    names = [path.name for path in order]
    lists = [index for index, name in enumerate(names) if name.endswith(".dir")]
    runs = [index for index, path in enumerate(order) if "runs" in path.parts]

    for path in order[: lists[-1] + 1]:  # killed after the last list
        remove_folder(path)

    assert runs
    assert max(runs) < min(lists)
    assert lists == list(range(len(runs), len(runs) + len(lists)))
    sweep(Checkout(checkout), SETTINGS, later(31))
    assert not first & cached(checkout)


def test_running_stage_or_dvc_spares_scratch_and_cache(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two
    scratch = write(checkout / ".mmalign/scratch/align/k1/checkpoint-1/model.pt")
    lock = try_lock(checkout / ".mmalign/locks/run.lock")
    assert lock is not None
    findings = sweep(Checkout(checkout), SETTINGS, later(31))
    assert first <= cached(checkout)
    assert scratch.exists()
    assert len(findings.spared) == 2
    lock.release()

    stage = try_lock(checkout / ".mmalign/locks/align.lock")
    assert stage is not None
    holder = subprocess.Popen(["sleep", "60"], env={**os.environ, RUN_MARK: new_run_mark(Checkout(checkout))})
    try:
        sweep(Checkout(checkout), SETTINGS, later(31))
    finally:
        holder.kill()
        holder.wait()
        stage.release()
    assert first <= cached(checkout)
    assert scratch.exists()

    write(checkout / ".dvc/tmp/rwlock", json.dumps({"write": {"x": {"pid": os.getpid(), "cmd": "dvc repro"}}}))
    sweep(Checkout(checkout), SETTINGS, later(31))
    assert first <= cached(checkout)
    (checkout / ".dvc/tmp/rwlock").unlink()
    sweep(Checkout(checkout), SETTINGS, later(31))
    assert not first & cached(checkout)
    assert not scratch.exists()


@pytest.mark.slow
def test_taken_dvc_lock_spares_cache_without_wait(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys; from dvc.repo import Repo; Repo('.').lock.lock(); print('held', flush=True); sys.stdin.read()"],
        cwd=checkout,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"

    findings = sweep(Checkout(checkout), SETTINGS, later(31))

    holder.communicate(b"")
    assert first <= cached(checkout)
    assert findings.spared == ["DVC's cache is spared: another process holds DVC's lock"]


def test_holder_of_run_lock_may_clean(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two
    lock = try_lock(checkout / ".mmalign/locks/run.lock")
    assert lock is not None

    sweep(Checkout(checkout), SETTINGS, later(31), locked=[checkout])

    assert not first & cached(checkout)
    assert try_lock(lock.path) is None  # still the caller's
    lock.release()


def test_shared_cache_is_spared(checkout: Path) -> None:
    shared = checkout.parent / "shared"
    (checkout / ".dvc/config.local").write_text(f"[cache]\n    dir = {shared}\n")
    setting(checkout, 13)
    setting(checkout, 14)
    before = sorted(shared.rglob("*"))

    findings = sweep(Checkout(checkout), SETTINGS, later(31))

    assert sorted(shared.rglob("*")) == before
    assert any("other checkouts may use it" in sentence for sentence in findings.spared)


def test_zero_cache_days_retain_all_objects(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two

    sweep(Checkout(checkout), SETTINGS.model_copy(update={"cache_days": 0}), later(1000))

    assert first <= cached(checkout)


def test_object_named_by_clone_stays(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two
    folder = clone(checkout, "run-1")
    (folder / "dvc.lock").write_text(
        "stages: {validate: {outs: [" + ", ".join(f"{{path: x, md5: {value}}}" for value in sorted(first)) + "]}}"
    )

    sweep(Checkout(checkout), SETTINGS.model_copy(update={"clones_days": 1000}), later(31))

    assert first <= cached(checkout)
