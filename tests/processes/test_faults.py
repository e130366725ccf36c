from __future__ import annotations

import resource
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.errors import Cancelled, InfrastructureFault, ServiceAway, StageFault, UserError
from components.processes.fault_kinds import fault_kind
from components.processes.faults import FAULT, INTERRUPTED, MISTAKE, explain, outcome_of
from components.processes.machine_errors import open_file_limit, raise_open_file_limit

LIMIT = open_file_limit()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (UserError("a key is unknown"), MISTAKE, "mistake"),
        (ServiceAway("MLflow does not answer"), MISTAKE, "infrastructure"),
        (StageFault("no pickles"), FAULT, "fault"),
        (InfrastructureFault("killed", stage="align", log=Path("logs/align.log")), FAULT, "infrastructure"),
        (Cancelled("the run was cancelled"), INTERRUPTED, "cancelled"),
        (KeyboardInterrupt(), INTERRUPTED, "cancelled"),
        (ZeroDivisionError("division by zero"), FAULT, "fault"),
    ],
)
def test_error_gives_sentence_exit_code_and_outcome(error: BaseException, code: int, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(error) == code
    message = capsys.readouterr().err
    assert message.startswith("mmalign: ")
    assert message.count("\n") == 1
    outcome = outcome_of(error)
    assert outcome.kind == kind
    assert message == f"mmalign: {outcome.sentence}\n"
    if isinstance(error, InfrastructureFault):
        assert (outcome.stage, outcome.log) == ("align", "logs/align.log")


def test_sentence_of_mistake_leaves_no_log(folder: Path) -> None:
    explain(UserError("a key is unknown"))
    assert list(folder.iterdir()) == []


def test_trace_of_unexpected_error_is_in_log(folder: Path) -> None:
    outcome = outcome_of(ZeroDivisionError("division by zero"))
    assert outcome.log is not None
    assert "ZeroDivisionError: division by zero" in (folder / outcome.log).read_text()


def test_unwritable_trace_still_prints_sentence(folder: Path) -> None:
    (folder / "logs").touch()  # a file in the way: nothing can be written below it
    assert explain(OSError(28, "No space left on device")) == FAULT


def test_full_disk_is_named_by_its_file_or_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = outcome_of(OSError(28, "No space left on device", "/data/cache/x"))
    assert named.kind == "infrastructure"
    assert named.sentence.startswith("the disk of /data/cache/x is full (no space left on device): make room (mmalign clean)")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0 if path == folder else 10**12))
    unnamed = outcome_of(OSError(28, "No space left on device"))
    assert unnamed.sentence.startswith(f"a disk is full (no space left on device), that of {folder}: make room")
    database = outcome_of(sqlite3.OperationalError("database or disk is full"))
    assert (database.kind, database.sentence.split("; the whole")[0]) == ("infrastructure", unnamed.sentence.split("; the whole")[0])
    assert unnamed.log is not None, "a full disk may be full for a reason that only the trace shows"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(13, "Permission denied", "/x/locks"), "this user may not open or change /x/locks: have its owner grant the right"),
        (OSError(30, "Read-only file system", "/x/locks"), "/x/locks lies on a file system without the right to write: mount it"),
        (OSError(24, "Too many open files", "/x/y"), f"a process may have {LIMIT} files open here, which are too few: raise the limit"),
    ],
)
def test_refusal_of_system_is_mistake_with_cure(error: OSError, sentence: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(error) == MISTAKE
    assert capsys.readouterr().err.startswith(f"mmalign: {sentence}")
    assert fault_kind(error) == "mistake"
    assert list(folder.iterdir()) == [], "such a sentence needs no trace"


def test_refusal_without_a_file_stays_a_fault() -> None:
    assert explain(PermissionError(1, "Operation not permitted")) == FAULT


@pytest.mark.parametrize(("soft", "hard", "raised"), [(64, 64, 64), (64, 1000, 1000), (1024, 10**6, 4096), (8192, 10**6, 8192)])
def test_open_file_limit_rises_to_what_is_allowed(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int) -> None:
    limits = {resource.RLIMIT_NOFILE: (soft, hard)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    raise_open_file_limit()
    assert limits[resource.RLIMIT_NOFILE] == (raised, hard)
    assert open_file_limit() == raised
