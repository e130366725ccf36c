from __future__ import annotations

import pytest

from components.operations.preconditions.machine import gpus
from components.processes.slots.gpus import VISIBLE
from tests.operations.preconditions.conftest import Situated


def test_gpus_are_needed_by_stages_that_run_only(situated: Situated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "GPU-1,GPU-2")
    wanting = {"stages.align.gpus": 2, "stages.evaluate.gpus": 4}
    finding = gpus(situated(wanting))
    assert finding.state == "problem"
    assert finding.text == "stages take more GPUs than the 2 that are visible here (stages.NAME.gpus: evaluate 4)"
    assert gpus(situated(wanting, stages=("validate", "align"))).state == "ok"
    monkeypatch.setenv(VISIBLE, "")
    assert gpus(situated(wanting, stages=("validate",))).state == "ok"
    assert "evaluate 4" in gpus(situated(wanting)).text
