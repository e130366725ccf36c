"""Two real ranks of which one stops, or calls a module less than the other: they are ended, with the names of rank, module and step."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.engine import launch as launch_module
from components.errors import InfrastructureFault, StageFault
from components.processes import stalls
from components.processes.fault_kinds import fault_kind
from components.processes.heartbeat import Reader
from tests.engine.conftest import prepare, toy_settings, train
from tests.engine.stalling import STALLED_STEP

FAST_SECONDS = 4.0


def stalled(root: Path, **options: Any) -> tuple[Exception, float]:
    """The fault of a run, and how long after the stall its ranks were gone."""
    prepare(root, epochs=1, **{name: value for name, value in options.items() if name not in ("engine", "zero_stage")})
    settings = toy_settings(**{name: value for name, value in options.items() if name in ("engine", "zero_stage")})
    with pytest.raises(StageFault) as caught:
        train(root, settings, "tests.engine.stalling:train")
    seconds = time.time() - float((root / "since").read_text())
    (scratch,) = (root / ".mmalign/scratch/align").iterdir()
    for rank in (0, 1):
        assert not psutil.pid_exists(Reader(scratch, rank).pid)
    return caught.value, seconds


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are ended after FAST_SECONDS of silence."""
    monkeypatch.setattr(launch_module, "Stalls", lambda folder, count: stalls.Stalls(folder, count, FAST_SECONDS))


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_stopped_rank_ends_the_run_with_its_name(tmp_path: Path) -> None:
    fault, seconds = stalled(tmp_path, stop=True, engine="ddp")
    assert isinstance(fault, InfrastructureFault)
    assert str(fault).startswith("align: rank 1 (process ")
    assert f"stopped) gave its last sign {FAST_SECONDS:.0f} s ago in step {STALLED_STEP}, forward of micro-batch 1" in str(fault)
    assert seconds < 10 * FAST_SECONDS


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_skipped_gather_is_a_fault_of_the_code_with_both_names(tmp_path: Path) -> None:
    fault, _ = stalled(tmp_path, skip=True, zero_stage=3)
    assert f"ranks 0 and 1 do not call the same modules in step {STALLED_STEP}" in str(fault)
    assert "is unused on rank 0 and its next part on rank 1" in str(fault)
    assert fault_kind(fault) == "fault"


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("options", [{"work": 3 * FAST_SECONDS}, {"commit_seconds": 3 * FAST_SECONDS}])
def test_rank_that_works_for_long_is_awaited(tmp_path: Path, options: dict[str, Any]) -> None:
    prepare(tmp_path, epochs=1, **options)
    outcome = train(tmp_path, toy_settings(engine="ddp"), "tests.engine.stalling:train")
    assert outcome.steps == 6


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"stop": True}, {"skip": True}])
def test_stall_is_ended_within_three_minutes(tmp_path: Path, options: dict[str, Any]) -> None:
    fault, seconds = stalled(tmp_path, zero_stage=3, **options)
    assert f"step {STALLED_STEP}" in str(fault)
    assert seconds < 180
