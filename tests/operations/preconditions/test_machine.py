from __future__ import annotations

import re
import resource
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.operations.preconditions import machine
from components.operations.preconditions.machine import deadlines, disk, gpus, kernels, open_files, shared_memory
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


@pytest.mark.parametrize(
    ("changes", "stages", "megabytes", "state"),
    [
        ({}, STAGE_NAMES, 131, "problem"),
        ({}, STAGE_NAMES, 132, "ok"),
        ({"training.ranks": 3}, STAGE_NAMES, 132, "problem"),
        ({"training.engine": "ddp"}, STAGE_NAMES, 1, "ok"),
        ({"stages.reward.gpus": 2, "stages.align.gpus": 2}, STAGE_NAMES, 1, "ok"),
        ({}, ("validate", "evaluate"), 1, "ok"),
    ],
)
def test_shared_memory_too_small_for_ranks_is_problem(
    situated: Situated,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    stages: tuple[StageName, ...],
    megabytes: int,
    state: str,
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=megabytes * 2**20))
    finding = shared_memory(situated(changes, stages=stages))
    assert finding.state == state
    if state == "problem":
        assert "--shm-size" in str(finding.cure)
        assert "training.engine=ddp" in str(finding.cure)


def test_mapped_bytes_a_rank_match_deepspeed_source() -> None:
    source = Path(sys.prefix).glob("lib/python*/site-packages/deepspeed/ops/csrc/cpu/comm/shm.cpp")
    text = next(source).read_text()
    large = re.search(r"#define MAX_BUF_SIZE 1048576 \* (\d+)", text)
    assert large is not None
    assert "#define NAIVE_ALLREDUCE_THRESHOLD 1048576\n" in text
    assert "buffer[2 * NAIVE_ALLREDUCE_THRESHOLD + 2 * MAX_BUF_SIZE]" in text
    assert 2 * 2**20 + 2 * int(large[1]) * 2**20 == machine.SHARED_BYTES_A_RANK


@pytest.mark.parametrize(
    ("limit", "changes", "stages", "state"),
    [
        (63, {}, STAGE_NAMES, "problem"),
        (64, {}, STAGE_NAMES, "ok"),
        (64, {"training.ranks": 3}, STAGE_NAMES, "problem"),
        (56, {}, ("validate", "evaluate"), "ok"),
        (64, {"stages.align.gpus": 2}, STAGE_NAMES, "warning"),
        (1024, {"stages.align.gpus": 2}, STAGE_NAMES, "ok"),
    ],
)
def test_open_files_are_counted_by_ranks(
    situated: Situated, monkeypatch: pytest.MonkeyPatch, limit: int, changes: dict[str, object], stages: tuple[StageName, ...], state: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    finding = open_files(situated(changes, stages=stages))
    assert finding.state == state
    assert f"{limit:,} files open" in finding.text
    assert (finding.cure is None) == (state == "ok")


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
