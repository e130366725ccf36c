"""The study of the reward model: its measures by hand, its arms, and that it goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import reward_effect
from benchmarks._reward_measures import accuracy, accuracy_where_wrong, chosen_share, swapped
from components.preferences.record import Medium, Query, Response, Turn

RANKS = (1, 2, 3)


def query_of(name: str, *media: Medium) -> Query:
    responses = tuple(Response(f"answer {rank}", rank) for rank in RANKS)
    return Query(name, "short", (Turn("user", (*[""] * len(media), "?")),), responses, media)


def scored(name: str, *values: float) -> dict[tuple[str, int], float]:
    return {(name, index): value for index, value in enumerate(values)}


def test_accuracy_counts_pairs_and_a_tie_is_wrong() -> None:
    queries = [query_of("a"), query_of("b")]
    scores = scored("a", 3, 2, 1) | scored("b", 1, 1, 2)  # 3 of 3, and 0 of 3
    assert accuracy(queries, scores) == 50.0


def test_accuracy_without_pairs_is_none() -> None:
    assert accuracy([], {}) is None


def test_accuracy_where_the_baseline_is_wrong_is_by_hand() -> None:
    queries = [query_of("a")]
    baseline = scored("a", 2, 2, 1)  # wrong on (0, 1) alone: a tie is wrong
    assert accuracy_where_wrong(queries, scored("a", 3, 1, 2), baseline) == 100.0
    assert accuracy_where_wrong(queries, scored("a", 1, 3, 0), baseline) == 0.0
    assert accuracy_where_wrong(queries, scored("a", 3, 2, 1), scored("a", 3, 2, 1)) is None


def test_swapped_queries_show_another_picture_of_their_kind() -> None:
    first, second = Medium("a.png", "image", "1"), Medium("b.png", "image", "2")
    same, clip = Medium("c.png", "image", "1"), Medium("d", "video", "3")
    queries = [
        query_of("a", first),
        query_of("b", second),
        query_of("c", same),
        query_of("d", clip),
        query_of("e"),
        query_of("f", first, second),
    ]
    shown = {query.id: query.media[0].path for query in swapped(queries)}
    assert shown == {"a": "b.png", "b": "c.png", "c": "b.png"}  # no other video, none without a picture, none with two


def test_choice_of_the_highest_reward_is_by_hand() -> None:
    rewards, right = [[0.1, 0.9], [0.7, 0.2], [0.3, 0.3]], [[False, True], [False, True], [True, False]]
    assert chosen_share(rewards, right) == (pytest.approx(200 / 3), 50.0)


def test_study_runs_what_is_missing_seed_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"arm": "none", "seed": 0, "own": 80.0, "given": None}) + "\n")
    ran: list[tuple[str, int]] = []

    def trained(_: object, name: str, seed: int) -> dict[str, Any]:
        ran.append((name, seed))
        return {"own": {"none": 81.0, "annotated": 84.0}[name] + seed, "given": None if name == "none" else 90.0}

    monkeypatch.setattr(reward_effect, "make_checkout", lambda *_: None)
    monkeypatch.setattr(reward_effect, "train", trained)
    chosen = reward_effect.study(tmp_path, rows, ["none", "annotated"], 2)
    assert ran == [("annotated", 0), ("none", 1), ("annotated", 1)]
    report = reward_effect.summary(chosen)
    difference = report["own"]["minus_none"]["annotated"]
    assert (difference["seeds"], difference["mean"]) == (2, 3.5)  # 84 - 80 and 85 - 82
    assert report["given"] == {"arms": {"annotated": {"seeds": 2, "mean": 90.0, "sd": 0.0}}, "minus_none": {}}
