from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.operations.preconditions import machine
from components.operations.preconditions.machine import deadlines, disk, gpus, kernels
from components.processes.slots.gpus import VISIBLE
from components.rehearsal.ledger import RESERVE_BYTES, ledger
from components.stages import STAGE_NAMES, StageName
from components.storage import space
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


@pytest.mark.parametrize(
    ("changes", "stages", "installed", "sentence"),
    [
        ({}, STAGE_NAMES, False, None),
        ({"training.kernels": "liger"}, ("validate", "evaluate"), False, None),
        (
            {"training.kernels": "liger"},
            STAGE_NAMES,
            True,
            "training.kernels liger needs GPUs, and reward and align would train on a processor",
        ),
        ({"training.kernels": "liger", "stages.reward.gpus": 1}, STAGE_NAMES, True, "and align would train on a processor"),
        ({"training.kernels": "liger", "stages.align.gpus": 1}, ("align",), True, None),
        (
            {"training.kernels": "liger", "stages.align.gpus": 1},
            ("align",),
            False,
            "needs the package liger-kernel, which is not installed",
        ),
    ],
)
def test_liger_needs_gpus_and_its_package(
    situated: Situated,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    stages: tuple[StageName, ...],
    installed: bool,
    sentence: str | None,
) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda _: object() if installed else None)
    finding = kernels(situated(changes, stages=stages))
    assert finding.state == ("ok" if sentence is None else "problem")
    if sentence is not None:
        assert sentence in finding.text
        assert "mmalign configure --set training.kernels=torch" in str(finding.cure)


def test_stage_that_would_pass_its_deadline_is_a_problem(situated: Situated) -> None:
    assert "no rate was measured" in deadlines(situated()).text
    situation = situated({"stages.align.deadline_minutes": 60})
    assert situation.plan is not None
    timed = dict(situation.plan.seconds) | {"reward": 1800.0, "align": 7200.0}
    situation.__dict__["plan"] = replace(situation.plan, seconds=timed)
    finding = deadlines(situation)
    assert finding.state == "problem"
    assert finding.text == "at the measured rate stages pass their deadlines: align takes about 2 h 00 min, and ends at 1 h 00 min"
    assert finding.cure == "mmalign configure --set stages.align.deadline_minutes=180"
    situation = situated({"stages.align.deadline_minutes": 60}, stages=("reward",))
    assert situation.plan is not None
    situation.__dict__["plan"] = replace(situation.plan, seconds=timed)
    assert deadlines(situation).text == "reward 30 min, within the deadlines"


def test_full_disk_is_a_problem_and_a_nearly_full_one_a_warning(situated: Situated, monkeypatch: pytest.MonkeyPatch) -> None:
    (volume,) = ledger(situated().plan, situated().checkout, STAGE_NAMES, None)
    for free, state in ((int(100e9), "ok"), (volume.needed + RESERVE_BYTES, "warning"), (int(0.2e9), "problem")):
        monkeypatch.setattr(space.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert disk(situated()).state == state
    finding = disk(situated())
    assert finding.text.startswith("too little disk for .mmalign/scratch, mlruns, artifacts/reward and ")
    assert "200 MB free, and the run still writes 15 MB there (checkpoints of reward 9 MB, registered models 2 MB" in finding.text
    assert "free 815 MB" in str(finding.cure)


def test_external_cache_is_a_disk_with_its_own_sum(situated: Situated, checkout: Path) -> None:
    cache = checkout.parent / "elsewhere"
    (checkout / ".dvc/config.local").write_text(f"[cache]\n    dir = {cache}\n")
    situation = situated()

    def apart(folder: Path) -> tuple[int, int]:
        return (1, int(0.9e9)) if folder.is_relative_to(cache) else (0, int(50e9))

    volumes = ledger(situation.plan, situation.checkout, situation.stages, situation.data, apart)
    (full,) = [volume for volume in volumes if volume.lacking]
    assert {entry.folder for entry in full.entries} == {cache}
    assert len(volumes) == 2
