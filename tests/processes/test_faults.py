from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.errors import Cancelled, InfrastructureFault, ServiceAway, StageFault, UserError
from components.processes.faults import FAULT, INTERRUPTED, MISTAKE, explain
from components.processes.outcome import OUTCOME


@pytest.fixture
def outcome_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(OUTCOME, str(tmp_path / "outcome.json"))
    return tmp_path / "outcome.json"


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
def test_error_gives_sentence_exit_code_and_outcome(
    error: BaseException, code: int, kind: str, outcome_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(error) == code
    message = capsys.readouterr().err
    assert message.startswith("mmalign: ")
    assert message.count("\n") == 1
    outcome = json.loads(outcome_file.read_text())
    assert outcome["kind"] == kind
    assert message == f"mmalign: {outcome['sentence']}\n"
    if isinstance(error, InfrastructureFault):
        assert (outcome["stage"], outcome["log"]) == ("align", "logs/align.log")


def test_outcome_contains_no_secret(outcome_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-0123456789")
    explain(RuntimeError("the bucket refused canary-0123456789 and http://me:hidden-word@host/"))
    assert "canary-0123456789" not in outcome_file.read_text()
    assert "hidden-word" not in outcome_file.read_text()


def test_unrequested_outcome_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(OUTCOME, raising=False)
    explain(UserError("a key is unknown"))
    assert list(tmp_path.iterdir()) == []


def test_unwritable_trace_still_prints_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").touch()
    monkeypatch.setenv(OUTCOME, str(tmp_path / "logs" / "outcome.json"))  # a file in the way: nothing can be written below it
    assert explain(OSError(28, "No space left on device")) == FAULT
