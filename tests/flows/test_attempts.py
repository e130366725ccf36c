"""How often a stage's task is tried, as tasks of a flow on a real server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from components.checkout import Checkout
from components.config.settings import load_settings
from components.errors import UserError
from components.files import read_json, write_json
from flows.attempts import Attempts, attempts_file, pauses, stage_task
from flows.stages import StageOutcome
from tests.checkout import ROOT
from tests.flows.conftest import RunServer

DEPLOYMENTS = load_settings(ROOT / "params.yaml").deployments


def test_pauses_double_from_retry_to_retry() -> None:
    assert pauses(DEPLOYMENTS.model_copy(update={"retries": 4, "retry_seconds": 30.0})) == [30.0, 60.0, 120.0, 240.0]
    assert pauses(DEPLOYMENTS.model_copy(update={"retries": 0})) == []


@pytest.fixture
def server(run_server: RunServer) -> Iterator[None]:
    with temporary_settings(updates={PREFECT_API_URL: run_server.url, PREFECT_API_AUTH_STRING: run_server.auth}):
        yield


def test_failed_stage_is_a_state_with_its_sentence() -> None:
    state: Any = stage_task.fn(lambda: StageOutcome("reward", "failed", log=Path("x.log"), mistake="row 7 is \x1bwrong", kind="mistake"))
    assert (state.is_failed(), state.message) == (True, "stage reward: row 7 is \\x1bwrong")


def test_mistake_in_judging_a_stage_is_a_failed_state() -> None:
    def judge() -> StageOutcome:
        raise UserError("dvc.yaml is damaged: restore it")

    state: Any = stage_task.fn(judge)
    assert (state.is_failed(), state.message) == (True, "dvc.yaml is damaged: restore it")
    assert isinstance(state.data, UserError)


class Stage:
    """A stage that ends as `ends` say, one an attempt."""

    def __init__(self, *ends: tuple[str, str | None]) -> None:
        self.ends = list(ends)
        self.attempts = 0

    def __call__(self) -> StageOutcome:
        end, kind = self.ends[self.attempts]
        self.attempts += 1
        return StageOutcome("reward", end, end == "ok" and kind == "ran", 1.0, Path("reward.log"), kind=None if kind == "ran" else kind)  # type: ignore[arg-type]


def outcome_of(attempts: Attempts, stage: Stage) -> tuple[StageOutcome, str]:
    """The outcome of the stage in a flow, and the name of its task's last state."""
    made: list[Any] = []

    @flow
    def run() -> None:
        future: Any = attempts.submit("reward", stage)
        made.append(future.result())
        made.append(future._future.task_run_id)

    run()
    outcome, task_run = made
    with get_client(sync_client=True) as client:
        until = time.monotonic() + 20
        while (state := client.read_task_run(task_run).state) is None or not state.is_final():
            assert time.monotonic() < until
            time.sleep(0.2)
        assert client.read_task_run(task_run).name == "reward"
    return outcome, state.name


KILLED, GOOD = ("failed", "infrastructure"), ("ok", "ran")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return attempts_file(Checkout(tmp_path), "run")


def tried(file: Path, waits: list[float], cancel: threading.Event | None = None) -> Attempts:
    return Attempts(waits, file, cancel or threading.Event(), lambda _: None)


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_fault_of_machine_is_repeated(file: Path) -> None:
    stage, attempts = Stage(KILLED, KILLED, GOOD), tried(file, [0.01, 0.01])
    outcome, state = outcome_of(attempts, stage)
    assert (outcome.end, outcome.ran, stage.attempts, state) == ("ok", True, 3, "Completed")
    assert attempts.troubles == ["stage reward failed; its log: reward.log"] * 2
    assert read_json(file) == {"reward": 3}


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_retries_end(file: Path) -> None:
    stage = Stage(KILLED, KILLED, GOOD)
    outcome, state = outcome_of(tried(file, [0.01]), stage)
    assert (outcome.end, outcome.kind, stage.attempts, state) == ("failed", "infrastructure", 2, "Failed")


@pytest.mark.slow
@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("kind", ["mistake", "training", "fault"])
def test_other_faults_are_not_repeated(file: Path, kind: str) -> None:
    stage = Stage(("failed", kind), GOOD)
    outcome, state = outcome_of(tried(file, [0.01, 0.01]), stage)
    assert (outcome.kind, stage.attempts, state) == (kind, 1, "Failed")


@pytest.mark.slow
@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("waits", [[], [0.01]])
def test_failed_stage_logs_no_trace(file: Path, waits: list[float]) -> None:
    records: list[logging.LogRecord] = []
    handler, logger = logging.Handler(), logging.getLogger("prefect.task_runs")
    handler.emit = records.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        outcome_of(tried(file, waits), Stage(KILLED, KILLED))
    finally:
        logger.removeHandler(handler)
    assert any("reward.log" in record.getMessage() for record in records)
    assert not [record for record in records if record.exc_info]


@pytest.mark.slow
@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(("before", "left"), [(1, 2), (2, 1), (5, 1)])
def test_attempts_of_killed_flow_count(file: Path, before: int, left: int) -> None:
    write_json(file, {"reward": before, "align": 1})
    stage = Stage(KILLED, KILLED, KILLED, KILLED)
    outcome_of(tried(file, [0.01, 0.01]), stage)
    assert stage.attempts == left
    assert read_json(file) == {"reward": before + left, "align": 1}


@pytest.mark.slow
@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(("end", "state", "count"), [("skipped", "Skipped", 0), ("ok", "Restored", 1)])
def test_stage_that_did_not_run_says_so(file: Path, end: str, state: str, count: int) -> None:
    outcome, name = outcome_of(tried(file, [0.01]), Stage((end, None)))
    assert (outcome.end, outcome.ran, name) == (end, False, state)
    assert read_json(file) == {"reward": count}


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_pause_ends_with_cancellation(file: Path) -> None:
    cancel, stage = threading.Event(), Stage(KILLED, GOOD)
    threading.Timer(1.0, cancel.set).start()
    began = time.monotonic()
    outcome, state = outcome_of(tried(file, [600.0], cancel), stage)
    assert time.monotonic() - began < 60
    assert (outcome.end, stage.attempts, state) == ("cancelled", 1, "Cancelled")
