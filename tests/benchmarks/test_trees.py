"""The benchmark of trees at minute sizes: its sides compute the same loss, and a differing side ends it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _tree_steps, trees

SIZES = _tree_steps.SMALL_CASES["k4"]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return trees.run(small=True, threads=1, rounds=2)


@pytest.mark.slow
def test_report_has_all_keys(report: dict[str, Any]) -> None:
    ratios = ("vs_pairwise", "vs_trl", "vs_trl_stored", "vs_trl_k2", "vs_trl_k5", "vs_trl_stored_k5")
    assert all(report[f"speedup_{name}"] > 0 for name in ratios)
    assert report["memory_ratio_vs_trl"] is None, "minute sizes take no memory beside the imports"
    assert report["speedup_vs_trl"] == report["k4"]["seconds"]["trl"] / report["k4"]["seconds"]["tree"]
    assert report["k4"]["seconds"].keys() == {"tree", "tree_stored", "tree_cached", "responses_once", "pairwise", "trl"}
    assert report["k4"]["trl_batch"] in report["k4"]["trl_tried_seconds"]
    assert {len(runs) for runs in report["k5"]["runs"].values()} == {2}


@pytest.mark.slow
def test_all_sides_compute_one_loss_and_one_gradient(report: dict[str, Any]) -> None:
    assert report["max_rel_grad_error"] <= 5e-5
    for case in (report["k4"], report["k5"]):
        losses = list(case["losses"].values())
        assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)
        assert all(error <= 5e-5 for error in case["rel_grad_error"].values())


@pytest.mark.slow
def test_parts_multiply_to_the_whole(report: dict[str, Any]) -> None:
    parts = {name: report["decomposition"][name] for name in trees.DECOMPOSITION}
    seconds = report["k4"]["seconds"]
    assert math.prod(parts.values()) == pytest.approx(seconds["trl"] / seconds["tree_cached"])
    # The arithmetic of each part: a response in three pairs; a root and four responses; four passes for three; no image.
    expected = report["operation_ratios"]
    assert expected["responses once"] == pytest.approx(3, rel=0.05)
    assert expected["shared root"] > 1.5
    assert expected["stored reference"] == pytest.approx(4 / 3, rel=0.1)
    assert expected["cached vision tower"] > 1


@pytest.mark.slow
def test_reported_lengths_are_exact(report: dict[str, Any]) -> None:
    assert report["k4"]["tree_tokens"] == SIZES.root_tokens + SIZES.responses * SIZES.response_tokens
    assert report["k4"]["pair_tokens"] == 12 * (SIZES.root_tokens + SIZES.response_tokens)


def test_update_does_not_move_weights(tmp_path: Path) -> None:
    steps = _tree_steps.Steps(SIZES, tmp_path)
    before = {name: value.clone() for name, value in steps.policy.state_dict().items()}
    steps.step(steps.by_tree)()
    assert all(value.equal(before[name]) for name, value in steps.policy.state_dict().items())
    assert steps.optimizer.state


def test_differing_side_ends_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tree_steps, "BETA", 0.2)
    monkeypatch.setattr(_tree_steps.Steps, "by_stored_tree", lambda self: self.by_tree(self.stored_K + 1.0 * self.stored_K.argsort()))
    with pytest.raises(SystemExit, match="different losses"):
        trees.measure(SIZES, 2, ["tree", "tree_stored"])


def test_statistics_equal_those_that_trl_logs(tmp_path: Path) -> None:
    steps = _tree_steps.Steps(SIZES, tmp_path)
    steps.by_trl_together()
    logged = {name: sum(values) / len(values) for name, values in steps.trl.trainer._metrics["train"].items() if isinstance(values, list)}
    ours = {
        "rewards/chosen": "rewards/chosen",
        "rewards/rejected": "rewards/rejected",
        "rewards/margins": "rewards/margin",
        "rewards/accuracies": "rewards/accuracy",
        "logps/chosen": "log_probs/chosen",
        "logps/rejected": "log_probs/rejected",
        "logits/chosen": "logits/chosen",
        "logits/rejected": "logits/rejected",
        "mean_token_accuracy": "token_accuracy/chosen",
    }
    for side in (steps.by_tree, steps.by_response):
        side()
        statistics = steps.statistics
        assert {theirs: logged[theirs] for theirs in ours} == pytest.approx(
            {theirs: statistics[name] for theirs, name in ours.items()}, rel=1e-4, abs=1e-5
        )
        both = (statistics["entropy/chosen"] + statistics["entropy/rejected"]) / 2
        assert logged["entropy"] == pytest.approx(both, rel=1e-4)
