"""Cleaning of a small checkout with real git and DVC. Time passes by the moment that is given in, since a file's own can't be turned back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.cleaning.findings import DAY, Findings
from components.cleaning.folders import REMOVING, clones_folder, remove_folder
from components.cleaning.sweep import look, sweep
from components.config import CleanSettings
from components.guard import try_lock
from components.processes import RUN_MARK, new_run_mark
from tests.checkout import clean_environment, git, mmalign

SETTINGS = CleanSettings(scratch_days=7, logs_days=30, clones_days=3, cache_days=30)


def later(days: float) -> float:
    return time.time() + days * DAY


def repro(checkout: Path, *arguments: str) -> None:
    done = subprocess.run(["dvc", "repro", *arguments], cwd=checkout, check=False, capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 0, done.stderr


def setting(checkout: Path, value: int) -> None:
    """Another setting of validate, which makes another output."""
    path = checkout / "params.yaml"
    text = path.read_text()
    old = next(line for line in text.splitlines() if line.strip().startswith("min_responses"))
    path.write_text(text.replace(old, f"  min_responses: {value}"))
    (checkout / "data/preferences/data.jsonl").write_text(f"{value}\n")
    subprocess.run(["dvc", "add", "data"], cwd=checkout, check=True, capture_output=True, env=clean_environment())


def outs(checkout: Path, stage: str) -> set[str]:
    return {out["md5"] for out in yaml.safe_load((checkout / "dvc.lock").read_text())["stages"][stage]["outs"]}


def data(checkout: Path) -> str:
    return str(yaml.safe_load((checkout / "data.dvc").read_text())["outs"][0]["md5"])


def cached(checkout: Path) -> set[str]:
    folder = checkout / ".dvc/cache/files/md5"
    return {path.parent.name + path.name for path in folder.glob("??/*")}


def kinds(found: Findings) -> list[str]:
    return sorted({item.kind for item in found.removable})


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture(scope="session", name="two_template")
def fixture_two_template(checkout_template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str], set[str]]:
    folder = tmp_path_factory.mktemp("two") / "checkout"
    shutil.copytree(checkout_template, folder, symlinks=True)
    made = []
    for value in (13, 14):
        setting(folder, value)
        repro(folder, "validate")
        made.append({*outs(folder, "validate"), data(folder)})
    return folder, made[0] - made[1], made[1]


@pytest.fixture(name="two")
def fixture_two(two_template: tuple[Path, set[str], set[str]], checkout: Path) -> tuple[Path, set[str], set[str]]:
    """A checkout with two versions of data and outputs, only the second of which its files name; the hashes of the first and second."""
    template, first, second = two_template
    shutil.rmtree(checkout)
    shutil.copytree(template, checkout, symlinks=True)
    os.chdir(checkout)  # the folder is another one by now
    return checkout, first, second


def test_old_objects_that_nothing_names_go_and_those_in_use_stay(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, second = two
    assert first <= cached(checkout)
    seen = look(checkout, SETTINGS, later(31))
    assert first <= cached(checkout)  # looking removes nothing

    found = sweep(checkout, SETTINGS, later(31))

    assert not first & cached(checkout)
    assert second <= cached(checkout)
    assert [item.path for item in found.removable] == [item.path for item in seen.removable]
    assert found.size > 0
    assert all(not item.path.exists() for item in found.removable)
    status = subprocess.run(
        ["dvc", "status", "validate", "data.dvc"], cwd=checkout, capture_output=True, text=True, env=clean_environment(), check=True
    )
    assert status.stdout == "Data and pipelines are up to date.\n"
    again = sweep(checkout, SETTINGS, later(31))
    assert again.removable == []


@pytest.mark.slow
def test_an_entry_of_the_run_cache_goes_with_its_output_and_the_stage_then_runs_again(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two
    before = set((checkout / ".dvc/cache/runs").glob("??/*/*"))
    assert len(before) == 2

    sweep(checkout, SETTINGS, later(31))

    assert len(set((checkout / ".dvc/cache/runs").glob("??/*"))) == 1
    setting(checkout, 13)
    repro(checkout, "validate")
    assert first <= cached(checkout)
    assert (checkout / "started.log").read_text().split() == ["validate"] * 3


def test_an_empty_key_of_the_run_cache_over_which_dvc_fails_goes(checkout: Path) -> None:
    key = checkout / ".dvc/cache/runs/ab/ab12"
    key.mkdir(parents=True)

    assert look(checkout, SETTINGS, later(29)).removable == []
    found = sweep(checkout, SETTINGS, later(31))

    assert [item.why for item in found.removable] == ["it is empty, which DVC fails over"]
    assert not key.exists()


def test_young_objects_stay(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two

    assert look(checkout, SETTINGS, later(29)).removable == []
    assert look(checkout, SETTINGS.model_copy(update={"cache_days": 1e-6}), later(0)).removable == []  # not even then
    assert first <= cached(checkout)


@pytest.mark.slow
def test_use_counts_from_the_last_cleaning_that_found_it(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, _, second = two
    sweep(checkout, SETTINGS, later(40))
    setting(checkout, 15)
    repro(checkout, "validate")

    unused = second - {*outs(checkout, "validate"), data(checkout)}

    sweep(checkout, SETTINGS, later(69))
    assert unused <= cached(checkout)
    sweep(checkout, SETTINGS, later(71))
    assert not unused & cached(checkout)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["branch", "tag", "stash"])
def test_what_a_commit_names_stays_wherever_it_is(checkout: Path, how: str) -> None:
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

    sweep(checkout, SETTINGS, later(31))

    assert first in cached(checkout)


REGISTER = """
import sys
from pathlib import Path
from components.tracking.registry import Registry
from components.tracking.runs import close_parent, open_parent

root = Path.cwd()
run = open_parent(root, "mmalign run")
close_parent(root, run, "FINISHED")
Registry(root).register("mm-policy", root / "weights", whole=False, run_id=run, tags={"dvc.model": sys.argv[1]})
"""


def registered(checkout: Path) -> str:
    """A version whose weights only DVC's cache has, and its run with the DVC files as they are; the hash of its model."""
    write(checkout / "weights/config.json", "{}")
    write(checkout / "weights/model.safetensors", "weights")
    subprocess.run(["dvc", "add", "weights"], cwd=checkout, check=True, capture_output=True, env=clean_environment())
    value = str(yaml.safe_load((checkout / "weights.dvc").read_text())["outs"][0]["md5"])
    (checkout / "weights.dvc").unlink()
    environment = {**clean_environment(), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", REGISTER, value], cwd=checkout, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return value


@pytest.mark.slow
def test_a_registered_version_keeps_its_model_its_data_and_what_its_run_was_made_of(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, _, second = two
    model = registered(checkout)
    inner = {entry["md5"] for entry in json.loads((checkout / ".dvc/cache/files/md5" / model[:2] / model[2:]).read_text())}
    setting(checkout, 15)
    repro(checkout, "validate")

    sweep(checkout, SETTINGS, later(31))

    assert {model, *inner} <= cached(checkout)
    assert second <= cached(checkout)  # dvc.lock and data.dvc of its run name them


@pytest.mark.slow
def test_a_registry_that_can_t_be_asked_spares_the_cache(two: tuple[Path, set[str], set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    checkout, first, _ = two
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    found = sweep(checkout, SETTINGS, later(31))

    assert first <= cached(checkout)
    assert any("DVC's cache is left alone" in sentence and "can't be reached" in sentence for sentence in found.spared)


def test_records_that_wait_for_mlflow_keep_what_they_name(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two
    waiting = write(checkout / ".mmalign/tracking/pending-1.jsonl", json.dumps({"op": "tags", "values": {"dvc.x": min(first)}}))

    sweep(checkout, SETTINGS, later(31))

    assert min(first) in cached(checkout)
    assert waiting.exists()


def test_a_kill_in_the_middle_leaves_no_folder_without_its_files(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two
    order = [item.path for item in look(checkout, SETTINGS, later(31)).removable]
    names = [path.name for path in order]
    lists = [index for index, name in enumerate(names) if name.endswith(".dir")]
    runs = [index for index, path in enumerate(order) if "runs" in path.parts]

    for path in order[: lists[-1] + 1]:  # killed after the last list
        remove_folder(path)

    assert runs
    assert max(runs) < min(lists)
    assert lists == list(range(len(runs), len(runs) + len(lists)))
    sweep(checkout, SETTINGS, later(31))
    assert not first & cached(checkout)


def test_nothing_of_scratch_or_cache_goes_while_a_run_or_dvc_works(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two
    scratch = write(checkout / ".mmalign/scratch/align/k1/checkpoint-1/model.pt")
    lock = try_lock(checkout / ".mmalign/locks/run.lock")
    assert lock is not None
    found = sweep(checkout, SETTINGS, later(31))
    assert first <= cached(checkout)
    assert scratch.exists()
    assert len(found.spared) == 2
    lock.release()

    stage = try_lock(checkout / ".mmalign/locks/align.lock")
    assert stage is not None
    holder = subprocess.Popen(["sleep", "60"], env={**os.environ, RUN_MARK: new_run_mark(checkout)})
    try:
        sweep(checkout, SETTINGS, later(31))
    finally:
        holder.kill()
        holder.wait()
        stage.release()
    assert first <= cached(checkout)
    assert scratch.exists()

    write(checkout / ".dvc/tmp/rwlock", json.dumps({"write": {"x": {"pid": os.getpid(), "cmd": "dvc repro"}}}))
    sweep(checkout, SETTINGS, later(31))
    assert first <= cached(checkout)
    (checkout / ".dvc/tmp/rwlock").unlink()
    sweep(checkout, SETTINGS, later(31))
    assert not first & cached(checkout)
    assert not scratch.exists()


@pytest.mark.slow
def test_a_lock_of_dvc_that_is_held_spares_the_cache_and_hangs_nothing(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys; from dvc.repo import Repo; Repo('.').lock.lock(); print('held', flush=True); sys.stdin.read()"],
        cwd=checkout,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"

    found = sweep(checkout, SETTINGS, later(31))

    holder.communicate(b"")
    assert first <= cached(checkout)
    assert found.spared == ["DVC's cache is left alone: another process holds DVC's lock"]


def test_whoever_holds_the_turn_may_clean_after_its_run(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two
    lock = try_lock(checkout / ".mmalign/locks/run.lock")
    assert lock is not None

    sweep(checkout, SETTINGS, later(31), turns=[checkout])

    assert not first & cached(checkout)
    assert try_lock(lock.path) is None  # still the caller's
    lock.release()


def test_a_cache_that_others_may_use_is_left_alone(checkout: Path) -> None:
    shared = checkout.parent / "shared"
    (checkout / ".dvc/config.local").write_text(f"[cache]\n    dir = {shared}\n")
    setting(checkout, 13)
    setting(checkout, 14)
    before = sorted(shared.rglob("*"))

    found = sweep(checkout, SETTINGS, later(31))

    assert sorted(shared.rglob("*")) == before
    assert any("other checkouts may use it" in sentence for sentence in found.spared)


def test_cache_days_of_zero_keeps_all(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two

    sweep(checkout, SETTINGS.model_copy(update={"cache_days": 0}), later(1000))

    assert first <= cached(checkout)


def clone(checkout: Path, name: str) -> Path:
    folder = clones_folder(checkout) / name
    subprocess.run(["git", "clone", "--quiet", str(checkout), str(folder)], check=True)
    return folder


def test_clones_go_by_age_but_not_one_that_runs_or_whose_records_wait(checkout: Path) -> None:
    old, busy, waiting = (clone(checkout, name) for name in ("a-old", "b-busy", "c-waiting"))
    write(waiting / ".mmalign/tracking/pending-1.jsonl", "{}")
    lock = try_lock(busy / ".mmalign/locks/run.lock")
    assert lock is not None
    mirror = clones_folder(checkout) / "mirror"
    subprocess.run(["git", "init", "--quiet", "--bare", str(mirror)], check=True)
    assert kinds(look(checkout, SETTINGS, later(2))) == []

    found = sweep(checkout, SETTINGS, later(4))

    assert [item.path.name for item in found.removable] == ["a-old"]
    assert not old.exists()
    assert busy.exists()
    assert waiting.exists()
    assert mirror.exists()
    assert len([sentence for sentence in found.spared if sentence.startswith("clone")]) == 2
    lock.release()


def test_what_a_clone_names_stays_in_the_shared_cache(two: tuple[Path, set[str], set[str]]) -> None:
    checkout, first, _ = two
    folder = clone(checkout, "run-1")
    (folder / "dvc.lock").write_text(
        "stages: {validate: {outs: [" + ", ".join(f"{{path: x, md5: {value}}}" for value in sorted(first)) + "]}}"
    )

    sweep(checkout, SETTINGS.model_copy(update={"clones_days": 1000}), later(31))

    assert first <= cached(checkout)


def test_old_scratch_and_logs_go_and_the_notices_and_what_git_tracks_stay(checkout: Path) -> None:
    scratch = write(checkout / ".mmalign/scratch/align/k1/checkpoint-1/model.pt", "x" * 1000)
    registration = write(checkout / ".mmalign/registry/tmpabc/package/MLmodel")
    log = write(checkout / "logs/20260101-020000/align.log")
    notices = write(checkout / "logs/notices.jsonl")
    tracked = write(checkout / "logs/kept/note.txt")
    git(checkout, "add", "-f", "logs/kept/note.txt")
    assert kinds(look(checkout, SETTINGS, later(6))) == []
    assert kinds(look(checkout, SETTINGS, later(8))) == ["scratch"]

    found = sweep(checkout, SETTINGS, later(31))

    assert kinds(found) == ["logs", "scratch"]
    assert [path.exists() for path in (scratch, registration, log)] == [False] * 3
    assert [path.exists() for path in (notices, tracked)] == [True] * 2
    assert "logs/kept is left alone: git tracks it" in found.spared
    assert next(item.size for item in found.removable if item.path.name == "k1") == 1000


def test_a_link_goes_without_what_it_points_to_and_what_a_kill_left_goes_too(checkout: Path) -> None:
    elsewhere = write(checkout.parent / "big-disk/model.pt")
    (checkout / ".mmalign/scratch/align").mkdir(parents=True)
    link = checkout / ".mmalign/scratch/align/k1"
    link.symlink_to(elsewhere.parent)
    left = write(checkout / f".mmalign/scratch/reward/{REMOVING}1/model.pt")

    sweep(checkout, SETTINGS, later(8))

    assert not link.is_symlink()
    assert elsewhere.exists()
    assert not left.parent.exists()


@pytest.mark.slow
def test_the_command_says_what_how_big_and_why_and_a_dry_run_removes_nothing(checkout: Path) -> None:
    old = time.time() - 40 * DAY
    log = write(checkout / "logs/20260101-020000/align.log", "x" * 2000)
    for path in (log, log.parent):
        os.utime(path, (old, old))

    dry = mmalign(checkout, "clean", "--dry-run", "--json")
    shown = mmalign(checkout, "clean", "--dry-run")
    assert log.exists()
    done = mmalign(checkout, "clean")

    told: dict[str, Any] = json.loads(dry.stdout)
    assert told["removed"] == [
        {"kind": "logs", "path": "logs/20260101-020000", "bytes": 2000, "why": "nothing was written to it for 40.0 days"}
    ]
    assert (told["dry_run"], told["bytes"]) == (True, 2000)
    assert "2.0 kB would be freed" in shown.stdout
    assert "logs/20260101-020000  2.0 kB  nothing was written to it for 40.0 days" in done.stdout
    assert done.returncode == 0, done.stderr
    assert not log.parent.exists()
