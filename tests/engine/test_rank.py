"""A rank by itself: its device, how it meets others, its settings; and what the process of a rank computes and leaves."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import distributed

from components.config.settings import Settings, parse_settings
from components.engine import ranks as ranks_module
from components.engine.ranks import Ranks, inference_dtype, inference_section, ranks_of_process

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
    calls: list[tuple[Any, ...]] = []

    def init_distributed(*, dist_backend: str, timeout: timedelta, verbose: bool) -> None:
        calls.append((os.environ.get("DS_ACCELERATOR"), dist_backend, timeout.total_seconds(), verbose))

    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(init_distributed=init_distributed))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Ranks(0, 2).join()
    assert calls == []
    Ranks(0, 2, lockstep=True).join()
    assert calls == [("cpu", "gloo", 1800.0, False)]


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
