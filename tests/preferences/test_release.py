import re
from dataclasses import replace
from typing import Any

import pytest

from components.preferences.faults import RowError
from components.preferences.record import Medium, Query, Response
from components.preferences.release import infer_category, query_from_row, row_from_query


def row(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "id": "ai2d_azuregpt_4569_175031",
        "question": "What is shown?",
        "answer": "A water cycle.",
        "image": "long/ai2d_azuregpt_4569.png",
        "video": "",
        "models_output": ["A cycle of water.", "A car.", "A cycle."],
        "faithfulness": [5, 1, 4],
        "helpfulness": [5, 1, None],
        "ethical": [5, 5, 5],
        "final_ranking": [1, 3, 2],
        "score_reasons": ["Right.", "Wrong answer", ""],
        "ranking_reason": "The first says most.",
    }
    return {key: value for key, value in (values | changes).items() if value is not ...}


def test_release_row_becomes_query() -> None:
    assert query_from_row(row()) == Query.single(
        "ai2d_azuregpt_4569_175031",
        "long",
        "What is shown?",
        (
            Response("A cycle of water.", 1, 5.0, 5.0, 5.0, "Right.", "human"),
            Response("A car.", 3, 1.0, 1.0, 5.0, "Wrong answer", "human"),
            Response("A cycle.", 2, 4.0, None, 5.0),
        ),
        Medium("long/ai2d_azuregpt_4569.png", "image"),
        reference_answer="A water cycle.",
        ranking_reason="The first says most.",
    )


@pytest.mark.parametrize(
    "query",
    [
        query_from_row(row()),
        query_from_row(row(image="", video="video/clip", safety="harmless", category="safety")),
        query_from_row(row(group="conversation 7", clusters={"wording": "what is shown", "picture": "a"})),
        query_from_row(row(image=None, video=None, answer=None, final_ranking=[1, 1, 3], score_reasons=None, ranking_reason=None)),
        replace(
            query_from_row(row()), source="VLGuard", responses=(Response("a", 1, critique="b", critique_source="gpt-4o"), Response("c", 2))
        ),
    ],
)
def test_rows_go_out_and_come_back_same(query: Query) -> None:
    assert query_from_row(row_from_query(query)) == query


def test_exported_rows_have_every_field_of_release() -> None:
    assert row().keys() <= row_from_query(query_from_row(row())).keys()


@pytest.mark.parametrize(
    "changes",
    [
        {"faithfulness": None, "helpfulness": ..., "ethical": ""},
        {"faithfulness": [None, None, None], "helpfulness": ["", "", ""], "ethical": []},
    ],
)
def test_scores_may_be_missing(changes: dict[str, Any]) -> None:
    responses = query_from_row(row(**changes)).responses
    assert {(item.faithfulness, item.helpfulness, item.ethics) for item in responses} == {(None, None, None)}


def test_scores_may_be_text_and_go_by_either_name_of_ethics() -> None:
    query = query_from_row(row(ethical=..., ethics=["5", "4.5", 1]))
    assert [response.ethics for response in query.responses] == [5.0, 4.5, 1.0]


@pytest.mark.parametrize("nothing", ["", None, [], ...])
def test_row_without_media_is_text_only(nothing: Any) -> None:
    query = query_from_row(row(image=nothing, video=nothing))
    assert query.media == ()


@pytest.mark.parametrize(
    ("question", "media"), [("<image>\nWhat?", {}), ("<video>\nWhat?", {"image": "", "video": "video/clip"}), ("<image> What?", {})]
)
def test_leading_placeholder_is_taken_off(question: str, media: dict[str, str]) -> None:
    assert query_from_row(row(question=question, **media)).prompt == "What?"


def test_placeholder_without_medium_is_refused() -> None:
    with pytest.raises(RowError, match="names no image"):
        query_from_row(row(question="<image>\nWhat?", image=""))


@pytest.mark.parametrize(
    ("changes", "category"),
    [
        ({"category": "mcq"}, "mcq"),
        ({"image": "safety/x.png"}, "safety"),
        ({"image": "", "video": "video/clip"}, "video"),
        ({"image": "pictures/x.png"}, "short"),
        ({"image": "", "video": "clips/x"}, "video"),
        ({"image": "pictures/x.png", "answer": "x" * 129}, "long"),
        ({"image": "pictures/x.png", "answer": "x" * 128}, "short"),
        ({"image": "pictures/x.png", "answer": "", "models_output": ["short", "x" * 300, "y"], "final_ranking": [2, 1, 3]}, "long"),
        ({"image": "pictures/x.png", "question": "Which?\nA. one\nB. two"}, "mcq"),
        ({"image": "pictures/x.png", "question": "Which? (A) one (B) two"}, "mcq"),
        ({"image": "pictures/x.png", "safety": "harmful"}, "safety"),
        ({"image": "pictures/x.png", "category": ""}, "short"),
    ],
)
def test_category_comes_from_field_folder_or_text(changes: dict[str, Any], category: str) -> None:
    assert query_from_row(row(**changes)).category == category


def test_one_option_makes_no_multiple_choice() -> None:
    assert infer_category("Vitamin\nA. is it healthy?", "Yes", ["image"]) == "short"


@pytest.mark.parametrize(
    ("changes", "kind", "field"),
    [
        ({"id": ...}, "missing_field", "id"),
        ({"id": ""}, "missing_field", "id"),
        ({"id": 7.5}, "type", "id"),
        ({"id": True}, "type", "id"),
        ({"id": "a\u200bb"}, "id", "id"),
        ({"id": "a\x00"}, "id", "id"),
        ({"id": " a"}, "id", "id"),
        ({"id": "x" * 600}, "id", "id"),
        ({"question": ...}, "missing_field", "question"),
        ({"question": ["a"]}, "type", "question"),
        ({"question": " \n"}, "empty_prompt", "question"),
        ({"question": "<image>\n"}, "empty_prompt", "question"),
        ({"answer": True}, "type", "answer"),
        ({"answer": ["red", {}]}, "type", "answer"),
        ({"image": 5}, "type", "image"),
        ({"image": ["a.png", ""]}, "media_path", "image"),
        ({"video": ["a", 5]}, "type", "video"),
        ({"models_output": ...}, "missing_field", "models_output"),
        ({"models_output": "one answer"}, "type", "models_output"),
        ({"models_output": ["a", None, "c"]}, "type", "models_output[1]"),
        ({"faithfulness": [5, 1]}, "length", "faithfulness"),
        ({"faithfulness": 5}, "type", "faithfulness"),
        ({"faithfulness": [5, 1, 99]}, "score", "faithfulness[2]"),
        ({"helpfulness": [0, 1, 2]}, "score", "helpfulness[0]"),
        ({"ethical": [5, True, 2]}, "type", "ethical[1]"),
        ({"ethical": [5, "good", 2]}, "type", "ethical[1]"),
        ({"ethical": [5, "nan", 2]}, "type", "ethical[1]"),
        ({"score_reasons": ["a"]}, "length", "score_reasons"),
        ({"score_reasons": "a"}, "type", "score_reasons"),
        ({"score_reasons": ["a", 1, "b"]}, "type", "score_reasons[1]"),
        ({"final_ranking": [1, 2]}, "length", "final_ranking"),
        ({"final_ranking": [1, 5, 9]}, "ranking", "final_ranking"),
        ({"safety": "maybe"}, "safety", "safety"),
        ({"safety": True}, "type", "safety"),
        ({"category": "shorts"}, "category", "category"),
    ],
)
def test_bad_row_names_its_field(changes: dict[str, Any], kind: str, field: str) -> None:
    with pytest.raises(RowError) as caught:
        query_from_row(row(**changes))
    assert (caught.value.kind, caught.value.field) == (kind, field)


def test_group_may_be_number_and_clusters_object_of_texts() -> None:
    query = query_from_row(row(group=7, clusters={"wording": "w", "picture": "p", "empty": ""}))
    assert (query.group, query.clusters) == ("7", {"picture": "p", "wording": "w"})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"group": ["a"]}, "group: is list, not text"),
        ({"clusters": ["a"]}, "clusters: is list, not an object of texts"),
        ({"clusters": {"picture": 1}}, "clusters: is int, not text under 'picture'"),
    ],
)
def test_group_or_clusters_of_wrong_type_are_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(RowError, match=re.escape(fault)):
        query_from_row(row(**changes))
