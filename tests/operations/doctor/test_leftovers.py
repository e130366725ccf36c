from __future__ import annotations

import fcntl
import os
import socket
import subprocess
from pathlib import Path

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


def test_a_lock_of_a_dead_process_is_a_warning_since_dvc_drops_it(checkout: Path) -> None:
    assert leftovers.dvc_locks(checkout) == ok("none is locked")
    write_rwlock(checkout, os.getpid())
    assert leftovers.dvc_locks(checkout) == ok(f"process {os.getpid()} works on files")
    pid = dead_pid()
    write_rwlock(checkout, pid)
    finding = leftovers.dvc_locks(checkout)
    assert finding.state == "warning"
    assert f"process {pid}" in finding.text


def test_a_lock_whose_number_another_program_has_is_a_problem_since_dvc_waits_for_that(checkout: Path) -> None:
    path = write_rwlock(checkout, os.getpid())
    os.utime(path, (1, 1))  # written long before this process began
    finding = leftovers.dvc_locks(checkout)
    assert finding.state == "problem"
    assert finding.cure == "rm .dvc/tmp/rwlock"


def test_a_damaged_list_of_locks_is_a_problem(checkout: Path) -> None:
    path = write_rwlock(checkout, 1)
    path.write_text("{")
    assert leftovers.dvc_locks(checkout).state == "problem"


def test_the_claim_of_a_dead_process_on_dvcs_lock_is_a_problem(checkout: Path) -> None:
    lock = checkout / leftovers.LOCK
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(f"{lock}|{socket.gethostname()}|{dead_pid()}|1234")
    finding = leftovers.dvc_locks(checkout)
    assert finding.state == "problem"
    assert finding.cure == "rm .dvc/tmp/lock"
    lock.write_text(f"{lock}|{socket.gethostname()}|{os.getpid()}|1234")
    assert leftovers.dvc_locks(checkout).state == "ok"


def test_dvc_at_work_is_seen(checkout: Path) -> None:
    (checkout / leftovers.LOCK).parent.mkdir(parents=True, exist_ok=True)
    with (checkout / leftovers.LOCK).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert leftovers.dvc_locks(checkout) == ok("DVC works on the repository")


def test_a_process_of_an_earlier_run_is_a_problem_with_the_command_that_ends_it(checkout: Path) -> None:
    assert leftovers.processes(checkout).state == "ok"
    marks = {RUN_MARK: new_run_mark(checkout), STAGE_MARK: new_stage_mark("validate")}
    left = subprocess.Popen(["sleep", "600"], env={**os.environ, **marks})
    try:
        finding = leftovers.processes(checkout)
        assert finding.state == "problem"
        assert f"{left.pid} (sleep 600)" in finding.text
        assert str(finding.cure).endswith(f"kill -9 {left.pid}")
    finally:
        left.kill()
        left.wait()
    assert leftovers.processes(checkout).state == "ok"


def test_processes_of_a_stage_under_way_are_no_leftovers(checkout: Path) -> None:
    process = start_stage(checkout, "validate")
    helper = subprocess.Popen(
        ["sleep", "600"], env={**clean_environment(), RUN_MARK: new_run_mark(checkout), STAGE_MARK: new_stage_mark("validate")}
    )
    try:
        finding = leftovers.processes(checkout)
        assert finding.state == "ok"
        assert "a run is under way (validate, 1 processes)" in finding.text
    finally:
        helper.kill()
        helper.wait()
        behave(checkout, "validate")
        process.wait(30)


def test_unfinished_checkpoints_are_a_warning_unless_their_stage_runs(checkout: Path) -> None:
    scratch = checkout / ".mmalign/scratch/validate/0123"
    write_json(scratch / "checkpoint-10/COMMITTED.json", {})
    assert leftovers.scratch(checkout).state == "ok"
    write_json(scratch / "checkpoint-20/trainer_state.json", {})
    finding = leftovers.scratch(checkout)
    assert finding.state == "warning"
    assert str(finding.cure).endswith("rm -r .mmalign/scratch/validate")
    process = start_stage(checkout, "validate")
    assert leftovers.scratch(checkout).state == "ok"
    behave(checkout, "validate")
    process.wait(30)


def test_checks_that_go_by_the_settings_need_valid_ones(checkout: Path) -> None:
    assert settings_of(checkout) == load_settings(checkout / "params.yaml")
    (checkout / "params.yaml").unlink()
    findings = run_checks(checkout, {"cores": machine.cores, "disk": machine.disk})
    assert findings["cores"].text == "not checked: params.yaml is not valid"
    assert findings["disk"].state in {"ok", "warning"}, "that goes without"
