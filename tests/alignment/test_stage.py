"""What the stage says of pairs, betas and weights, and what it does with a policy that collapsed. Training itself is tested beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.alignment import stage
from components.alignment.pairs import PairTable, build_pairs, read_scores
from components.alignment.reference_table import write_log_probs
from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.critique.stage import write_judgements
from components.engine.launch import TrainingOutcome
from components.errors import StageFault
from components.preferences.record import read_queries, write_queries
from tests.conftest import ROOT
from tests.tiny import queries

STEPS = [
    {"step": 1, "beta/mean": 0.1, "beta/implicit_margin": 0.0, "beta/running_margin": 0.0, "loss/preference": 0.7},
    {"step": 2, "beta/mean": 0.15, "beta/implicit_margin": 1.0, "beta/running_margin": 0.0, "loss/preference": 0.6},
]


def settings(**changes: object) -> Settings:
    loaded = load_settings(ROOT / "params.yaml")
    return loaded.model_copy(update={"alignment": loaded.alignment.model_copy(update=changes)})


def scores(scale: float = 1.5) -> dict[tuple[str, int], float]:
    return {(query.id, number): -scale * r.rank + 0.1 * number for query in queries() for number, r in enumerate(query.responses)}


def table(recorded: dict[tuple[str, int], float], chosen: Settings, calibration: float = 0.0) -> PairTable:
    return build_pairs(queries(), recorded, chosen.alignment, calibration)


@pytest.mark.parametrize(("seed", "used"), [(None, 0), (0, 0), (7, 7)])
def test_seed_of_alignment_replaces_that_of_training(seed: int | None, used: int) -> None:
    chosen = settings(seed=seed)
    seeded = stage.seeded(chosen)
    assert seeded.training.seed == used
    assert seeded.training.model_copy(update={"seed": 0}) == chosen.training


@pytest.mark.parametrize(
    ("changes", "scale", "warning"),
    [
        ({"margins": "raw"}, 100.0, "at the cap of its range"),
        ({"margins": "raw"}, 0.15, "at the floor of its range"),
        ({"margins": "raw", "beta_weight": 0.0}, 100.0, None),
        ({"margins": "raw", "beta_schedule": "constant"}, 100.0, None),
        ({"margins": "raw", "beta_schedule": "beta_dpo"}, 100.0, None),
        ({}, 1.5, None),
        ({"beta_schedule": "madpo"}, 1.5, None),
        ({"beta_schedule": "madpo", "margins": "raw", "beta_scale": 1e-3}, 1.5, "nearly the same weight"),
    ],
)
def test_a_schedule_that_makes_no_difference_is_warned_of(
    changes: dict[str, Any], scale: float, warning: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = settings(**changes)
    stage.describe(table(scores(scale), chosen), chosen)
    printed = capsys.readouterr().err
    assert printed == "" if warning is None else warning in printed


def test_few_pairs_with_all_the_weight_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = settings(beta_schedule="madpo")
    pairs = table(scores(), chosen)
    metrics = stage.describe(PairTable(**{**vars(pairs), "weight": np.array([8.5, 8.5, *[0.0] * 15])}), chosen)
    assert metrics["weight.effective_share"] == pytest.approx(2 / 17)
    assert "leave 12% of them in effect" in capsys.readouterr().err


def test_histogram_counts_every_pair_only_where_something_varies() -> None:
    for changes, name in (({}, "beta"), ({"beta_schedule": "madpo"}, "weight")):
        metrics = stage.describe(table(scores(), settings(**changes)), settings(**changes))
        assert sum(value for key, value in metrics.items() if key.startswith(f"{name}.histogram.") and value is not None) == 17
    for changes in ({"beta_weight": 0.0}, {"beta_schedule": "constant"}):
        assert not any("histogram" in key for key in stage.describe(table(scores(), settings(**changes)), settings(**changes)))


def test_overfitted_reward_model_warns_where_its_margins_count(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = settings(margins="raw")
    pairs = table(scores(), chosen)
    seen = PairTable(**{**vars(pairs), "margin": np.where(np.arange(17) < 12, 3.0, 1.0), "calibration": np.arange(17) >= 12})
    stage.describe(seen, chosen)
    assert "overfitted" in capsys.readouterr().err
    stage.describe(seen, settings(margins="raw", beta_schedule="constant"))
    assert capsys.readouterr().err == ""


def test_betas_of_beta_dpo_are_those_of_the_steps(capsys: pytest.CaptureFixture[str]) -> None:
    alignment = settings(beta_schedule="beta_dpo").alignment
    assert stage.step_betas(STEPS, alignment) == {
        "beta.min": 0.1,
        "beta.mean": 0.125,
        "beta.max": 0.15,
        "beta.share_of_steps_at_floor": 0.0,
    }
    assert capsys.readouterr().err == ""
    assert stage.step_betas([{"beta/mean": 1e-4}] * 3, alignment)["beta.share_of_steps_at_floor"] == 1
    assert "alignment.beta_weight" in capsys.readouterr().err
    assert stage.step_betas(STEPS, settings().alignment) == {}


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose training has just ended, with a stand-in for the launcher."""
    write_queries(tmp_path / "artifacts/validate/train/queries.parquet", queries())
    judgements = [[("", -1.5 * r.rank + 0.1 * number) for number, r in enumerate(query.responses)] for query in queries()]
    write_judgements(tmp_path / "artifacts/critique/train.parquet", queries(), judgements)
    assert read_scores(tmp_path / "artifacts/critique/train.parquet")
    write_log_probs(tmp_path / "artifacts/reference/train.parquet", queries(), [[(-10.0, 5)] * len(q.responses) for q in queries()])
    curves = tmp_path / "curves.jsonl"
    curves.write_text('{"step": 1, "loss/preference": 0.69}\n')

    def launch(*_: object) -> TrainingOutcome:
        (tmp_path / "artifacts/align/model").mkdir(parents=True)
        return TrainingOutcome(curves, 1.0, 1.0, 1, 0, "digest")

    monkeypatch.setattr(stage, "launch", launch)
    monkeypatch.setattr(stage, "training_key", lambda *_, **__: "key")
    return tmp_path


def log_probs(chosen: float, rejected: float) -> dict[tuple[str, int], float]:
    return {(q.id, number): chosen if r.rank == 1 else rejected for q in queries() for number, r in enumerate(q.responses)}


def test_a_sound_policy_is_written_down_with_its_signs(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "final_log_probs", lambda *_: log_probs(-9.0, -12.0))
    result = stage.run(settings(), Checkout(trained))
    pairs = read_queries(trained / "artifacts/validate/train/queries.parquet")
    best = sum(1 for q in pairs for winner, _ in q.pairs() if q.responses[winner].rank == 1)
    assert result.metrics["pairs"] == 17
    assert result.metrics["signs.accuracy"] == pytest.approx(best / 17)
    assert (trained / "artifacts/align/pairs.parquet").is_file()


def test_a_policy_that_collapsed_leaves_no_model(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "final_log_probs", lambda *_: log_probs(-99.0, -90.0))
    with pytest.raises(StageFault, match="collapsed"):
        stage.run(settings(), Checkout(trained))
    assert not (trained / "artifacts/align/model").exists()
    assert not (trained / "artifacts/align/pairs.parquet").exists()
