from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from components.checkout import Checkout
from components.processes.marks import RUN_MARK, STAGE_MARK, marked, new_run_mark
from flows.console import Console
from flows.supervisor import Command, Outcome, supervise
from tests.checkout import ROOT, alive, behave, clean_environment, started, wait_for

GRACE = 2.0
DEADLINE = 6.0  # a busy machine takes seconds to start an interpreter


def run(
    words: list[str], folder: Path, *, deadline: float = 120, cancel: threading.Event | None = None, console: Console | None = None
) -> Outcome:
    return supervise(
        Command(words, Checkout(folder), folder / "logs" / "validate.log"),
        stage="validate",
        deadline_seconds=deadline,
        cancel=cancel or threading.Event(),
        console=console or Console(open(os.devnull, "w")),  # noqa: PTH123 -- lives as long as the test
        grace_seconds=GRACE,
    )


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


SLEEPER = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('ready', 'w').close(); time.sleep(600)"
IN_OWN_SESSION = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], start_new_session=True)"


def test_successful_command_writes_log(tmp_path: Path) -> None:
    outcome = run(python("print('hello')"), tmp_path)
    assert (outcome.end, outcome.returncode) == ("ok", 0)
    assert outcome.log.read_text() == "hello\n"


def test_leftovers_of_finished_command_are_ended(tmp_path: Path) -> None:
    outcome = run(python(f"{IN_OWN_SESSION}\nimport os, time\nwhile not os.path.exists('ready'): time.sleep(.05)"), tmp_path)
    assert outcome.end == "ok"
    assert marked(STAGE_MARK, outcome.mark) == []


def test_failed_command_shows_last_lines_and_log(tmp_path: Path) -> None:
    with (tmp_path / "console").open("w+") as stream:
        outcome = run(python("for i in range(300): print('line', i)\nraise SystemExit(7)"), tmp_path, console=Console(stream))
        stream.seek(0)
        shown = stream.read()
    assert (outcome.end, outcome.returncode) == ("failed", 7)
    tail = shown.partition("the last lines of")[2]
    assert "line 250\n" in tail
    assert "line 249\n" not in tail
    assert str(outcome.log) in tail


@pytest.mark.slow
def test_deadline_ends_command_that_ignores_sigterm(tmp_path: Path) -> None:
    before = time.monotonic()
    outcome = run(python(STUBBORN), tmp_path, deadline=DEADLINE)
    assert (tmp_path / "ready").exists(), "the deadline came before the command ignored anything"
    assert outcome.end == "deadline"
    assert time.monotonic() - before < DEADLINE + GRACE + 5
    assert outcome.returncode == -signal.SIGKILL
    assert marked(STAGE_MARK, outcome.mark) == []


@pytest.mark.slow
def test_wait_for_gpu_does_not_count_towards_deadline(tmp_path: Path) -> None:
    began = time.monotonic()
    marks: set[str] = set()

    def paused(mark: str) -> bool:
        marks.add(mark)
        return time.monotonic() < began + 4

    with (tmp_path / "console").open("w") as stream:
        outcome = supervise(
            Command(python(SLEEPER), Checkout(tmp_path), tmp_path / "align.log"),
            stage="align",
            deadline_seconds=1,
            cancel=threading.Event(),
            console=Console(stream),
            grace_seconds=GRACE,
            paused=paused,
        )
    assert outcome.end == "deadline"
    assert 4.5 < outcome.seconds < 4 + 1 + GRACE + 5
    assert marks == {outcome.mark}


def test_cancel_ends_grandchildren_in_other_sessions(tmp_path: Path) -> None:
    cancel = threading.Event()
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run(python(f"{IN_OWN_SESSION}\n{SLEEPER}"), tmp_path, cancel=cancel)))
    thread.start()
    wait_for((tmp_path / "ready").exists)
    cancel.set()
    thread.join(GRACE + 10)
    assert outcomes[0].end == "cancelled"
    assert marked(STAGE_MARK, outcomes[0].mark) == []


@pytest.mark.slow
def test_command_that_ends_in_grace_period_is_not_killed(tmp_path: Path) -> None:
    tidy = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (open('saved', 'w').close(), sys.exit(0)))\ntime.sleep(600)"
    assert run(python(tidy), tmp_path, deadline=DEADLINE).end == "deadline"
    assert (tmp_path / "saved").exists()


SUPERVISING = """
import os, sys, threading
from pathlib import Path
from components.checkout import Checkout
from flows.console import Console
from flows.supervisor import Command, supervise
words = [{dvc!r}, "--wait-for-lock", "repro", "--single-item", "validate"]
supervise(Command(words, Checkout(Path.cwd()), Path("logs/validate.log")),
          stage="validate", deadline_seconds=600, cancel=threading.Event(), console=Console())
"""
DVC = str(Path(sys.executable).parent / "dvc")


def start_supervised(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT), "MMALIGN_GRACE_SECONDS": "2", RUN_MARK: new_run_mark(Checkout(folder))}
    return subprocess.Popen(python(SUPERVISING.format(dvc=DVC)), cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def test_stage_of_killed_supervisor_ends_with_children(checkout: Path) -> None:
    behave(checkout, "validate", "wait", "ignore", "grandchild")
    supervisor = start_supervised(checkout)
    wait_for((checkout / "waiting.validate").exists)
    # The supervisor, dvc, the stage and its grandchild.
    assert len(alive(checkout)) >= 4
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not alive(checkout), seconds=GRACE + 5 + 5)
    behave(checkout, "validate")
    assert subprocess.run([DVC, "repro", "-s", "validate"], check=False, env=clean_environment()).returncode == 0
    assert (checkout / "artifacts/validate/result.txt").is_file()


def dvc_repro() -> subprocess.Popen[bytes]:
    return subprocess.Popen([DVC, "repro", "-s", "validate"], env=clean_environment(), start_new_session=True)


def stage_process(dvc: psutil.Process) -> psutil.Process:
    # Not the shell that dvc may have started it with: its command line names the stage as well.
    return next(child for child in dvc.children(recursive=True) if "stage.py" in child.cmdline())


def test_stage_of_bare_repro_ends_with_killed_dvc(checkout: Path) -> None:
    behave(checkout, "validate", "wait", "ignore", "grandchild")
    dvc = dvc_repro()
    wait_for((checkout / "waiting.validate").exists)
    stage = stage_process(psutil.Process(dvc.pid))
    dvc.kill()
    dvc.wait()
    wait_for(lambda: not (stage.is_running() and stage.status() != psutil.STATUS_ZOMBIE) and not alive(checkout), seconds=3 + 5 + 5)
    assert alive(checkout) == []
    assert not (checkout / "artifacts/validate/result.txt").exists()


def test_second_copy_of_stage_is_refused(checkout: Path) -> None:
    behave(checkout, "validate", "wait")
    dvc = dvc_repro()
    wait_for((checkout / "waiting.validate").exists)
    stage = stage_process(psutil.Process(dvc.pid))
    stage.suspend()  # so that it can't notice what happens to dvc
    dvc.kill()
    dvc.wait()
    second = subprocess.run(
        [DVC, "repro", "-s", "validate"], check=False, env=clean_environment(), capture_output=True, text=True, timeout=60
    )
    assert second.returncode != 0
    assert f"process {stage.pid} " in second.stderr
    assert started(checkout) == ["validate"]
    stage.kill()
    behave(checkout, "validate")
    assert subprocess.run([DVC, "repro", "-s", "validate"], check=False, env=clean_environment()).returncode == 0


HOLDING = """
import pathlib, time
from dvc.repo import Repo
repository = Repo()
with repository.lock:
    pathlib.Path("locked").touch()
    while pathlib.Path("locked").exists():
        time.sleep(0.05)
"""


def test_result_survives_dvc_lock_at_end_of_stage(checkout: Path) -> None:
    behave(checkout, "validate", "wait")
    supervisor = start_supervised(checkout)
    wait_for((checkout / "waiting.validate").exists)
    holder = subprocess.Popen(python(HOLDING), cwd=checkout, env=clean_environment())
    wait_for((checkout / "locked").exists)
    behave(checkout, "validate")
    wait_for((checkout / "artifacts/validate/metrics.json").exists)
    time.sleep(1)
    assert supervisor.poll() is None  # it waits for the lock
    (checkout / "locked").unlink()
    assert holder.wait() == 0
    assert supervisor.wait() == 0
    assert "artifacts/validate/result.txt" in (checkout / "dvc.lock").read_text()
    assert started(checkout) == ["validate"]


@pytest.mark.parametrize("command", ["import components.processes.guard"])
def test_guard_imports_nothing_heavy(command: str) -> None:
    loaded = subprocess.run(
        python(f"{command}\nimport sys\nprint(*sys.modules)"), cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"torch", "prefect", "mlflow", "dvc", "pandas"} & set(loaded)
