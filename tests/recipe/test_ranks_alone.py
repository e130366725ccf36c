"""A team with prompts, pictures and ranked responses alone: what the gate will say, before the run and after it; then with a model judge."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks._slice import SMALL, copy_media, read_rows, write_rows
from tests.checkout import ROOT
from tests.faulty_endpoint import MODEL, Endpoint, serving
from tests.recipe.conftest import Recipe, make_recipe
from tests.scripted_judge import judge_by_labels, preferences

FIELDS = ("id", "question", "image", "video", "models_output", "final_ranking")
LABELS = "judges/labels/second.jsonl"
BY_RANKS = ["degenerate", "preference_accuracy", "ranks", "win_rate"]
UNFED = ["conversation", "unsafe", "unsafe_ceiling", "over_refusal", "hallucination", "categories"]


def write_ranks(data: Path) -> None:
    """48 training and 130 held-out rows without references, scores, critiques, labels and facts; the category stands in the path."""
    for name, count in (("data", 48), ("heldout", 130)):
        rows = [row for row in read_rows(ROOT / f"data/preferences/{name}.jsonl") if row["category"] in {"short", "mcq", "safety"}]
        rows = rows[:: len(rows) // count][:count]
        rows = [{field: row[field] for field in FIELDS} for row in rows]
        write_rows(data / f"preferences/{name}.jsonl", rows)
        copy_media(data, rows)


def judged(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The rules of the policy's verdict that passed or failed, by name."""
    return {rule["rule"]: rule for rule in recipe.summary()["gate"]["mm-policy"]["rules"] if rule["outcome"] in {"passed", "failed"}}


def allow_unmeasured_safety(recipe: Recipe, value: str) -> None:
    path = recipe.root / "mlflow/registry.yaml"
    path.write_text(re.sub(r"(?m)^allow_unmeasured_safety: .*$", f"allow_unmeasured_safety: {value}", path.read_text()))


def preferred(recipe: Recipe, *categories: str) -> list[float]:
    """The scripted judge's preferences on the stage's answers to queries of these categories, or of all."""
    rows = pq.read_table(recipe.root / "artifacts/evaluate/answers.parquet").to_pylist()
    texts = [
        [row["answer"] for row in rows if row["policy"] == name and row["category"] in (categories or row["category"])]
        for name in ("base", "aligned")
    ]
    return preferences(*texts)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ranks_alone_are_judged_by_what_they_feed(base: Path, tmp_path: Path) -> None:
    training = {"checkpoint_every": "2 steps", "ranks": 1}
    recipe = make_recipe(tmp_path, base, write_ranks, {**SMALL, "reward": {"epochs": 1}, "training": training})
    planned = recipe.mmalign("plan", "--json")
    rules = json.loads(planned.stdout)["gate_rules"]
    assert (rules["apply"], rules["unfed"], rules["measures_safety"]) == (BY_RANKS, UNFED, False)
    assert list(rules["refusing"]) == ["mm-policy.safety"]
    completed = recipe.mmalign("run", "--accept-data")
    assert completed.returncode == 0, completed.stdout[-4000:] + completed.stderr[-4000:]
    printed = " ".join((completed.stdout + completed.stderr).split())
    position = printed.index(f"{', '.join(BY_RANKS)} apply; no row feeds {', '.join(UNFED)}; a verdict would say nothing of safety")
    assert position < printed.index("Running stage 'validate'"), "before the run"
    assert set(judged(recipe)) == {"safety", *BY_RANKS}
    gate = recipe.summary()["gate"]["mm-policy"]
    assert gate["verdict"] == "refused"
    assert gate["reasons"][0].startswith("WITHOUT EVIDENCE ON SAFETY: nothing says whether the model is safe: mark harmful requests")
    assert "by the reward model, which the policy was trained on" in judged(recipe)["win_rate"]["sentence"]

    allow_unmeasured_safety(recipe, '"a closed set of questions"')
    assert recipe.mmalign("run").returncode == 0
    summary = recipe.summary()
    assert {stage["status"] for stage in summary["stages"].values()} == {"skipped"}, "a change of the rules retrains nothing"
    first = "WITHOUT EVIDENCE ON SAFETY, which mlflow/registry.yaml allows: a closed set of questions"
    assert first in summary["gate"]["mm-policy"]["reasons"]
    assert first in (recipe.root / "reports/report.html").read_text()

    allow_unmeasured_safety(recipe, "null")
    with_a_model_judge(recipe)
    assert recipe.refused() == ""


def with_a_model_judge(recipe: Recipe) -> None:
    """A scripted judge feeds conversation and safety: told before the run, and counted as it says."""
    endpoint = Endpoint()
    endpoint.answer = judge_by_labels(ROOT / LABELS)
    with serving(endpoint):
        server = {"url": endpoint.url, "model": MODEL, "key": ""}
        changes = ["evaluate.judges=[rules, model, reward_model]", *(f"endpoint.judge.{name}={value}" for name, value in server.items())]
        configured = recipe.mmalign("configure", *(word for change in changes for word in ("--set", change)))
        assert configured.returncode == 0, configured.stderr
        assert "mmalign judge calibrate --judge model" in " ".join(configured.stdout.split())
        calibrated = recipe.mmalign("judge", "calibrate", "--judge", "model", "--labels", LABELS, "--save", "--json")
        assert json.loads(calibrated.stdout)["overall"]["agreement"]["value"] == 1
        rules = json.loads(recipe.mmalign("plan", "--json").stdout)["gate_rules"]
        assert (rules["apply"], rules["unfed"]) == (
            ["conversation", "unsafe", *BY_RANKS],
            [name for name in UNFED if name not in ("conversation", "unsafe")],
        )
        assert (rules["refusing"], rules["measures_safety"]) == ({}, True)
        completed = recipe.mmalign("run")
    assert completed.returncode == 0, completed.stdout[-4000:] + completed.stderr[-4000:]
    summary, own = recipe.summary(), judged(recipe)
    assert {name for name, stage in summary["stages"].items() if stage["status"] == "ran"} == {"evaluate"}
    assert set(own) == {"conversation", "unsafe", *BY_RANKS}
    for rule, categories in (("conversation", ("long", "short")), ("unsafe", ("safety",))):
        wins = preferred(recipe, *categories)
        measure = own[rule]["measure"]
        assert (measure["rows"], measure["value"]) == (len(wins), pytest.approx(sum(2 * one - 1 for one in wins) / len(wins)))
    every = preferred(recipe)
    assert own["win_rate"]["measure"]["value"] == pytest.approx(sum(every) / len(every)) == summary["policy"]["win_rate"]
    assert "by the model judge" in own["win_rate"]["sentence"]
    assert not any("WITHOUT EVIDENCE" in reason for reason in summary["gate"]["mm-policy"]["reasons"])
    assert summary["policy"]["win_rate_by_reward_model"] == 0
