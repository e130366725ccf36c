"""Processes that stay loaded with DVC, on a real repository."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from components.checkout import Checkout
from flows.dvc_processes import DvcCommand, DvcProcesses
from tests.checkout import behave, wait_for


@pytest.fixture
def processes(checkout: Path) -> Iterator[DvcProcesses]:
    made = DvcProcesses(Checkout(checkout))
    yield made
    made.close()


def ended(command: DvcCommand) -> int:
    wait_for(lambda: command.poll() is not None, 60)
    assert command.returncode is not None
    return command.returncode


def test_process_runs_commands_one_after_another(processes: DvcProcesses, tmp_path: Path) -> None:
    first = processes.run(["root"], tmp_path / "first.log", {})
    assert ended(first) == 0
    second = processes.run(["no-such-command"], tmp_path / "second.log", {})
    assert ended(second) != 0
    third = processes.run(["root"], tmp_path / "first.log", {})
    assert ended(third) == 0
    assert first.pid == second.pid == third.pid
    assert (tmp_path / "first.log").read_text() == ".\n.\n"
    assert "no-such-command" in (tmp_path / "second.log").read_text()


def test_environment_is_of_one_command(processes: DvcProcesses, checkout: Path, tmp_path: Path) -> None:
    processes.environment["SHARED"] = "for all"
    (checkout / "dvc.yaml").write_text("stages:\n  show:\n    cmd: echo [$SHARED] [$OWN] && ! read -r line\n    always_changed: true\n")
    assert ended(processes.run(["repro"], tmp_path / "own.log", {"OWN": "one"})) == 0
    assert ended(processes.run(["repro"], tmp_path / "other.log", {})) == 0
    assert "[for all] [one]" in (tmp_path / "own.log").read_text()
    assert "[for all] []" in (tmp_path / "other.log").read_text()


def test_commands_side_by_side_have_processes_of_their_own(processes: DvcProcesses, tmp_path: Path) -> None:
    first, second = (processes.run(["root"], tmp_path / f"{name}.log", {}) for name in ("first", "second"))
    assert first.pid != second.pid
    assert (ended(first), ended(second)) == (0, 0)


def test_killed_process_is_replaced(processes: DvcProcesses, checkout: Path, tmp_path: Path) -> None:
    behave(checkout, "validate", "wait")
    command = processes.run(["repro", "--single-item", "validate"], tmp_path / "killed.log", {})
    wait_for((checkout / "waiting.validate").exists, 60)
    psutil.Process(command.pid).kill()
    assert ended(command) == -signal.SIGKILL
    another = processes.run(["root"], tmp_path / "another.log", {})
    assert another.pid != command.pid
    assert ended(another) == 0
    behave(checkout, "validate")


def test_idle_process_that_was_killed_is_replaced(processes: DvcProcesses, tmp_path: Path) -> None:
    command = processes.run(["root"], tmp_path / "first.log", {})
    assert ended(command) == 0
    psutil.Process(command.pid).kill()
    wait_for(lambda: psutil.Process(command.pid).status() == psutil.STATUS_ZOMBIE, 10)
    assert ended(processes.run(["root"], tmp_path / "first.log", {})) == 0


def test_close_ends_idle_processes(checkout: Path, tmp_path: Path) -> None:
    processes = DvcProcesses(Checkout(checkout))
    command = processes.run(["root"], tmp_path / "first.log", {})
    assert ended(command) == 0
    processes.close()
    assert not psutil.pid_exists(command.pid)
