"""The study of the method: its controls, its statistics by hand, and that a study goes on where it was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import alignment_effect
from benchmarks._effect_arms import CONTROL, REVERSED_SHARE, arms, is_reversed, reverse
from benchmarks._effect_statistics import detectable, paired, power, seeds_needed, spread
from components.alignment.betas import drs_beta, pair_betas
from components.config.settings import load_settings
from tests.conftest import ROOT

MARGINS = np.array([-1.0, 0.0, 1.0, 2.0, np.nan])


def settings_of(overrides: dict[str, Any]) -> Any:
    changes = {key.removeprefix("alignment."): value for key, value in overrides.items()}
    return load_settings(ROOT / "params.yaml").alignment.model_copy(update=changes)


@pytest.mark.parametrize(("arm", "weight", "scale"), [("mm_dpo", 0.5, 0.5), ("best_point", 8.0, 4.0)])
def test_control_has_the_mean_beta_of_its_arm(arm: str, weight: float, scale: float) -> None:
    named = arms(MARGINS, ROOT / "params.yaml")
    betas = [*drs_beta(MARGINS[:4], 0.1, weight, scale).tolist(), 0.1]
    assert pair_betas(MARGINS, settings_of(named[arm])) == pytest.approx(betas)
    control = pair_betas(MARGINS, settings_of(named[CONTROL[arm]]))
    assert control == pytest.approx([sum(betas) / 5] * 5, abs=1e-6)


def test_every_arm_is_a_control_or_has_one() -> None:
    named = arms(MARGINS, ROOT / "params.yaml")
    assert set(named) == set(CONTROL) | set(CONTROL.values())
    assert settings_of(named["sft"]).preference_weight == 0


def test_reversing_turns_ranks_and_leaves_texts() -> None:
    row = {"id": "a", "final_ranking": [1, 3, 2, 2], "models_output": ["w", "x", "y", "z"]}
    assert reverse(row) == {**row, "final_ranking": [3, 1, 2, 2]}


def test_share_of_reversed_queries_is_a_quarter() -> None:
    share = np.mean([is_reversed(f"query-{number}") for number in range(20_000)])
    assert share == pytest.approx(REVERSED_SHARE, abs=0.01)


def test_paired_difference_is_the_hand_calculation() -> None:
    report = paired({0: 80.0, 1: 82.0, 2: 84.0, 9: 1.0}, {0: 79.0, 1: 80.0, 2: 81.0})
    half = 4.302652729911275 * 1.0 / math.sqrt(3)  # differences 1, 2, 3; t of 2 degrees of freedom
    assert (report["seeds"], report["mean"], report["sd"]) == (3, 2.0, 1.0)
    assert (report["low"], report["high"]) == pytest.approx((2 - half, 2 + half))
    assert report["p"] == pytest.approx(0.0741799, abs=1e-6)  # t = 3.4641


@pytest.mark.parametrize("count", [0, 1])
def test_difference_of_too_few_seeds_has_no_interval(count: int) -> None:
    report = paired(dict.fromkeys(range(count), 2.0), {0: 1.0, 1: 1.0})
    assert report["mean"] == (1.0 if count else None)
    assert report["low"] is None


def test_power_is_that_of_published_tables() -> None:
    # Cohen's tables (one sample, two-sided .05, power .8): 34 at d = .5, 15 at d = .8, 10 at d = 1.
    assert [seeds_needed(1 / effect, 1.0) for effect in (0.5, 0.8, 1.0)] == [34, 15, 10]
    assert power(1.0, 2.0, 34) == pytest.approx(0.8078, abs=5e-4)
    assert power(detectable(2.0, 34), 2.0, 34) == pytest.approx(0.8)


def test_equal_arms_need_the_least_seeds() -> None:
    report = paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert (report["sd"], report["detectable"], report["seeds_for_2_points"], report["p"]) == (0.0, 0.0, 2, None)


def test_spread_of_one_seed_has_no_deviation() -> None:
    assert spread([3.0]) == {"seeds": 1, "mean": 3.0, "sd": None}


def test_study_runs_what_is_missing_seed_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "rows.jsonl"
    first = {"data": "clean", "arm": "dpo", "seed": 0, "preference_accuracy": 80.0, "conversation": 90.0, "unsafe": 1.0}
    rows.write_text(json.dumps(first) + "\n" + json.dumps({**first, "arm": "sft"}) + "\n")
    ran: list[tuple[str, float, int]] = []

    class Made:
        root = ROOT

    def trained(_: object, overrides: dict[str, Any], seed: int) -> dict[str, float]:
        ran.append(("dpo" if "alignment.beta" in overrides else "mm_dpo", overrides.get("alignment.beta", 0), seed))
        return {"preference_accuracy": 81.0 + seed, "conversation": 91.0, "unsafe": 1.0}

    monkeypatch.setattr(alignment_effect, "make_checkout", lambda *_: Made())
    monkeypatch.setattr(alignment_effect, "margins_of", lambda _: MARGINS)
    monkeypatch.setattr(alignment_effect, "run", lambda *_: None)
    monkeypatch.setattr(alignment_effect, "train", trained)
    chosen = alignment_effect.study(tmp_path, rows, ["clean"], ["mm_dpo", "dpo"], 2)
    assert [(name, seed) for name, _, seed in ran] == [("mm_dpo", 0), ("mm_dpo", 1), ("dpo", 1)]
    assert len(chosen) == 4
    report = alignment_effect.summary(chosen)
    difference = report["clean"]["preference_accuracy"]["minus_dpo"]["mm_dpo"]
    assert (difference["seeds"], difference["mean"]) == (2, 0.5)  # 81 - 80 and 82 - 82
    assert alignment_effect.primary(report) == {"preference_accuracy_clean": difference}
