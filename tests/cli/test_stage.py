from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.cli.run import stage as command
from components.closures import code_digest
from components.errors import UserError
from components.stages import STAGE_NAMES, StageName
from components.tracking import stage as tracking


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("components.cli.run.stage.enter_checkout", lambda: Checkout(tmp_path))

    def unguarded(_name: StageName, _checkout: Checkout, work: Callable[[], None]) -> None:
        work()

    monkeypatch.setattr(command, "run_guarded", unguarded)
    return tmp_path


def test_stage_code_writes_digests_and_runs_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run_guarded", lambda *_: pytest.fail("stage code takes no lock"))
    command.stage("code")
    for name in STAGE_NAMES:
        assert (checkout / f"artifacts/code/{name}.txt").read_text() == f"{code_digest(name)}\n"


@pytest.mark.parametrize("fails", [False, True])
def test_ended_stage_leaves_the_digest_of_what_ran(checkout: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """DVC hashes inputs when a stage has ended: code that was edited meanwhile must not count as what ran."""
    path = checkout / "artifacts/code/align.txt"

    def run(_name: StageName, _checkout: Checkout) -> None:
        path.parent.mkdir(parents=True)
        path.write_text("of code that was edited while the stage ran\n")
        if fails:
            raise UserError("no")

    monkeypatch.setattr(tracking, "run_stage", run)
    if fails:
        with pytest.raises(UserError):
            command.stage("align")
    else:
        command.stage("align")
    assert path.read_text() == f"{code_digest('align')}\n"


def test_unknown_stage_is_refused_with_the_six(checkout: Path) -> None:
    with pytest.raises(
        UserError, match="there is no stage 'distill'; the stages are validate, reward, critique, reference, align, evaluate"
    ):
        command.stage("distill")
    assert not (checkout / "artifacts").exists()
