"""A rank by itself: its device, how it meets others, its settings; and what the process of a rank computes and leaves."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import distributed

from components.config.settings import Settings, parse_settings
from components.engine import inference_worker as worker
from components.engine import ranks as ranks_module
from components.engine.ranks import Ranks, inference_dtype, inference_section, ranks_of_process
from components.files import write_json
from tests.engine.test_batches import Doubles, Memory

ROOT = Path(__file__).resolve().parents[2]


def settings_of(**changes: dict[str, Any]) -> Settings:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, keys in changes.items():
        values[section] |= keys
    return parse_settings(values, "params.yaml")


def test_a_rank_by_itself_waits_for_nobody() -> None:
    rank = Ranks()
    assert (rank.rank, rank.world, rank.lockstep) == (0, 1, False)
    assert (rank.most(7), rank.most(0)) == (7, 0)
    assert (rank.any(True), rank.any(False)) == (True, False)
    rank.join()
    rank.leave()
    assert not distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is a GPU's")
def test_a_rank_without_a_gpu_runs_on_the_cpu() -> None:
    assert Ranks(3, 4).device == torch.device("cpu")


@pytest.mark.parametrize(("variables", "index"), [({}, 0), ({"LOCAL_RANK": "3"}, 3)])
def test_a_rank_with_a_gpu_takes_its_own(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], index: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Ranks().device == torch.device("cuda", index)


def test_ranks_in_step_take_the_largest_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, Any]] = []

    def all_reduce(tensor: torch.Tensor, operation: Any) -> None:
        seen.append((int(tensor), operation))
        tensor.clamp_(min=5)  # another rank has 5

    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    rank = Ranks(0, 2, lockstep=True)
    assert (rank.most(3), rank.most(8)) == (5, 8)
    assert seen == [(3, distributed.ReduceOp.MAX), (8, distributed.ReduceOp.MAX)]
    monkeypatch.setattr(distributed, "all_reduce", lambda *_: None)
    assert (rank.any(True), rank.any(False)) == (True, False)


def test_ranks_in_step_part_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(distributed, name, lambda name=name: calls.append(name))
    Ranks(0, 2, lockstep=True).leave()
    assert calls == ["barrier", "destroy_process_group"]
    Ranks(0, 2).leave()
    assert len(calls) == 2


def test_ranks_in_step_meet_through_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import SimpleNamespace

    calls: list[str | None] = []
    stand_in = SimpleNamespace(init_distributed=lambda: calls.append(os.environ.get("DS_ACCELERATOR")))
    monkeypatch.setitem(sys.modules, "deepspeed", stand_in)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    Ranks(0, 2).join()
    assert calls == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Ranks(0, 2, lockstep=True).join()
    assert calls == ["cpu"]


def test_a_model_of_ranks_apart_goes_whole_onto_the_device() -> None:
    moved: list[Any] = []

    class Model:
        def to(self, device: Any) -> str:
            moved.append(device)
            return "moved"

    rank = Ranks()
    with rank.opening(torch.bfloat16):
        assert not ranks_module._CONFIGURATIONS
    assert rank.move(Model()) == "moved"
    assert moved == [rank.device]


def test_models_of_ranks_in_step_are_opened_under_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr("transformers.integrations.HfDeepSpeedConfig", lambda values: seen.append(values) or len(seen))
    monkeypatch.setattr(ranks_module, "_CONFIGURATIONS", {})
    for dtype in (torch.bfloat16, torch.float32):
        with Ranks(0, 2, lockstep=True).opening(dtype):
            assert ranks_module._CONFIGURATIONS[dtype] == len(seen)
    assert [values["bf16"]["enabled"] for values in seen] == [True, False]
    assert seen[0] == {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": True},
        "zero_optimization": {
            "stage": 3,
            "stage3_prefetch_bucket_size": 0,
            "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
        },
        "steps_per_print": 1_000_000_000,
    }


@pytest.mark.parametrize("stage", ["critique", "reference", "evaluate"])
def test_a_stage_s_own_section_spreads_it(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    settings = settings_of(**{stage: {"ranks": 3, "threads": 5, "zero_inference": True}})
    section = inference_section(settings, stage)
    assert (section.ranks, section.threads) == (3, 5)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert ranks_of_process(settings, stage) == Ranks(0, 1, lockstep=True)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert ranks_of_process(settings, stage) == Ranks(2, 3, lockstep=True)
    assert ranks_of_process(settings_of(), stage) == Ranks(2, 3, lockstep=False)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_frozen_models_run_in_the_precision_of_training(precision: str, dtype: torch.dtype) -> None:
    assert inference_dtype(settings_of(training={"precision": precision})) == dtype


# the process of a rank


MADE: dict[str, Any] = {}


def made(settings: Settings, root: Path, arguments: Any) -> list[Doubles]:
    MADE["call"] = (settings, root, arguments)
    tasks: list[Doubles] = MADE["tasks"]
    return tasks


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_json(tmp_path / "settings.json", settings_of(evaluate={"threads": 1}).model_dump(mode="json", by_alias=True))
    write_json(tmp_path / "arguments.json", {"a": 1})
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    return tmp_path


def options_of(scratch: Path) -> argparse.Namespace:
    return argparse.Namespace(
        factory="tests.engine.test_rank:made",
        stage="evaluate",
        root=scratch / "root",
        scratch=scratch,
        launcher=os.getpid(),
        launcher_started=1.5,
    )


def doubles(weights: int, numbers: list[int]) -> Doubles:
    return Doubles("doubles", "unit", [str(number) for number in numbers], Memory(), numbers, [], weights)


def test_a_rank_computes_its_share_and_leaves_what_it_took(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = MADE["tasks"] = [doubles(10, [1, 2, 3]), doubles(99, [4]), doubles(20, [5, 6])]
    plan = [[[[[0], True]], [[[2, 1], True], [[0], False]]], [[[[0], True]], []], [[], [[[1], True]]]]
    write_json(scratch / "plan.json", plan)
    clock = iter([100.0, 103.0, 110.0, 112.0, 120.0, 130.0, 135.0])
    monkeypatch.setattr(worker.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr("components.engine.throughput.peak_memory_gb", lambda: 0.75)
    torch.set_num_threads(2)
    worker.run(options_of(scratch))
    assert torch.get_num_threads() == 1
    assert MADE["call"] == (settings_of(evaluate={"threads": 1}), scratch / "root", {"a": 1})
    assert [task.seen for task in tasks] == [[([2, 1], Ranks(1, 2)), ([0], Ranks(1, 2))], [], [([1], Ranks(1, 2))]]
    assert [task.store.values for task in tasks] == [{"3": 6, "2": 4}, {}, {"6": 12}]  # type: ignore[attr-defined]
    assert [task.ended for task in tasks] == [1, 1, 1]
    assert [json.loads(line) for line in (scratch / "progress-1.jsonl").read_text().splitlines()] == [[0, 5], [0, 0], [2, 6]]
    end = json.loads((scratch / "finished-1.json").read_text())
    # Three items of three tokens in four slots, then one; from 110 to 112 and from 130 to 135; the task without a share counts nothing.
    assert end == {"startup_seconds": 3.0, "parameters": 20, "tokens": 12, "slots": 16, "seconds": 7.0, "peak_gb": 0.75}


def test_a_rank_without_work_leaves_zeros(scratch: Path) -> None:
    tasks = MADE["tasks"] = [doubles(10, [1])]
    write_json(scratch / "plan.json", [[[[[0], True]], []]])
    worker.run(options_of(scratch))
    end = json.loads((scratch / "finished-1.json").read_text())
    assert {name: end[name] for name in ("parameters", "tokens", "slots", "seconds")} == dict.fromkeys(
        ("parameters", "tokens", "slots", "seconds"), 0
    )
    assert tasks[0].seen == []
    assert 0 <= end["startup_seconds"] < 60


def test_a_rank_meets_the_others_first_and_leaves_last(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MADE["tasks"] = []
    write_json(scratch / "plan.json", [])
    calls: list[str] = []
    monkeypatch.setattr(Ranks, "join", lambda _: calls.append("join"))
    monkeypatch.setattr(Ranks, "leave", lambda _: calls.append(f"leave {(scratch / 'finished-1.json').is_file()}"))
    monkeypatch.setattr("components.engine.inference.build_tasks", lambda *_: calls.append("build") or [])
    worker.run(options_of(scratch))
    assert calls == ["join", "build", "leave True"]


def test_progress_is_there_after_every_batch(scratch: Path) -> None:
    tasks = MADE["tasks"] = [doubles(10, [1, 2])]
    write_json(scratch / "plan.json", [[[], [[[0], True], [[1], True]]]])
    lines: list[str] = []
    compute = tasks[0].compute
    tasks[0].compute = lambda items, ranks: (  # type: ignore[method-assign]
        lines.append((scratch / "progress-1.jsonl").read_text()) or compute(items, ranks)
    )
    worker.run(options_of(scratch))
    assert lines == ["", "[0, 1]\n"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_rank_ends_with_its_launcher_and_leaves_its_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: bool) -> None:
    calls: list[tuple[Any, ...]] = []
    arguments = ["--factory", "m:f", "--stage", "reference", "--root", str(tmp_path), "--scratch", str(tmp_path / "s")]
    monkeypatch.setattr("sys.argv", ["worker", *arguments, "--launcher", "77", "--launcher-started", "2.5"])
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(worker.watchdog, "end_with", lambda *launcher: calls.append(("watch", *launcher)))
    monkeypatch.setattr(worker, "leave_fault", lambda scratch, rank, error: calls.append(("fault", scratch, rank, str(error))))

    def run(options: argparse.Namespace) -> None:
        calls.append(("run", options.factory, options.stage, options.root, options.scratch))
        if fails:
            raise RuntimeError("broken")

    monkeypatch.setattr(worker, "run", run)
    expected: list[tuple[Any, ...]] = [("watch", 77, 2.5), ("run", "m:f", "reference", tmp_path, tmp_path / "s")]
    if fails:
        with pytest.raises(RuntimeError, match="broken"):
            worker.main()
        assert calls == [*expected, ("fault", tmp_path / "s", 3, "broken")]
    else:
        worker.main()
        assert calls == expected
