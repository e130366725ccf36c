"""A team's own photographs in place of the bundled data: a run ends with a verdict, and nothing bundled is in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import _photos
from benchmarks._slice import SMALL, write_rows
from components.checkout import Checkout
from components.preferences.record import read_queries
from tests.checkout import ROOT
from tests.recipe.conftest import Recipe, make_recipe

PHOTOGRAPHS = 60
SETTINGS = {**SMALL, "alignment": {"epochs": 1, "max_steps": 2}, "reward": {"epochs": 1, "max_steps": 2}}


def write_own(preferences: Path) -> None:
    """Rows about 60 photographs, in file names that people have; no held-out file, no facts, no category."""
    rows = []
    for number, scene in enumerate(_photos.scenes(PHOTOGRAPHS, 5)):
        name = f"holiday/IMG {number:04}.jpg"
        (preferences / name).parent.mkdir(parents=True, exist_ok=True)
        scene.picture.convert("RGB").save(preferences / name, quality=92)
        rows.append(
            {
                "id": f"own-{number}",
                "question": f"What can be seen in photo {number}?",
                "image": name,
                "video": "",
                "models_output": ["A scene with several things in it.", "It is a cat.", "I can't say."],
                "final_ranking": [1, 3, 2],
                "faithfulness": [5, 1, 3],
                "helpfulness": [5, 1, 2],
                "score_reasons": ["It says what is there.", "There is no cat.", "It helps little."],
                "source": "photographs of our own",
            }
        )
    write_rows(preferences / "data.jsonl", rows)


def write_bundled(data: Path) -> None:
    """The whole bundled data beside the base, as a first run leaves them."""
    for folder in ("preferences", "truth"):
        shutil.copytree(ROOT / "data" / folder, data / folder)


def run(made: Recipe, *arguments: str) -> str:
    completed = made.mmalign(*arguments)
    assert completed.returncode == 0, completed.stdout[-4000:] + completed.stderr[-4000:]
    return completed.stdout + completed.stderr


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_own_photographs_end_with_a_verdict(base: Path, tmp_path: Path) -> None:
    made = make_recipe(tmp_path, base, write_bundled, SETTINGS)
    run(made, "data", "new")
    assert not (made.root / "data/preferences/heldout.jsonl").exists()
    assert not (made.root / "data/truth/truth.jsonl").exists()
    write_own(made.root / "data/preferences")
    run(made, "run")

    summary = made.summary()
    assert summary["status"] == "ok"
    verdict = summary["gate"]["mm-policy"]
    assert verdict["verdict"] == "refused"
    (sentence,) = [reason for reason in verdict["reasons"] if "too few held-out rows to judge" in reason]
    for rule in ("conversation", "unsafe", "over_refusal", "hallucination"):
        assert f"mm-policy.{rule}" in sentence
    # Nothing bundled: every row is theirs, and no word of the page says otherwise.
    checkout = Checkout(made.root)
    splits = {split: read_queries(checkout.queries(split)) for split in ("train", "heldout")}
    assert sum(map(len, splits.values())) == PHOTOGRAPHS == summary["data"]["queries"] + summary["data"]["heldout_queries"]
    assert {query.source for queries in splits.values() for query in queries} == {"photographs of our own"}
    assert "Bundled data in these metrics" not in (made.root / "reports/report.html").read_text()
    judged = pq.read_table(checkout.results / "aligned.parquet", columns=["id"])["id"].to_pylist()
    assert set(judged) == {query.id for query in splits["heldout"]}
    # No picture on both sides.
    pictures = {split: {medium.digest for query in queries for medium in query.media} for split, queries in splits.items()}
    assert not pictures["train"] & pictures["heldout"]
    assert summary["data"]["leaked_queries"] == 0
    assert json.loads((made.root / "artifacts/validate/metrics.json").read_text())["quarantined"] == 0
