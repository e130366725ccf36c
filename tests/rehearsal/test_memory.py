from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.checkout import Checkout
from components.rehearsal import memory
from components.rehearsal.architectures import PUBLISHED
from components.rehearsal.parameters import architecture
from tests.checkout import ROOT
from tests.rehearsal.tiny import settings

SEVEN_B = architecture(PUBLISHED["Qwen2.5-VL-7B-Instruct"])
P = 8_292_166_656
VISION = 631_975_680
WITHIN = (0.7, 1.4)  # of the measured peak


def seven_b(**training: Any) -> memory.Footprint:
    changed = settings(
        training={"precision": "bf16", "ranks": 8, "zero_stage": 3, "batch_rows": 1, **training}, model={"attention": "flex_attention"}
    )
    return memory.training(SEVEN_B, changed, Checkout(ROOT), "gpu", stage="align", patches=0)


def test_zero_3_splits_all_state_over_ranks() -> None:
    used = seven_b().device
    trained = P - VISION
    assert used["weights"] == P * 2 // 8
    assert used["optimiser"] == trained * 12 // 8
    assert used["gradients"] == trained * 2 // 8 + 50_000_000 * 2
    assert used["gathered"] == 1_000_000_000 * 2


def test_zero_2_and_1_replicate_weights_and_gradients() -> None:
    two, one = seven_b(zero_stage=2).device, seven_b(zero_stage=1).device
    trained = P - VISION
    assert two["weights"] == one["weights"] == P * 2
    assert two["gradients"] == trained * 2 // 8 + 100_000_000
    assert one["gradients"] == trained * 2 + 100_000_000
    assert two["optimiser"] == one["optimiser"] == trained * 12 // 8
    assert "gathered" not in two


def test_offload_moves_state_then_weights_to_host() -> None:
    near, optimizer, everything = seven_b(), seven_b(offload="optimizer"), seven_b(offload="all")
    assert optimizer.host["optimiser"] == near.device["optimiser"]
    assert "optimiser" not in optimizer.device
    assert optimizer.device["weights"] == near.device["weights"]
    assert everything.host["weights"] == near.device["weights"]
    assert "weights" not in everything.device


def test_ddp_has_all_state_in_fp32_on_every_rank() -> None:
    used = seven_b(engine="ddp", precision="fp32").device
    assert used["weights"] == P * 4
    assert used["gradients"] == (P - VISION) * 8  # with DDP's buckets
    assert used["optimiser"] == (P - VISION) * 8


def test_lora_trains_adapters_and_projector_only() -> None:
    changed = settings(model={"lora": {"rank": 8}}, training={"ranks": 1, "engine": "ddp"})
    # Inputs and outputs of q, k, v, o, gate, up and down at 3584 hidden, 512 for keys and values, 18944 inside.
    adapters = 8 * 28 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944))
    assert memory.trained_parameters(SEVEN_B, changed) == adapters + SEVEN_B.parts["projector"]


def test_score_head_is_in_reward_stage_only() -> None:
    changed = settings()
    align, reward = (memory.training(SEVEN_B, changed, Checkout(ROOT), "cpu", stage=stage, patches=0) for stage in ("align", "reward"))
    assert reward.device["weights"] - align.device["weights"] == 4 * (3584 * 3584 + 3584 + 3584 + 1)


def test_additive_mask_grows_with_square_of_row() -> None:
    def activations(attention: str, tokens: int) -> int:
        changed = settings(model={"attention": attention, "max_length": 512}, training={"row_tokens": tokens, "batch_rows": 1})
        return memory.decoder_activations(SEVEN_B, changed, patches=0)

    assert activations("sdpa", 8192) - 2 * activations("sdpa", 4096) == 4 * (8192**2 - 2 * 4096**2)
    assert activations("flex_attention", 8192) == 2 * activations("flex_attention", 4096)


def test_checkpointing_stores_inputs_and_one_layer() -> None:
    changed = settings(
        training={"gradient_checkpointing": "all", "batch_rows": 1, "row_tokens": 512}, model={"attention": "flex_attention"}
    )
    tokens = 512
    assert memory.decoder_activations(SEVEN_B, changed, patches=0) == tokens * (28 * 3584 * 4 + memory.layer_bytes(SEVEN_B, changed))


def test_checkpoint_stores_each_state_once_over_ranks() -> None:
    assert seven_b().disk["checkpoints"] == 3 * ((P - VISION) * 12 + P * 2)
    assert seven_b(ranks=4).disk == seven_b().disk


def test_features_count_every_tapped_layer() -> None:
    qwen3 = architecture(PUBLISHED["Qwen3-VL-8B-Instruct"])
    assert memory.feature_bytes(qwen3, settings(features={"dtype": "bf16"}), 1000) == 1000 * 4 * 1152 * 2


def test_rows_fit_share_of_step_a_rank() -> None:
    changed = settings(training={"ranks": 8, "batch_rows": 8}, alignment={"queries_per_step": 16}, reward={"queries_per_step": 16})
    assert memory.rows_of(changed) == (2, 512)


def test_constants_of_passes_equal_those_in_use() -> None:
    from components.generation import continuation
    from components.reward import scoring
    from components.trees import logprobs
    from components.trees import scoring as policy_scoring

    assert (memory.SCORING_ROW_TOKENS, memory.SCORING_ROWS) == (scoring.SCORING_ROW_TOKENS, scoring.SCORING_ROWS)
    assert policy_scoring.SCORING_ROWS == memory.SCORING_ROWS
    assert (memory.PASS_SLOTS, memory.MASK_VALUES) == (policy_scoring.PASS_SLOTS, continuation.MASK_VALUES)
    for vocabulary in (762, 20_000, 151_936, 600_000):
        assert memory.chunk_tokens(vocabulary) == logprobs.chunk_tokens(vocabulary)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["none", "selective", "all"])
def test_estimate_is_near_measured_peak(tmp_path: Path, checkpointing: str) -> None:
    text = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 2}
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    config = {
        "model_type": "llava_onevision",
        "text_config": {**text, "vocab_size": 20_000},
        "vision_config": {**vision, "vision_use_head": False},
        "tie_word_embeddings": False,
    }
    changed = settings(training={"engine": "ddp", "ranks": 1, "gradient_checkpointing": checkpointing})
    file = tmp_path / "measured.yaml"
    file.write_text(yaml.safe_dump({"settings": changed.model_dump(mode="json", by_alias=True), "config": config}))
    # Freed memory goes back at once, so that the process's peak is that of its tensors.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.rehearsal.measured", str(file)]
    measured = json.loads(
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    )
    used = memory.training(architecture(config), changed, Checkout(ROOT), measured["device"], stage="align", patches=0)
    estimate = sum(bytes_ for name, bytes_ in used.device.items() if name != "framework")
    low, high = WITHIN
    assert low * measured["bytes"] < estimate < high * measured["bytes"]
