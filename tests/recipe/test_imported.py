"""Each format's three samples come in by the one command, are trained on for two steps, and go out as the same pairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks._slice import Slice, copy_media, read_rows, write_rows
from components.checkout import Checkout
from components.preferences.exporting import FILES, OTHER_FILE, export_preferences
from components.preferences.formats.detection import FORMATS
from tests.checkout import ROOT
from tests.preferences.conftest import save_media, write_lines
from tests.preferences.formats.samples import SAMPLES
from tests.preferences.test_exporting import pairs_of
from tests.recipe.conftest import make_recipe

QUERIES = 24
# Some samples have turns or few answers; what of them trains is validation's to say.
SETTINGS = {
    "reward": {"max_steps": 2, "least_annotated_share": 0.001},  # a few samples of some formats have critiques
    "training": {"checkpoint_every": "2 steps"},
    "validate": {"max_quarantined_share": 0.5, "heldout_share": 0.3},
}


def some_queries(folder: Path) -> Path:
    """Bundled queries in another checkout's folder, single pairs of which every format can hold."""
    rows = [row for row in read_rows(ROOT / "data/preferences/data.jsonl") if row["image"]]
    rows = rows[:: len(rows) // QUERIES][:QUERIES]
    write_rows(folder / "data/preferences/data.jsonl", [two_answers(row) for row in rows])
    copy_media(folder / "data", rows)
    return folder


def two_answers(row: dict[str, object]) -> dict[str, object]:
    """The row with its best and its worst answer, scored in their order."""
    texts, ranks = row["models_output"], row["final_ranking"]
    assert isinstance(texts, list)
    assert isinstance(ranks, list)
    best, worst = texts[ranks.index(min(ranks))], texts[ranks.index(max(ranks))]
    scores = {name: [5, 2] for name in ("faithfulness", "helpfulness", "ethical")}
    row = {name: value for name, value in row.items() if name != "critique_source"}  # has an entry a response
    return row | scores | {"models_output": [best, worst], "final_ranking": [1, 2], "score_reasons": ["Right.", "Wrong."]}


def run(made: Slice, *arguments: str) -> str:
    completed = made.mmalign(*arguments)
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    return completed.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_imported_samples_train_and_go_out_same(name: str, base: Path, tmp_path: Path) -> None:
    made = make_recipe(tmp_path, base, lambda _: None, SETTINGS)
    theirs = tmp_path / "theirs"
    save_media(theirs)
    more = tmp_path / "more"
    export_preferences(Checkout(some_queries(tmp_path / "bundled")), name, more)
    for number, rows in enumerate(SAMPLES[name]):
        path = write_lines(theirs / f"{number}.jsonl", rows)
        report = json.loads(run(made, "data", "import", str(path), "--append", "--json"))
        assert (report["format"], report["refused"]) == (name, {})
    out = tmp_path / "out"
    run(made, "data", "export", "--format", name, "--out", str(out))
    file = FILES.get(name, OTHER_FILE)
    expected = {pair for number in range(3) for pair in pairs_of(name, SAMPLES[name][number], theirs)}
    assert pairs_of(name, read_rows(out / file), out) == expected
    named = ["--format", name] if name in {"mm_rlhf_pairs", "trl"} else []
    assert json.loads(run(made, "data", "import", str(more / file), "--append", "--json", *named))["queries"] == QUERIES
    for stage in ("validate", "reward"):
        run(made, "stage", stage)
    metrics = json.loads((made.root / "artifacts/reward/metrics.json").read_text())
    assert metrics["steps"] == 2
    assert (made.root / "artifacts/reward/model/config.json").is_file()
    shutil.rmtree(made.root)
