from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import Cancelled, InfrastructureFault, ServiceAway, StageFault, UserError
from components.processes.faults import FAULT, INTERRUPTED, MISTAKE, explain, outcome_of


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
