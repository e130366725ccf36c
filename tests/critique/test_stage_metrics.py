"""The table and the metrics of the stage by hand, from judgements that lie in the cache: no model runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.critique import stage
from components.critique.stage import write_judgements
from components.critique.task import build
from components.engine.inference import Launch, Report
from components.preferences.record import Query, write_queries
from components.reward.model import RewardModel
from components.reward.scoring import Judged, score
from tests.tiny import preprocessor, queries, save_checkout

THREADS = 2
# Scores of the first two queries, whose ranks are 1 2 3 4 and 2 1: the winner's is higher in 4 of 6 pairs, and equal in the last one.
SCORES = [[2.0, 1.0, 3.0, -1.0], [0.5, 0.5]]
TEXTS = [["One two.", "", "A b c", "x"], ["y z", "Five words are in here"]]


@pytest.fixture
def checkout(tmp_path: Path, tiny_base: Path, tiny_media: Path, writer: RewardModel) -> Path:
    """A checkout with two training queries, no held-out ones, and all judgements cached."""
    settings = save_checkout(tmp_path, tiny_base, tiny_media, critique={"threads": THREADS})
    (tmp_path / "artifacts/reward").mkdir(parents=True)
    writer.save(tmp_path / "artifacts/reward/model", tiny_base)
    write_queries(tmp_path / "artifacts/validate/train/queries.parquet", queries()[:2])
    write_queries(tmp_path / "artifacts/validate/heldout/queries.parquet", [])
    train, _ = build(settings, Checkout(tmp_path))
    values = [[[text, value] for text, value in zip(*row, strict=True)] for row in zip(TEXTS, SCORES, strict=True)]
    train.store.store(dict(zip(train.keys, values, strict=True)))
    return tmp_path


def settings_of(root: Path) -> Settings:
    return load_settings(root / "params.yaml")


def test_metrics_are_those_of_the_scores_and_texts_by_hand(checkout: Path) -> None:
    result = stage.run(settings_of(checkout), Checkout(checkout))
    flat = [value for row in SCORES for value in row]
    mean = sum(flat) / 6
    assert result.metrics == {
        "train.responses": 6,
        "train.score_mean": pytest.approx(mean),
        "train.score_std": pytest.approx(math.sqrt(sum((value - mean) ** 2 for value in flat) / 6)),
        "train.pair_accuracy": pytest.approx(4 / 7),
        "train.critique_words": pytest.approx((2 + 0 + 3 + 1 + 2 + 5) / 6),
        "heldout.responses": 0,
        "heldout.score_mean": None,
        "heldout.score_std": None,
        "heldout.pair_accuracy": None,
        "heldout.critique_words": None,
    }
    assert result.times == {"train.responses_computed": 0, "heldout.responses_computed": 0}


def test_tables_hold_a_row_a_response_and_none_without_queries(checkout: Path) -> None:
    stage.run(settings_of(checkout), Checkout(checkout))
    rows = pq.read_table(checkout / "artifacts/critique/train.parquet").to_pylist()
    assert rows == [
        {"id": row.id, "response": n, "critique": TEXTS[i][n], "score": SCORES[i][n]}
        for i, row in enumerate(queries()[:2])
        for n in range(len(row.responses))
    ]
    assert pq.read_table(checkout / "artifacts/critique/heldout.parquet").num_rows == 0


def test_stage_computes_with_the_set_number_of_threads(checkout: Path) -> None:
    torch.set_num_threads(1)
    try:
        stage.run(settings_of(checkout), Checkout(checkout))
        assert torch.get_num_threads() == THREADS
    finally:
        torch.set_num_threads(1)


def test_stage_runs_both_splits_as_one_and_records_their_times(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def run_tasks(*arguments: Any) -> Report:
        calls.append(arguments)
        return Report(times={"compute_seconds": 3.5}, items=[2, 0], units=[6, 0])

    monkeypatch.setattr(stage, "run_tasks", run_tasks)
    settings = settings_of(checkout)
    result = stage.run(settings, Checkout(checkout))
    ((tasks, *rest),) = calls
    assert [len(task.queries) for task in tasks] == [2, 0]
    assert rest == [Launch("components.critique.task:build", "critique"), settings, Checkout(checkout)]
    assert result.times == {"compute_seconds": 3.5, "train.responses_computed": 6, "heldout.responses_computed": 0}


def test_judgements_without_critiques_have_scores_and_no_words(checkout: Path, tiny_base: Path, writer: RewardModel) -> None:
    RewardModel(writer.model, writer.head, "none").save(checkout / "artifacts/reward/model", tiny_base)
    train, _ = build(settings_of(checkout), Checkout(checkout))
    train.store.store(dict(zip(train.keys, [[[None, value] for value in row] for row in SCORES], strict=True)))
    result = stage.run(settings_of(checkout), Checkout(checkout))
    assert result.times["train.responses_computed"] == 0, "a model without critiques has keys of its own, which the cache has"
    assert (result.metrics["train.critique_words"], result.metrics["train.pair_accuracy"]) == (None, pytest.approx(4 / 7))
    table = pq.read_table(checkout / "artifacts/critique/train.parquet")
    assert table["critique"].to_pylist() == [None] * 6
    assert table["score"].to_pylist() == [value for row in SCORES for value in row]
    assert table.schema.field("critique").type == pa.string()


def test_stage_generates_nothing_with_a_model_without_critiques(
    checkout: Path, tiny_base: Path, writer: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = RewardModel(writer.model, writer.head, "none").eval()
    bare.save(checkout / "artifacts/reward/model", tiny_base)
    monkeypatch.setattr("components.reward.judging.continue_prompts", lambda *_, **__: pytest.fail("a text is generated"))
    settings = settings_of(checkout)
    result = stage.run(settings, Checkout(checkout))
    assert result.times["train.responses_computed"] == 6
    live = preprocessor(tiny_base, checkout / "data/preferences")
    judged = [Judged(query, response.text, None) for query in queries()[:2] for response in query.responses]
    expected = score(bare, live, judged, instruction=settings.reward.instruction)
    assert pq.read_table(checkout / "artifacts/critique/train.parquet")["score"].to_pylist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("rows", [[], queries()[2:4]])
def test_written_table_has_its_types_whatever_it_holds(tmp_path: Path, rows: list[Query]) -> None:
    path = tmp_path / "new/folder/train.parquet"
    write_judgements(path, rows, [[("", 1.5)] * len(row.responses) for row in rows])
    table = pq.read_table(path)
    assert table.schema.equals(
        pa.schema([("id", pa.string()), ("response", pa.int32()), ("critique", pa.string()), ("score", pa.float64())])
    )
    assert table["id"].to_pylist() == [row.id for row in rows for _ in row.responses]


def test_judgements_that_miss_a_query_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        write_judgements(tmp_path / "train.parquet", queries()[:2], [[("", 1.0)]])
