"""Rows of the three benchmarks, as their own pages give them."""

from __future__ import annotations

from typing import Any

import pytest

from components.benches.reward_rows import mm_rewardbench, mm_rlhf, vl_rewardbench
from components.preferences.faults import RowError
from components.preferences.formats.pieces import Medium

RELEASE = {
    "id": "ai2d_1",
    "image": "images/mcq/ai2d_1.png",
    "prompt": "Which?\nA. one\nB. two",
    "chosen": "B",
    "rejected": "A",
    "chosen_reason": "Right.",
    "rejected_reason": "Wrong.",
}
VL = {"id": "RLAIF-V-12", "query": "What is it?", "response": ["a cat", "a dog"], "human_ranking": [1, 0], "image": "a.png"}
META = {"ID": "pairs_3", "Text": "Who?", "Image": "i/a.png", "Output1": "x", "Output2": "y", "Better": "Output2", "Category": "safety"}


def test_release_row_is_read_whole() -> None:
    row = mm_rlhf(RELEASE)
    assert row[:4] == ("ai2d_1", "mcq", RELEASE["prompt"], (Medium("image", "images/mcq/ai2d_1.png"),))
    assert row[4:] == ("B", "A", "Right.", "Wrong.", None)


@pytest.mark.parametrize(
    ("path", "category"),
    [("long/x.png", "long"), ("x/short_safety.png", "short"), ("safety/video.png", "safety"), ("mcq-long/x.png", "mcq")],
)
def test_category_is_the_first_in_the_path(path: str, category: str) -> None:
    assert mm_rlhf({**RELEASE, "image": path}).category == category


def test_category_without_a_path_follows_from_the_row() -> None:
    assert mm_rlhf({**RELEASE, "image": "x.png"}).category == "mcq"
    assert mm_rlhf({**RELEASE, "image": "", "video": "clips/1"}).media == (Medium("video", "clips/1"),)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("wildvision-1", "general"),
        ("VLFeedback_2", "general"),
        ("RLHF-V-3", "hallucination"),
        ("RLAIF-V-4", "hallucination"),
        ("hallucination_5", "hallucination"),
        ("mathverse_6", "reasoning"),
        ("mmmu_pro_7", "reasoning"),
    ],
)
def test_group_of_vl_rewardbench_follows_from_the_id(name: str, group: str) -> None:
    assert vl_rewardbench({**VL, "id": name}).category == group


def test_rank_zero_is_the_better_response() -> None:
    assert vl_rewardbench(VL)[4:6] == ("a dog", "a cat")
    assert vl_rewardbench({**VL, "human_ranking": [0, 1]})[4:6] == ("a cat", "a dog")


@pytest.mark.parametrize(
    ("changes", "category"),
    [
        ({}, "safety/bias"),
        ({"ID": "toxic_1"}, "safety/toxicity"),
        ({"ID": "math_1", "Category": "reasoning"}, "reasoning/math"),
        ({"ID": "emma_1", "Category": "reasoning"}, "reasoning/coding"),
        ({"Category": "vqa"}, "vqa"),
    ],
)
def test_categories_of_multimodal_rewardbench(changes: dict[str, str], category: str) -> None:
    row = mm_rewardbench({**META, **changes})
    assert (row.category, row.chosen, row.rejected) == (category, "y", "x")


@pytest.mark.parametrize(
    ("read", "row", "reason"),
    [
        (mm_rlhf, {**RELEASE, "id": None}, "id: is missing"),
        (mm_rlhf, {**RELEASE, "chosen": 3}, "chosen: is int, not text"),
        (vl_rewardbench, {**VL, "human_ranking": [0, 0]}, r"human_ranking: '\[0, 0\]' is neither|human_ranking: \[0, 0\] is neither"),
        (vl_rewardbench, {**VL, "response": ["a"]}, "a list of two texts"),
        (mm_rewardbench, {**META, "Better": "A"}, "is neither Output1 nor Output2"),
        (mm_rewardbench, {**META, "Better": ["Output1"]}, "is neither Output1 nor Output2"),
    ],
)
def test_faulty_row_names_its_field(read: Any, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        read(row)
