"""A whole run on rows as public preference sets have them: answers and a ranking, no critiques, no scores, no facts."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks._slice import SMALL, copy_media, read_rows, write_rows
from components.files import read_json
from components.reward.recorded_source import critique_source_of
from tests.checkout import ROOT
from tests.recipe.conftest import make_recipe

FIELDS = ("id", "question", "answer", "image", "video", "models_output", "final_ranking", "category")


def write_bare(data: Path) -> None:
    """40 training and 20 held-out rows without critiques, scores and safety, and a folder of facts without facts."""
    for name, count in (("data", 40), ("heldout", 20)):
        rows = [row for row in read_rows(ROOT / f"data/preferences/{name}.jsonl") if "safety" not in row]
        rows = [{field: row[field] for field in FIELDS} for row in rows[:: len(rows) // count][:count]]
        write_rows(data / f"preferences/{name}.jsonl", rows)
        copy_media(data, rows)
    (data / "truth").mkdir()
    (data / "truth/README").write_text("Nobody has written facts down yet.\n")


@pytest.mark.slow
def test_rows_without_critiques_run_to_a_verdict(base: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, base, write_bare, {**SMALL, "training": {"checkpoint_every": "2 steps", "ranks": 2}})
    refused = recipe.mmalign("run", "--accept-data", "--set", "reward.critique_source=mixed")
    assert refused.returncode == 2
    assert "reward.critique_source is mixed, but no training response has a critique (score_reasons): set" in refused.stderr
    assert not (recipe.root / "artifacts").exists(), "nothing ran"
    completed = recipe.mmalign("run", "--accept-data")
    printed = completed.stdout + completed.stderr
    assert completed.returncode == 0, printed[-4000:]
    assert "Traceback" not in printed
    summary = recipe.summary()
    assert (summary["status"], summary["reward"]["critique_source"]) == ("ok", "none")
    assert {stage["status"] for stage in summary["stages"].values()} == {"ran"}
    assert summary["reward"]["acc"] is not None
    assert summary["reward"]["acc_no_critique"] == summary["reward"]["acc"]
    assert summary["reward"]["acc_gt_critique"] is None
    assert summary["policy"]["preference_accuracy"] is not None
    artifacts = recipe.root / "artifacts"
    assert critique_source_of(artifacts / "reward/model") == "none"
    metrics = read_json(artifacts / "reward/metrics.json")
    assert metrics["loss.critique"] is None
    assert metrics["loss.pair"] > 0
    table = pq.read_table(artifacts / "critique/train.parquet")
    assert table["critique"].null_count == len(table) > 80
    assert len(set(table["score"].to_pylist())) > 40
    reasons = {name: summary["gate"][name]["reasons"] for name in ("mm-reward", "mm-policy")}
    assert {name: summary["gate"][name]["verdict"] for name in reasons} == {"mm-reward": "refused", "mm-policy": "refused"}
    assert "the reward model was trained without critiques: it scores a response alone" in reasons["mm-reward"]
    assert reasons["mm-policy"][0].startswith("WITHOUT EVIDENCE ON SAFETY: nothing says whether the model is safe")
    for rule in ("unsafe", "unsafe_ceiling", "over_refusal", "hallucination"):
        assert any(sentence.startswith(f"{rule}: does not apply, as no held-out row has") for sentence in reasons["mm-policy"])
    lacking = {
        name: next(one for one in sentences if "rules have too few held-out rows to judge" in one) for name, sentences in reasons.items()
    }
    for words in ("mm-policy.degenerate (20 of 122)", "mm-policy.categories (at most ", "mm-policy.preference_accuracy (19 of 20 groups)"):
        assert words in lacking["mm-policy"]
    assert lacking["mm-reward"].startswith(
        "3 rules have too few held-out rows to judge: mm-reward.acc (19 of 20 groups), mm-reward.acc_plus (19 of 20 groups), mm-reward.categories"
    )
    for name, sentences in reasons.items():
        assert "switch each of them off with a reason in mlflow/registry.yaml" in lacking[name]
        assert not any("enabled: false" in sentence for sentence in sentences if sentence != lacking[name]), "one sentence names all rules"
    page = (recipe.root / "reports/report.html").read_text()
    assert "It was trained without critiques and scores a response alone." in page
    repeated = recipe.mmalign("run")
    assert repeated.returncode == 0
    assert {stage["status"] for stage in recipe.summary()["stages"].values()} == {"skipped"}
    assert recipe.summary()["reward"]["critique_source"] == "none"
