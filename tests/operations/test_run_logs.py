from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.operations.run_logs import NOTE, all_logs, note_run
from components.processes.marks import FLOW_RUN


def test_note_names_run_and_whether_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FLOW_RUN, "flow")
    note_run(tmp_path / "logs/20260101-020000", "mlflow")
    (one,) = all_logs(Checkout(tmp_path))
    assert (one.name, one.flow_run, one.mlflow_run, one.under_way) == ("20260101-020000", "flow", "mlflow", True)
    assert one.process is not None
    assert one.process.startswith(f"{os.getpid()}:")


@pytest.mark.parametrize("note", [None, "{", "{}", '{"flow_run": null}'])
def test_logs_with_missing_or_damaged_note_are_listed(tmp_path: Path, note: str | None) -> None:
    folder = tmp_path / "logs/20260101-020000"
    folder.mkdir(parents=True)
    if note is not None:
        (folder / NOTE).write_text(note)
    (tmp_path / "logs/reports").mkdir()
    (tmp_path / "logs/fault-20260101-020000.log").touch()
    (one,) = all_logs(Checkout(tmp_path))
    assert one.mlflow_run is None
    assert not one.under_way
