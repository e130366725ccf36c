"""Cleaning of a small checkout with real git and DVC. Tests pass a later time, since files can't be made older."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.operations.cleaning.findings import DAY
from components.operations.cleaning.folders import REMOVING, clones_folder
from components.operations.cleaning.sweep import inspect, sweep
from components.processes.guard import try_lock
from tests.checkout import git, mmalign
from tests.operations.cleaning.swept import SETTINGS, clone, kinds, later, write


def test_old_clones_go_except_busy_or_unrecorded_ones(checkout: Path) -> None:
    old, busy, waiting = (clone(checkout, name) for name in ("a-old", "b-busy", "c-waiting"))
    write(waiting / ".mmalign/tracking/pending-1.jsonl", "{}")
    lock = try_lock(busy / ".mmalign/locks/run.lock")
    assert lock is not None
    mirror = clones_folder(Checkout(checkout)) / "mirror"
    subprocess.run(["git", "init", "--quiet", "--bare", str(mirror)], check=True)
    assert kinds(inspect(Checkout(checkout), SETTINGS, later(2))) == []

    findings = sweep(Checkout(checkout), SETTINGS, later(4))

    assert [item.path.name for item in findings.removable] == ["a-old"]
    assert not old.exists()
    assert busy.exists()
    assert waiting.exists()
    assert mirror.exists()
    assert len([sentence for sentence in findings.spared if sentence.startswith("clone")]) == 2
    lock.release()


def test_old_scratch_and_logs_go_but_tracked_files_stay(checkout: Path) -> None:
    scratch = write(checkout / ".mmalign/scratch/align/k1/checkpoint-1/model.pt", "x" * 1000)
    registration = write(checkout / ".mmalign/registry/tmpabc/package/MLmodel")
    stopped = write(checkout / ".mmalign/import/k2/rows.sqlite")
    log = write(checkout / "logs/20260101-020000/align.log")
    notices = write(checkout / "logs/notices.jsonl")
    tracked = write(checkout / "logs/kept/note.txt")
    git(checkout, "add", "-f", "logs/kept/note.txt")
    assert kinds(inspect(Checkout(checkout), SETTINGS, later(6))) == []
    assert kinds(inspect(Checkout(checkout), SETTINGS, later(8))) == ["scratch"]

    findings = sweep(Checkout(checkout), SETTINGS, later(31))

    assert kinds(findings) == ["logs", "scratch"]
    assert [path.exists() for path in (scratch, registration, stopped, log)] == [False] * 4
    assert [path.exists() for path in (notices, tracked)] == [True] * 2
    assert "logs/kept is spared: git tracks it" in findings.spared
    assert next(item.size for item in findings.removable if item.path.name == "k1") == 1000


def test_link_goes_without_its_target_and_killed_rest_goes(checkout: Path) -> None:
    elsewhere = write(checkout.parent / "big-disk/model.pt")
    (checkout / ".mmalign/scratch/align").mkdir(parents=True)
    link = checkout / ".mmalign/scratch/align/k1"
    link.symlink_to(elsewhere.parent)
    left = write(checkout / f".mmalign/scratch/reward/{REMOVING}1/model.pt")

    sweep(Checkout(checkout), SETTINGS, later(8))

    assert not link.is_symlink()
    assert elsewhere.exists()
    assert not left.parent.exists()


@pytest.mark.slow
def test_clean_lists_reasons_and_dry_run_removes_nothing(checkout: Path) -> None:
    old = time.time() - 40 * DAY
    log = write(checkout / "logs/20260101-020000/align.log", "x" * 2000)
    for path in (log, log.parent):
        os.utime(path, (old, old))

    dry = mmalign(checkout, "clean", "--dry-run", "--json")
    shown = mmalign(checkout, "clean", "--dry-run")
    assert log.exists()
    clean = mmalign(checkout, "clean")

    report: dict[str, Any] = json.loads(dry.stdout)
    assert report["removed"] == [
        {"kind": "logs", "path": "logs/20260101-020000", "bytes": 2000, "why": "nothing was written to it for 40.0 days"}
    ]
    assert (report["dry_run"], report["bytes"]) == (True, 2000)
    assert "2.0 kB would be freed" in shown.stdout
    assert "logs/20260101-020000  2.0 kB  nothing was written to it for 40.0 days" in clean.stdout
    assert clean.returncode == 0, clean.stderr
    assert not log.parent.exists()
