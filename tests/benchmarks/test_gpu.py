"""The GPU benchmark without a GPU: its count of operations, its search, and a dry run of all of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu
from benchmarks._models import TRIAL, build_model, build_processor, build_task
from benchmarks._operations import language_operations, projector_operations, vision_operations
from components.engine.operations import operations_of
from components.families.adapters import family_of
from components.trees.logprobs import TreeModel
from components.trees.trees import build_batch, tree_pairs


def counted(work: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return int(counter.get_total_flops())


def test_operations_equal_torch_counts() -> None:
    processor = build_processor(TRIAL.side)
    model = build_model(TRIAL, processor)
    task = build_task(TRIAL, processor, model.config, responses=3, root_tokens=40, response_tokens=8)
    batch = build_batch([task.tree], task.tree.tokens, "cpu", 0)
    vision = counted(lambda: family_of(model.config).vision_tower(model, task.root.media))
    tokens = task.tree.tokens
    # torch counts the whole square of attention, masked or not.
    language = language_operations(TRIAL).forward(tokens, 3 * 8, tokens**2)
    assert language == operations_of(model).forward(tokens, 3 * 8, tokens**2)
    assert vision == vision_operations(TRIAL)
    assert counted(lambda: TreeModel(model)(batch)) == language + projector_operations(TRIAL) + vision


def test_pairs_equal_allowed_mask_entries() -> None:
    processor = build_processor(TRIAL.side)
    model = build_model(TRIAL, processor)
    task = build_task(TRIAL, processor, model.config, responses=3, root_tokens=40, response_tokens=8)
    mask = build_batch([task.tree], task.tree.tokens, "cpu", 0).mask_R1LL(torch.float32)
    assert tree_pairs(40, [8] * 3) == int((mask == 0).sum())


@pytest.mark.parametrize("fitting", [100, 1023, 1024, 3000, 9000, 99_999])
def test_longest_root_is_exact_to_one_grain(fitting: int) -> None:
    tried: list[int] = []

    def works(tokens: int) -> bool:
        tried.append(tokens)
        return tokens <= fitting

    longest = gpu.longest_root(works, 1000, 16_000, 512)
    if fitting < 1000:
        assert longest is None
    else:
        assert longest is not None
        assert longest == 16_000 or longest <= fitting < longest + 512
    assert max(tried) <= 16_000
    assert len(tried) < 12


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_missing_gpu_is_reported_as_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--json"])
    assert json.loads(capsys.readouterr().out) == {"skipped": "no GPU"}


@pytest.mark.slow
def test_dry_run_reports_every_model() -> None:
    report = gpu.run(dry=True, threads=1, rounds=1)
    assert report["engine"] == "DeepSpeed ZeRO-3"
    for model in report["models"].values():
        assert model["trl"]["losses"]["tree"] == pytest.approx(model["trl"]["losses"]["trl"], rel=0.05)
        assert model["trl"]["speedup_vs_trl_stored"] > 0
        assert model["writing"]["tokens_per_second"] > 0
        for responses in (2, 4):
            steps = model[f"steps:sdpa:{responses}"]
            assert steps["step_seconds"] > 0
            assert steps["tree_tokens"] == 40 + responses * 8
            assert steps.get("longest_root_tokens") == (160 if responses == 4 else None)
            assert steps["mfu"] is None
            # A processor has no backward pass of flex attention.
            assert "failed" in model[f"steps:flex_attention:{responses}"]


def test_measurement_without_time_is_reported() -> None:
    assert gpu.measured_apart("writing", "7b", 1, 1, 0.0, dry=True) == {"failed": "no time was left"}


def test_without_trl_its_keys_are_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda _: None)
    assert gpu.against_trl(gpu.DRY_CASES["0.5b"], 1, dry=True)["trl_seconds"] is None
