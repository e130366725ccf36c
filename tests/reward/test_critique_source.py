"""What `reward.critique_source: auto` chooses, what rows can't feed, and the counts that decide."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.config.reward import RewardSettings
from components.config.settings import load_settings
from components.errors import UserError
from components.preferences.record import Query, Response, write_queries
from components.preferences.release import query_from_row
from components.reward.critique_source import (
    Annotation,
    annotation_of_row,
    annotation_of_rows,
    choose_source,
    described,
    unfed,
    validated_annotation,
)
from tests.conftest import ROOT
from tests.tiny import queries


def reward(**changes: Any) -> RewardSettings:
    return load_settings(ROOT / "params.yaml").reward.model_copy(update=changes)


def test_shipped_setting_is_auto_with_half_of_the_responses() -> None:
    assert (reward().critique_source, reward().least_annotated_share) == ("auto", 0.5)


@pytest.mark.parametrize(
    ("annotation", "source"),
    [(Annotation(0, 0), "none"), (Annotation(8, 0), "none"), (Annotation(8, 4), "mixed"), (Annotation(8, 8), "mixed")],
)
def test_auto_takes_none_without_and_mixed_with_enough_critiques(annotation: Annotation, source: str) -> None:
    assert unfed(reward(), annotation) is None
    chosen = choose_source(reward(), annotation)
    assert chosen == reward(critique_source=source, least_annotated_share=0.0)
    assert choose_source(chosen, annotation) == chosen, "a choice stands"


def test_auto_between_asks_and_names_share_setting_and_choices() -> None:
    with pytest.raises(UserError) as refusal:
        choose_source(reward(), Annotation(1000, 499))
    sentence = str(refusal.value)
    assert sentence.startswith("499 of 1,000 training responses (49.9%) have a critique, fewer than reward.least_annotated_share (0.5)")
    for words in ("reward.critique_source to none", "to mixed", "reward.least_annotated_share to at most 0.4990"):
        assert words in sentence
    assert choose_source(reward(least_annotated_share=0.499), Annotation(1000, 499)).critique_source == "mixed"
    assert choose_source(reward(least_annotated_share=0.0), Annotation(1000, 1)).critique_source == "mixed"


@pytest.mark.parametrize("source", ["annotated", "mixed"])
def test_source_that_no_response_feeds_is_refused(source: str) -> None:
    with pytest.raises(
        UserError, match=f"reward.critique_source is {source}, but no training response has a critique .score_reasons.: set"
    ):
        choose_source(reward(critique_source=source), Annotation(8, 0))
    assert choose_source(reward(critique_source=source), Annotation(8, 1)).critique_source == source, "people's choice, however few"


@pytest.mark.parametrize("source", ["none", "expanded"])
def test_named_source_stands_whatever_the_rows_have(source: str) -> None:
    for annotation in (Annotation(8, 0), Annotation(8, 1), Annotation(8, 8)):
        assert choose_source(reward(critique_source=source), annotation).critique_source == source


def test_words_name_the_choice_and_the_counts() -> None:
    assert described(reward(critique_source="none"), Annotation(2000, 0)) == (
        "trained without critiques (none): it scores a response alone; 0 of 2,000 training responses have a critique"
    )
    assert described(reward(critique_source="mixed"), Annotation(4, 4)) == (
        "trained on critiques (mixed); 4 of 4 training responses have a critique"
    )


def test_table_is_counted_without_nulls_and_empty_texts(tmp_path: Path) -> None:
    responses = (Response("a", 1, critique="Right."), Response("b", 2, critique=""), Response("c", 2))
    rows = [replace(queries()[0], responses=responses), Query.single("q", "short", "?", (Response("d", 1, critique="x"), Response("e", 2)))]
    write_queries(tmp_path / "queries.parquet", rows)
    assert validated_annotation(tmp_path / "queries.parquet") == Annotation(5, 2)
    write_queries(tmp_path / "bare.parquet", [replace(rows[1], responses=(Response("d", 1), Response("e", 2)))])
    assert validated_annotation(tmp_path / "bare.parquet") == Annotation(2, 0)
    write_queries(tmp_path / "empty.parquet", [])
    assert validated_annotation(tmp_path / "empty.parquet") == Annotation(0, 0)
    assert Annotation(0, 0).share == 0


@pytest.mark.parametrize(
    ("row", "counts"),
    [
        ({"models_output": ["a", "b"], "score_reasons": ["x", "y"]}, (2, 2)),
        ({"models_output": ["a", "b"], "score_reasons": ["", " \n"]}, (2, 0)),
        ({"models_output": ["a", "b"], "score_reasons": ["x", None]}, (2, 1)),
        ({"models_output": ["a", "b", "c"]}, (3, 0)),
        ({"models_output": ["a"], "score_reasons": "x"}, (1, 0)),
        ({"models_output": ["a"], "score_reasons": [3]}, (1, 0)),
        ({"models_output": "a"}, (0, 0)),
        ({}, (0, 0)),
    ],
)
def test_row_of_a_file_is_counted_as_validation_reads_it(row: dict[str, Any], counts: tuple[int, int]) -> None:
    assert annotation_of_row(row) == Annotation(*counts)


def test_file_is_counted_past_lines_that_are_no_rows(tmp_path: Path) -> None:
    rows = [{"models_output": ["a", "b"], "score_reasons": ["x", ""]}, {"models_output": ["c"]}]
    lines = [json.dumps(rows[0]).encode(), b"{", b"[1]", b"", b"\xff\xfe{", json.dumps(rows[1]).encode()]
    (tmp_path / "data.jsonl").write_bytes(b"\n".join(lines))
    assert annotation_of_rows(tmp_path / "data.jsonl") == Annotation(3, 1)


def test_rows_of_an_array_with_a_mark_at_its_start_are_counted(tmp_path: Path) -> None:
    rows = [{"models_output": ["a", "b"], "score_reasons": ["x", ""]}, {"models_output": ["c"]}]
    (tmp_path / "data.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(rows, indent=1).encode())
    assert annotation_of_rows(tmp_path / "data.jsonl") == Annotation(3, 1)


def test_case_of_rows_without_critiques_trains_without_them(tmp_path: Path) -> None:
    folder = ROOT / "tests/cases/10-no-critiques"
    for name, split in (("data.jsonl", "train"), ("heldout.jsonl", "heldout")):
        rows = [query_from_row(json.loads(line), split) for line in (folder / name).read_text().splitlines()]  # type: ignore[arg-type]
        write_queries(tmp_path / "queries.parquet", rows)
        counted = annotation_of_rows(folder / name)
        assert validated_annotation(tmp_path / "queries.parquet") == counted == Annotation(sum(len(row.responses) for row in rows), 0)
        assert choose_source(reward(), counted).critique_source == "none"
        assert unfed(reward(critique_source="mixed"), counted) is not None
