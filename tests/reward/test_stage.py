"""What the stage hands to the launcher and records of its outcome. Training itself is tested beside."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components import stages
from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.engine import loop
from components.engine.launch import TrainingOutcome
from components.engine.task import TrainingRank
from components.preferences.expansions import write_expanded_table
from components.preferences.record import write_queries
from components.reward import stage
from components.reward.task import RewardTask
from tests.conftest import ROOT
from tests.recording import Recording
from tests.tiny import queries


@pytest.fixture
def settings() -> Settings:
    return load_settings(ROOT / "params.yaml")


def chosen(settings: Settings, source: str) -> Settings:
    """The settings with a source of critiques that was chosen, by a share that counts no more."""
    return settings.model_copy(
        update={"reward": settings.reward.model_copy(update={"critique_source": source, "least_annotated_share": 0.0})}
    )


def save_rows(root: Path, critiques: bool) -> None:
    rows = [
        replace(query, responses=tuple(replace(r, critique=r.critique if critiques else None) for r in query.responses))
        for query in queries()
    ]
    write_queries(Checkout(root).queries("train"), rows)


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stage called, with a stand-in for the launcher: twelve steps, of which the last ten count."""
    seen: dict[str, Any] = {}
    rows = [{"step": n, "loss/pair": float(n), "loss/critique": 2.0 * n, "accuracy": n / 12, "margin": -float(n)} for n in range(1, 13)]
    curves = tmp_path / "curves.jsonl"
    curves.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def key(checkout: Checkout, name: str, **named: Any) -> str:
        seen["key"] = {"root": checkout.root, "stage": name, **named}
        return "digest of everything"

    def launch(*arguments: Any) -> TrainingOutcome:
        seen["launch"] = arguments
        return TrainingOutcome(curves, 7.5, 2.5, 12, 4, "digest of weights", {"tokens_per_second": 99.0})

    save_rows(tmp_path, critiques=True)
    monkeypatch.setattr(stage, "training_key", key)
    monkeypatch.setattr(stage, "launch", launch)
    return seen


def test_stage_trains_the_reward_task_into_its_out(launched: dict[str, Any], settings: Settings, tmp_path: Path) -> None:
    recorder = Recording()
    stage.run(settings, Checkout(tmp_path), recorder)
    function, *rest = launched["launch"]
    assert function.split(":") == ["components.reward.stage", "train"]
    assert rest == [
        chosen(settings, "mixed"),
        "reward",
        Checkout(tmp_path),
        "digest of everything",
        tmp_path / "artifacts/reward/model",
        recorder,
    ]
    assert recorder.artifacts == [tmp_path / "curves.jsonl"]


def test_checkpoints_depend_on_settings_data_base_and_code(launched: dict[str, Any], settings: Settings, tmp_path: Path) -> None:
    stage.run(settings, Checkout(tmp_path))
    key = launched["key"]
    assert key["root"] == tmp_path
    *whole, own_critiques = key["settings"]
    assert whole == [part.model_dump_json() for part in (settings.model, settings.training, chosen(settings, "mixed").reward)]
    assert json.loads(own_critiques) == {"max_new_tokens": 64, "batch_size": 128}, "who writes critiques later retrains nothing"
    assert key["inputs"] == [Path("artifacts/validate/train"), settings.model.base, Path("infra/deepspeed")]
    assert key["stage"] == "reward"


def test_checkpoints_depend_on_expansions_where_they_are_learned(launched: dict[str, Any], settings: Settings, tmp_path: Path) -> None:
    expanded = settings.model_copy(update={"reward": settings.reward.model_copy(update={"critique_source": "expanded"})})
    write_expanded_table(Checkout(tmp_path).expanded, {})
    stage.run(settings, Checkout(tmp_path))
    assert Path("artifacts/validate/expanded.parquet") not in launched["key"]["inputs"]
    stage.run(expanded, Checkout(tmp_path))
    assert Path("artifacts/validate/expanded.parquet") in launched["key"]["inputs"]


def test_record_holds_the_means_of_the_last_ten_steps(launched: dict[str, Any], settings: Settings, tmp_path: Path) -> None:
    result = stage.run(settings, Checkout(tmp_path))
    mean = sum(range(3, 13)) / 10
    assert result.metrics == {
        "steps": 12,
        "loss.pair": mean,
        "loss.critique": 2 * mean,
        "accuracy": pytest.approx(mean / 12),
        "margin": -mean,
    }
    assert result.times == {"training_seconds": 7.5, "startup_seconds": 2.5, "resumed_from": 4, "tokens_per_second": 99.0}
    assert result.digests == {"weights": "digest of weights", "critique_source": "mixed"}
    assert launched["launch"]


def test_rows_without_critiques_train_and_key_as_none(launched: dict[str, Any], settings: Settings, tmp_path: Path) -> None:
    save_rows(tmp_path, critiques=False)
    result = stage.run(settings, Checkout(tmp_path))
    assert settings.reward.critique_source == "auto"
    assert launched["launch"][1] == chosen(settings, "none")
    assert launched["key"]["settings"][2] == chosen(settings, "none").reward.model_dump_json()
    assert result.digests["critique_source"] == "none"
    explicit = settings.model_copy(update={"reward": settings.reward.model_copy(update={"critique_source": "none"})})
    stage.run(explicit, Checkout(tmp_path))
    assert launched["key"]["settings"][2] == chosen(settings, "none").reward.model_dump_json(), "the choice is in the key, not auto"


def test_each_rank_runs_the_loop_on_the_reward_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rank = TrainingRank(load_settings(ROOT / "params.yaml"), Checkout(tmp_path), "reward", tmp_path, tmp_path / "out", 0.0)
    calls: list[tuple[Any, TrainingRank]] = []
    monkeypatch.setattr(loop, "train", lambda make_task, rank: calls.append((make_task, rank)))
    stages.load(stages.TRAINING["reward"])(rank)
    assert calls == [(RewardTask, rank)]
