"""The note of a failed run, by which polls for new data start no second one on the same inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.checkout import Checkout
from components.processes.faults import RunOutcome
from flows.new_data import describe_failed_run, note_end
from flows.parameters import RunParameters
from tests.checkout import git

POLL = RunParameters(only_new_data=True)
BROKEN = RunOutcome("mistake", "row 7 is broken", stage="validate")


def test_failed_run_stays_noted_until_data_change(checkout: Path) -> None:
    here = Checkout(checkout)
    assert describe_failed_run(here, POLL) is None
    assert not note_end(here, POLL, "on-new-data brave-ox", BROKEN)
    sentence = describe_failed_run(here, POLL)
    assert sentence is not None
    assert sentence.startswith("no new data since the run that failed (on-new-data brave-ox: row 7 is broken)")

    (checkout / "data/preferences/data.jsonl").write_text("1\n2\n4\n")
    assert describe_failed_run(here, POLL) is None


@pytest.mark.parametrize("name", ["params.yaml", "ops.yaml", "mlflow/registry.yaml"])
def test_changed_settings_let_polls_try_anew(checkout: Path, name: str) -> None:
    note_end(Checkout(checkout), POLL, "nightly brave-ox", BROKEN)
    assert describe_failed_run(Checkout(checkout), POLL) is not None
    with (checkout / name).open("a") as settings:
        settings.write("# another text\n")
    assert describe_failed_run(Checkout(checkout), POLL) is None


def test_fault_of_machine_is_tried_anew_and_reported_once(checkout: Path) -> None:
    full = RunOutcome("infrastructure", "No space left on device", stage="reward")
    assert [note_end(Checkout(checkout), POLL, f"on-new-data {number}", full) for number in range(3)] == [False, True, True]
    assert describe_failed_run(Checkout(checkout), POLL) is None
    assert not note_end(Checkout(checkout), POLL, "on-new-data 3", BROKEN), "another fault is reported"


def test_good_run_forgets_failure_of_its_kind_alone(checkout: Path) -> None:
    here, other = Checkout(checkout), RunParameters(overrides=["reward.epochs=9"])
    note_end(here, POLL, "on-new-data 1", BROKEN)
    note_end(here, other, "on-demand 1", RunOutcome("ok"))
    assert describe_failed_run(here, POLL) is not None
    note_end(here, RunParameters(), "nightly 1", RunOutcome("ok"))
    assert describe_failed_run(here, POLL) is None


def test_failed_run_of_git_source_is_noted(checkout: Path) -> None:
    poll = RunParameters(only_new_data=True, source="git")
    note_end(Checkout(checkout), poll, "on-new-data 1", BROKEN)
    assert describe_failed_run(Checkout(checkout), poll) is not None
    (checkout / "params.yaml").write_text((checkout / "params.yaml").read_text() + "# corrected\n")
    assert describe_failed_run(Checkout(checkout), poll) is not None, "git has no such commit"
    git(checkout, "commit", "-qam", "Correct")
    assert describe_failed_run(Checkout(checkout), poll) is None


def test_damaged_note_counts_as_none(checkout: Path) -> None:
    note_end(Checkout(checkout), POLL, "on-new-data 1", BROKEN)
    (checkout / ".mmalign/services/failed-run.json").write_text("{")
    assert describe_failed_run(Checkout(checkout), POLL) is None
    assert not note_end(Checkout(checkout), POLL, "on-new-data 2", BROKEN)
