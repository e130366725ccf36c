"""What only a GPU can show: flex attention's backward pass, Triton's kernels, the engines in bf16, writing, checkpoints of device memory.

`make gpu` runs them. On a processor those that don't name a GPU run too, so that their own code is tried at every change.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks._gpu_engine import Case, engine
from benchmarks._models import Shape, build_model, build_processor, build_task
from components.engine.checkpoint_files import CheckpointFiles
from components.families.recomputation import set_recomputation
from components.features.embedding import run_vision_tower
from components.generation.decoding import decode
from components.generation.generate import generate
from components.trees.logprobs import TreeModel
from components.trees.trees import build_batch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
# Head size 64, which the kernels of a GPU take.
SHAPE = Shape(
    hidden=256,
    intermediate=512,
    layers=3,
    heads=4,
    key_value_heads=2,
    vocabulary=5000,
    vision_hidden=64,
    vision_intermediate=128,
    vision_layers=2,
    vision_heads=2,
    side=4,
)
CASE = Case(SHAPE, root_tokens=150, response_tokens=40, recomputation="none", trees=2)


def scores_and_gradients(
    attention: str = "sdpa", recomputation: str = "none", kernels: str = "torch", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-prob sums of two packed trees, and the gradients of the sum of their squares."""
    processor = build_processor(SHAPE.side)
    model = build_model(SHAPE, processor, device=DEVICE, attention=attention, dtype=dtype).train()
    if kernels == "liger":
        from components.families.kernels import use_liger

        use_liger(model)
    set_recomputation(model, recomputation)  # type: ignore[arg-type]  # one of the three
    task = build_task(SHAPE, processor, model.config, responses=3, root_tokens=150, response_tokens=40)
    tree = task.tree
    batch = build_batch([tree, tree], 2 * tree.tokens, DEVICE, processor.tokenizer.pad_token_id)
    log_prob_K = TreeModel(model)(batch)
    assert isinstance(log_prob_K, Tensor)
    log_prob_K.square().mean().backward()
    return log_prob_K.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_near(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]], relative: float) -> None:
    """Log-probs and every gradient agree, in units of the largest value of each."""
    assert one[1].keys() == other[1].keys()
    for name, value in {"log_probs": one[0], **one[1]}.items():
        wanted = other[0] if name == "log_probs" else other[1][name]
        assert float((value - wanted).abs().max()) <= relative * float(wanted.abs().max()) + 1e-8, name


@needs_gpu
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 2e-3), (torch.bfloat16, 0.1)], ids=["fp32", "bf16"])
def test_flex_attention_has_the_gradients_of_sdpa(dtype: torch.dtype, relative: float) -> None:
    assert_near(scores_and_gradients("flex_attention", dtype=dtype), scores_and_gradients("sdpa", dtype=dtype), relative)


@pytest.mark.parametrize("recomputation", ["selective", "all"])
@pytest.mark.parametrize("attention", ["sdpa", pytest.param("flex_attention", marks=needs_gpu)])
def test_recomputation_changes_no_gradient(attention: str, recomputation: str) -> None:
    # Atomic additions in flex attention's backward may come in another order.
    assert_near(scores_and_gradients(attention, recomputation), scores_and_gradients(attention), 0.0 if DEVICE == "cpu" else 1e-4)


@needs_gpu
@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def test_liger_kernels_have_the_gradients_of_torch(attention: str) -> None:
    pytest.importorskip("liger_kernel")
    assert_near(scores_and_gradients(attention, kernels="liger"), scores_and_gradients(attention), 2e-3)


def curve(folder: Path, training: dict[str, Any]) -> list[float]:
    """Losses of four steps, and a checkpoint that is written whole. DeepSpeed's groups outlive an engine: each has a process of its own."""
    with engine(CASE, 2, "sdpa", DEVICE, precision="fp32", **training) as (loop, _, steps):
        losses: list[float] = []
        reduce = loop._reduce

        def listen(*values: Any) -> Any:
            reduced = reduce(*values)
            losses.append(reduced[0])
            return reduced

        loop._reduce = listen  # type: ignore[method-assign]
        steps(4, micros=2)
        files = CheckpointFiles()
        files.begin(folder)
        loop.backend.save(folder, files)
        assert files.take()
        return losses


def apart(folder: Path, **training: Any) -> list[float]:
    folder.mkdir()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(curve, folder, training).result()


RECOMPUTING = {"zero_stage": 3, "gradient_checkpointing": "selective"}  # backward gathers weights in another way than forward


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"zero_stage": 2}, {"zero_stage": 3}, RECOMPUTING], ids=["ZeRO-2", "ZeRO-3", "recomputing"])
def test_engines_take_the_same_steps(settings: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    losses, plain = apart(tmp_path / "deepspeed", **settings), apart(tmp_path / "ddp", engine="ddp")
    assert len(losses) == 4
    assert losses == pytest.approx(plain, rel=1e-4)


@needs_gpu
def test_bf16_takes_about_the_steps_of_fp32() -> None:
    with engine(CASE, 2, "sdpa", DEVICE, precision="bf16", engine="ddp") as (_, _, steps):
        trial = steps(3)
    assert trial.tokens == [2 * (150 + 2 * 40)] * 3
    assert trial.peak_memory_gb > 0


def test_writing_equals_generate() -> None:
    processor = build_processor(SHAPE.side)
    model = build_model(SHAPE, processor, device=DEVICE).eval()
    task = build_task(SHAPE, processor, model.config, responses=3, root_tokens=150, response_tokens=20)
    suffixes = [list(task.branch(number).input_ids) for number in range(3)]
    end = processor.tokenizer.pad_token_id
    written = decode(model, [task.root] * 3, suffixes, max_new_tokens=24, batch_size=3, end_id=end)
    assert written == generate(model, [task.root] * 3, suffixes, max_new_tokens=24, batch_size=3, end_id=end)


def test_tower_output_has_the_same_bits_under_either_attention() -> None:
    processor = build_processor(SHAPE.side)
    outputs = []
    for attention in ("sdpa", "flex_attention"):
        model = build_model(SHAPE, processor, device=DEVICE, attention=attention).eval()
        task = build_task(SHAPE, processor, model.config, responses=2, root_tokens=150, response_tokens=20)
        outputs.append(run_vision_tower(model, task.root.media[0], torch.float32, 1))
    assert all(torch.equal(one, other) for one, other in zip(*outputs, strict=True))


def test_files_hold_device_memory_at_its_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.engine import checkpoint_files

    monkeypatch.setattr(checkpoint_files, "SMALL_BYTES", 0)
    weight = torch.arange(1 << 20, dtype=torch.float32, device=DEVICE)
    files = CheckpointFiles()
    files.begin(tmp_path)
    files.write({"weight": weight}, tmp_path / "weights.pt")
    weight.zero_()
    files.take()
    assert torch.equal(torch.load(tmp_path / "weights.pt", weights_only=True)["weight"], torch.arange(1 << 20, dtype=torch.float32))


@needs_gpu
def test_deterministic_kernels_give_the_same_bits() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        one, other = scores_and_gradients(), scores_and_gradients()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(one[0], other[0])
    assert all(torch.equal(value, other[1][name]) for name, value in one[1].items())


@needs_gpu
def test_recomputation_lowers_the_peak() -> None:
    peaks = {}
    for recomputation in ("none", "selective", "all"):
        torch.cuda.reset_peak_memory_stats()
        case = replace(CASE, root_tokens=2000, recomputation=recomputation)
        with engine(case, 4, "sdpa", DEVICE, precision="bf16", engine="ddp") as (_, _, steps):
            peaks[recomputation] = steps(2).peak_memory_gb
    assert peaks["all"] < peaks["selective"] < peaks["none"]
