"""Another team's rows: no held-out file, no ground truth, no categories, other folder names, some rows without media."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks._slice import SMALL, read_rows, write_rows
from tests.checkout import ROOT
from tests.recipe.conftest import make_recipe


def write_foreign(data: Path) -> None:
    """Fifty bundled rows in another team's form."""
    rows = read_rows(ROOT / "data/preferences/data.jsonl")
    foreign = []
    for number, row in enumerate(rows[:: len(rows) // 50][:50]):
        fields = {key: row[key] for key in ("question", "models_output", "score_reasons", "video", "image")}
        medium = row["image"] or row["video"]
        if medium:
            ours = f"pictures/set {number % 3}/{Path(medium).name}"
            (data / "preferences" / ours).parent.mkdir(parents=True, exist_ok=True)
            source = ROOT / "data/preferences" / medium
            if source.is_dir():
                shutil.copytree(source, data / "preferences" / ours, dirs_exist_ok=True)
            else:
                shutil.copy(source, data / "preferences" / ours)
            fields["image" if row["image"] else "video"] = ours
        if number % 10 == 0:
            fields |= {"image": "", "video": ""}
        ranking = row["final_ranking"]
        groups: dict[int, list[str]] = {}
        for index, rank in enumerate(ranking, 1):
            groups.setdefault(rank, []).append(str(index))
        fields["final_ranking"] = ranking if number % 2 else ">".join("=".join(groups[rank]) for rank in sorted(groups))
        foreign.append({"id": number, **fields, "faithfulness": [None] * len(ranking), "helpfulness": row["helpfulness"]})
    write_rows(data / "preferences/data.jsonl", foreign)


@pytest.mark.slow
def test_foreign_rows_run_without_labels(base: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, base, write_foreign, SMALL)
    completed = recipe.mmalign("run", "--accept-data")
    assert completed.returncode == 0, completed.stdout[-4000:] + completed.stderr[-4000:]
    summary = recipe.summary()
    assert summary["status"] == "ok"
    assert summary["data"]["queries"] + summary["data"]["heldout_queries"] == 50
    assert summary["data"]["heldout_queries"] >= 5
    assert summary["data"]["quarantined"] == 0
    assert summary["policy"]["aligned"]["conversation"] is None
    assert summary["policy"]["win_rate"] is not None
    assert summary["policy"]["win_rate_by_reward_model"] == 1, "no other judge compares the answers"
    assert summary["reward"]["acc"] is not None
    assert summary["policy"]["preference_accuracy"] is not None
    assert "these metrics are null" in completed.stdout + completed.stderr
    assert recipe.refused() == ""
    second = recipe.mmalign("run")
    assert second.returncode == 0
    assert {stage["status"] for stage in recipe.summary()["stages"].values()} == {"skipped"}
