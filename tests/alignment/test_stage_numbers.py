"""What the stage describes, warns of, and records, number by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import stages
from components.alignment import stage
from components.alignment.betas import MarginScale
from components.alignment.pairs import PairTable
from components.alignment.reference_table import write_log_probs
from components.alignment.task import AlignmentTask
from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.critique.stage import write_judgements
from components.engine import loop
from components.engine.launch import TrainingOutcome
from components.engine.task import TrainingRank
from components.preferences.record import write_queries
from tests.conftest import ROOT
from tests.recording import Recording
from tests.tiny import queries

COUNT = 8
MARGINS = [-1.0, 0.0, 1.0, 2.0, 3.0, np.nan, 1.0, 2.0]
BETAS = [0.1, 0.1, 0.12, 0.13, 0.14, 0.1, 0.15, 0.15]
WEIGHTS = [2.0, 1.5, 1.0, 0.5, 0.5, 1.0, 0.75, 0.75]


def settings(**changes: Any) -> Settings:
    loaded = load_settings(ROOT / "params.yaml")
    return loaded.model_copy(update={"alignment": loaded.alignment.model_copy(update=changes)})


def table(**changes: Any) -> PairTable:
    values: dict[str, Any] = {
        "query": np.zeros(COUNT, dtype=np.int64),
        "winner": np.zeros(COUNT, dtype=np.int64),
        "loser": np.ones(COUNT, dtype=np.int64),
        "margin": np.array(MARGINS),
        "beta": np.array(BETAS),
        "weight": np.array(WEIGHTS),
        "scale": MarginScale(2.5, "standardized"),
        "calibration": np.array([False] * 6 + [True] * 2),
    }
    return PairTable(**{**values, **changes})


def test_description_of_drs_pairs_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = stage.describe(table(), settings())
    expected = {
        "pairs": 8,
        "pairs_without_margin": 1,
        "margin_divisor": 2.5,
        "beta.min": 0.1,
        "beta.mean": pytest.approx(sum(BETAS) / 8),
        "beta.max": 0.15,
        "beta.share_at_cap": 2 / 8,
        "beta.share_at_floor": 3 / 8,
        "margin.p25": 0.0,
        "margin.median": 1.0,
        "margin.p75": 2.0,
        "margin.mean": 1.0,
        "margin.negative": 1 / 5,
        "margin.calibration.p25": 1.25,
        "margin.calibration.median": 1.5,
        "margin.calibration.p75": 1.75,
        "margin.calibration.mean": 1.5,
        "margin.calibration.negative": 0.0,
    }
    assert {name: value for name, value in metrics.items() if "histogram" not in name} == expected
    bars = {name: value for name, value in metrics.items() if "histogram" in name}
    assert list(bars) == [f"beta.histogram.{0.1 + 0.005 * bar:.4f}" for bar in range(10)]
    assert sum(value or 0 for value in bars.values()) == 8
    assert bars["beta.histogram.0.1000"] == 3
    assert bars["beta.histogram.0.1450"] == 2
    assert capsys.readouterr().err == ""


def test_description_without_calibration_part_has_none_of_it() -> None:
    metrics = stage.describe(table(calibration=np.zeros(COUNT, dtype=bool)), settings(beta_schedule="constant"))
    assert not any("calibration" in name or "weight" in name for name in metrics)
    assert metrics["margin.median"] == 1.0
    assert metrics["beta.share_at_cap"] is None


def test_description_of_madpo_weights_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = stage.describe(table(), settings(beta_schedule="madpo"))
    squares = sum(weight**2 for weight in WEIGHTS)
    assert {name: value for name, value in metrics.items() if name.startswith("weight.") and "histogram" not in name} == {
        "weight.min": 0.5,
        "weight.mean": 1.0,
        "weight.max": 2.0,
        "weight.share_above_one": 2 / 8,
        "weight.effective_share": pytest.approx(64 / (8 * squares)),
    }
    bars = {name: value for name, value in metrics.items() if name.startswith("weight.histogram")}
    assert list(bars) == [f"weight.histogram.{0.2 * bar:.4f}" for bar in range(10)]
    assert list(bars.values()) == [0, 0, 2, 2, 0, 2, 0, 1, 0, 1]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seen", "unseen", "schedule", "warned"),
    [
        (1.5, 1.0, "drs", False),
        (1.51, 1.0, "drs", True),
        (1.51, 1.0, "madpo", True),
        (1.51, 1.0, "constant", False),
        (9.0, np.nan, "drs", False),
    ],
)
def test_overfitted_reward_model_has_margins_half_as_large_again(
    seen: float, unseen: float, schedule: str, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.describe(table(margin=np.array([seen] * 6 + [unseen] * 2)), settings(beta_schedule=schedule))
    assert ("overfitted" in capsys.readouterr().err) is warned


@pytest.mark.parametrize(
    ("betas", "warning"),
    [
        ([0.15] * 4 + [0.12] * 4, ""),
        ([0.15] * 5 + [0.12] * 3, "62% of the pairs have a beta at the cap"),
        ([0.1] * 4 + [0.12] * 4, ""),
        ([0.1] * 5 + [0.12] * 3, "62% of the pairs have a beta at the floor"),
    ],
)
def test_more_than_half_of_the_betas_at_an_end_are_warned_of(betas: list[float], warning: str, capsys: pytest.CaptureFixture[str]) -> None:
    stage.describe(table(beta=np.array(betas)), settings())
    printed = capsys.readouterr().err
    assert warning in printed
    assert bool(printed) == bool(warning)


@pytest.mark.parametrize(
    ("weights", "warning"),
    [
        ([1.0] * 8, "nearly the same weight"),
        ([2.0] * 4 + [0.0] * 4, ""),  # an effective share of a half
        ([8 / 3] * 3 + [0.0] * 5, "leave 38% of them in effect"),
        ([1.25, 0.75] * 4, ""),  # 1 / 1.0625
        ([1.05, 0.95] * 4, "nearly the same weight"),  # 1 / 1.0025
    ],
)
def test_weights_of_few_pairs_and_of_all_alike_are_warned_of(
    weights: list[float], warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.describe(table(weight=np.array(weights)), settings(beta_schedule="madpo"))
    printed = capsys.readouterr().err
    assert warning in printed
    assert bool(printed) == bool(warning)


@pytest.mark.parametrize(
    ("betas", "share", "warned"),
    [([1e-4, 1e-4, 0.1, 0.2], 0.5, False), ([1e-4, 1e-4, 1e-4, 0.2], 0.75, True), ([1.001e-4, 0.1], 0.0, False)],
)
def test_steps_at_the_least_beta_are_counted(betas: list[float], share: float, warned: bool, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = stage.step_betas([{"beta/mean": beta} for beta in betas], settings(beta_schedule="beta_dpo").alignment)
    assert metrics == {
        "beta.min": min(betas),
        "beta.mean": pytest.approx(sum(betas) / len(betas)),
        "beta.max": max(betas),
        "beta.share_of_steps_at_floor": share,
    }
    assert bool(capsys.readouterr().err) is warned


STEPS = [
    {"step": 1, "loss/preference": 0.7, "rewards/accuracy": 0.5, "beta/mean": 0.1, "beta/implicit_margin": 0.0, "beta/running_margin": 0.5},
    {"step": 2, "loss/preference": 0.5, "rewards/accuracy": 1.0, "beta/mean": 0.2, "beta/implicit_margin": 2.0, "beta/running_margin": 1.5},
]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stage called, in a checkout whose training has just ended, with a stand-in for the launcher."""
    seen: dict[str, Any] = {"root": tmp_path}
    write_queries(tmp_path / "artifacts/validate/train/queries.parquet", queries())
    write_judgements(
        tmp_path / "artifacts/critique/train.parquet",
        queries(),
        [[("", -1.5 * r.rank + 0.1 * number) for number, r in enumerate(query.responses)] for query in queries()],
    )
    write_log_probs(tmp_path / "artifacts/reference/train.parquet", queries(), [[(-10.0, 5)] * len(q.responses) for q in queries()])
    curves = tmp_path / "curves.jsonl"
    curves.write_text("".join(json.dumps(step) + "\n" for step in STEPS))

    def launch(*arguments: Any) -> TrainingOutcome:
        seen["launch"] = arguments
        (tmp_path / "artifacts/align/model").mkdir(parents=True)
        return TrainingOutcome(curves, 7.5, 2.5, 12, 4, "digest of weights", {"tokens_per_second": 99.0})

    def key(checkout: Checkout, name: str, **named: Any) -> str:
        seen["key"] = {"root": checkout.root, "stage": name, **named}
        return "digest of everything"

    policy = {(q.id, n): -9.0 if r.rank == 1 else -12.0 for q in queries() for n, r in enumerate(q.responses)}
    monkeypatch.setattr(stage, "launch", launch)
    monkeypatch.setattr(stage, "training_key", key)
    monkeypatch.setattr(stage, "final_log_probs", lambda *_: policy)
    return seen


def test_stage_trains_the_alignment_task_into_its_out(trained: dict[str, Any]) -> None:
    chosen, recorder = settings(), Recording()
    stage.run(chosen, Checkout(trained["root"]), recorder)
    function, *rest = trained["launch"]
    assert function.split(":") == ["components.alignment.stage", "train"]
    assert rest == [chosen, "align", Checkout(trained["root"]), "digest of everything", trained["root"] / "artifacts/align/model", recorder]
    assert recorder.artifacts == [trained["root"] / "curves.jsonl"]


@pytest.mark.parametrize(("cache", "features"), [(True, "fp32"), (False, "live")])
def test_checkpoints_follow_data_scores_reference_and_settings(trained: dict[str, Any], cache: bool, features: str) -> None:
    chosen = settings()
    chosen = chosen.model_copy(update={"features": chosen.features.model_copy(update={"cache": cache})})
    stage.run(chosen, Checkout(trained["root"]))
    key = trained["key"]
    assert key["root"] == trained["root"]
    sections = [section.model_dump_json() for section in (chosen.model, chosen.training, chosen.alignment)]
    assert key["settings"] == [*sections, str(chosen.reward.calibration_share), features]
    tables = [f"artifacts/{name}" for name in ("validate/train", "critique/train.parquet", "reference/train.parquet")]
    assert key["inputs"] == [*map(Path, tables), chosen.model.base, Path("infra/deepspeed")]
    assert key["stage"] == "align"


def test_record_joins_pairs_outcome_and_last_steps(trained: dict[str, Any]) -> None:
    result = stage.run(settings(), Checkout(trained["root"]))
    assert result.times == {"training_seconds": 7.5, "startup_seconds": 2.5, "resumed_from": 4, "tokens_per_second": 99.0}
    assert result.digests == {"weights": "digest of weights"}
    pairs = [(q.responses[w].rank, q.responses[l].rank) for q in queries() for w, l in q.pairs()]  # noqa: E741 - loser
    best = sum(winner == 1 for winner, _ in pairs)
    assert {name: result.metrics[name] for name in ("steps", "pairs", "loss.preference", "rewards.accuracy", "loss.sft")} == {
        "steps": 12,
        "pairs": 17,
        "loss.preference": pytest.approx(0.6),
        "rewards.accuracy": pytest.approx(0.75),
        "loss.sft": None,
    }
    assert result.metrics["log_ratio.chosen"] == pytest.approx((best * 1.0 + (17 - best) * -2.0) / 5 / 17)
    assert result.metrics["log_ratio.rejected"] == pytest.approx(-2.0 / 5)


def test_record_of_beta_dpo_holds_the_betas_of_the_steps(trained: dict[str, Any]) -> None:
    metrics = stage.run(settings(beta_schedule="beta_dpo"), Checkout(trained["root"])).metrics
    assert (metrics["beta.min"], metrics["beta.max"]) == (0.1, 0.2)
    assert metrics["beta.mean"] == pytest.approx(0.15)


def test_each_rank_runs_the_loop_on_the_alignment_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rank = TrainingRank(settings(), Checkout(tmp_path), "align", tmp_path, tmp_path / "out", 0.0)
    calls: list[tuple[Any, TrainingRank]] = []
    monkeypatch.setattr(loop, "train", lambda make_task, rank: calls.append((make_task, rank)))
    stages.load(stages.TRAINING["align"])(rank)
    assert calls == [(AlignmentTask, rank)]
