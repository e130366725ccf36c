from __future__ import annotations

import fcntl
import os
import socket
import subprocess
from pathlib import Path

from components.checkout import Checkout
from components.config.settings import load_settings
from components.files import write_json
from components.operations.doctor import leftovers, machine
from components.operations.doctor.findings import ok, run_checks, settings_of
from components.processes.marks import RUN_MARK, STAGE_MARK, new_run_mark, new_stage_mark
from tests.checkout import behave, clean_environment
from tests.cli.test_status import start_stage


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def write_rwlock(checkout: Path, pid: int) -> Path:
    path = checkout / leftovers.RWLOCK
    write_json(path, {"write": {"/somewhere/artifacts": {"pid": pid, "cmd": "dvc repro"}}, "read": {}})
    return path


def test_dvc_lock_of_dead_process_is_warning(checkout: Path) -> None:
    assert leftovers.dvc_locks(Checkout(checkout)) == ok("none is locked")
    write_rwlock(checkout, os.getpid())
    assert leftovers.dvc_locks(Checkout(checkout)) == ok(f"process {os.getpid()} works on files")
    pid = dead_pid()
    write_rwlock(checkout, pid)
    finding = leftovers.dvc_locks(Checkout(checkout))
    assert finding.state == "warning"
    assert f"process {pid}" in finding.text


def test_dvc_lock_with_reused_pid_is_problem(checkout: Path) -> None:
    path = write_rwlock(checkout, os.getpid())
    os.utime(path, (1, 1))  # written long before this process began
    finding = leftovers.dvc_locks(Checkout(checkout))
    assert finding.state == "problem"
    assert finding.cure == "rm .dvc/tmp/rwlock"


def test_damaged_rwlock_is_problem(checkout: Path) -> None:
    path = write_rwlock(checkout, 1)
    path.write_text("{")
    assert leftovers.dvc_locks(Checkout(checkout)).state == "problem"


def test_hardlink_lock_of_dead_process_is_problem(checkout: Path) -> None:
    lock = checkout / leftovers.LOCK
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(f"{lock}|{socket.gethostname()}|{dead_pid()}|1234")
    finding = leftovers.dvc_locks(Checkout(checkout))
    assert finding.state == "problem"
    assert finding.cure == "rm .dvc/tmp/lock"
    lock.write_text(f"{lock}|{socket.gethostname()}|{os.getpid()}|1234")
    assert leftovers.dvc_locks(Checkout(checkout)).state == "ok"


def test_working_dvc_is_reported(checkout: Path) -> None:
    (checkout / leftovers.LOCK).parent.mkdir(parents=True, exist_ok=True)
    with (checkout / leftovers.LOCK).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert leftovers.dvc_locks(Checkout(checkout)) == ok("DVC works on the repository")


def test_leftover_process_problem_names_kill_command(checkout: Path) -> None:
    assert leftovers.processes(Checkout(checkout)).state == "ok"
    marks = {RUN_MARK: new_run_mark(Checkout(checkout)), STAGE_MARK: new_stage_mark("validate")}
    left = subprocess.Popen(["sleep", "600"], env={**os.environ, **marks})
    try:
        finding = leftovers.processes(Checkout(checkout))
        assert finding.state == "problem"
        assert f"{left.pid} (sleep 600)" in finding.text
        assert str(finding.cure).endswith(f"kill -9 {left.pid}")
    finally:
        left.kill()
        left.wait()
    assert leftovers.processes(Checkout(checkout)).state == "ok"


def test_processes_of_running_stage_are_no_leftovers(checkout: Path) -> None:
    process = start_stage(checkout, "validate")
    helper = subprocess.Popen(
        ["sleep", "600"], env={**clean_environment(), RUN_MARK: new_run_mark(Checkout(checkout)), STAGE_MARK: new_stage_mark("validate")}
    )
    try:
        finding = leftovers.processes(Checkout(checkout))
        assert finding.state == "ok"
        assert "a run is under way (validate, 1 processes)" in finding.text
    finally:
        helper.kill()
        helper.wait()
        behave(checkout, "validate")
        process.wait(30)


def test_unfinished_checkpoints_warn_unless_stage_runs(checkout: Path) -> None:
    scratch = checkout / ".mmalign/scratch/validate/0123"
    write_json(scratch / "checkpoint-10/COMMITTED.json", {})
    assert leftovers.scratch(Checkout(checkout)).state == "ok"
    write_json(scratch / "checkpoint-20/trainer_state.json", {})
    finding = leftovers.scratch(Checkout(checkout))
    assert finding.state == "warning"
    assert str(finding.cure).endswith("rm -r .mmalign/scratch/validate")
    process = start_stage(checkout, "validate")
    assert leftovers.scratch(Checkout(checkout)).state == "ok"
    behave(checkout, "validate")
    process.wait(30)


def test_checks_by_settings_need_valid_settings(checkout: Path) -> None:
    assert settings_of(Checkout(checkout)) == load_settings(checkout / "params.yaml")
    (checkout / "params.yaml").unlink()
    findings = run_checks(Checkout(checkout), {"cores": machine.cores, "writable folders": machine.writable})
    assert findings["cores"].text == "not checked: the settings are not valid"
    assert findings["writable folders"].state == "ok", "that goes without"
