"""Turns and media of rows: where marks stand, what is refused, and the way back."""

from __future__ import annotations

from typing import Any

import pytest

from components.preferences.faults import RowError
from components.preferences.record import Medium, Query, Response, Turn
from components.preferences.release import query_from_row, row_from_query
from components.preferences.turns import placed, read_turns, transcript
from tests.families.conversations import RESPONSES, conversations

A, B, C = Medium("a.png", "image"), Medium("b.png", "image"), Medium("c.png", "image")
CLIP = Medium("clip", "video")


def user(*pieces: str) -> Turn:
    return Turn("user", pieces)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("What?", ("What?",)),
        ("  What?\n", ("  What?\n",)),
        ("<image>\nWhat?", ("", "What?")),
        (" <image> <image>\n\n What?", ("", "", "What?")),
        ("Look at <image> and say.", ("Look at ", " and say.")),
        ("What is it?\n<image>", ("What is it?\n", "")),
        ("What is it?\n<image>\n", ("What is it?\n", "")),
        ("<image>\nA is first. <image>\nWhich?", ("", "A is first. ", "\nWhich?")),
        ("<image>", ("", "")),
        ("< image> <IMAGE> <image_1>", ("< image> <IMAGE> <image_1>",)),
    ],
)
def test_text_is_cut_at_its_marks(text: str, pieces: tuple[str, ...]) -> None:
    assert placed(text) == (pieces, ["image"] * (len(pieces) - 1))


@pytest.mark.parametrize(
    ("row", "turns", "media"),
    [
        ({"question": "What?", "image": ["a.png", "b.png"]}, (user("", "", "What?"),), (A, B)),
        ({"question": "<image> or <image>?", "image": ["b.png", "a.png"]}, (user("", "or ", "?"),), (B, A)),
        ({"question": "<video>\nor <image>?", "image": "a.png", "video": "clip"}, (user("", "or ", "?"),), (CLIP, A)),
        ({"question": "Which?", "image": "a.png", "video": "clip"}, (user("", "", "Which?"),), (A, CLIP)),
        ({"question": "See <video>: which?", "image": "a.png", "video": "clip"}, (user("", "See ", ": which?"),), (A, CLIP)),
        (
            {
                "conversations": [
                    {"from": "human", "value": "<image>\nOne?"},
                    {"from": "gpt", "value": "Yes."},
                    {"from": "human", "value": "<image>\nTwo?"},
                ],
                "image": ["a.png", "b.png"],
            },
            (user("", "One?"), Turn("assistant", ("Yes.",)), user("", "Two?")),
            (A, B),
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "One?"},
                    {"role": "assistant", "content": "Yes."},
                    {"role": "user", "content": "Two?"},
                ],
                "question": "",
                "image": "a.png",
            },
            (Turn("system", ("Be brief.",)), user("", "One?"), Turn("assistant", ("Yes.",)), user("Two?")),
            (A,),
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "Is "}, {"type": "image"}, {"type": "text", "text": " it?"}]}
                ],
                "image": ["a.png"],
            },
            (user("Is ", " it?"),),
            (A,),
        ),
    ],
)
def test_media_stand_at_their_marks_or_first(row: dict[str, Any], turns: tuple[Turn, ...], media: tuple[Medium, ...]) -> None:
    assert read_turns(row) == (turns, media)


TWICE = [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "Yes."}, {"from": "human", "value": "Two?"}]


@pytest.mark.parametrize(
    ("row", "kind", "field", "reason"),
    [
        ({"question": "<image> and <image>", "image": "a.png"}, "media_marks", "question", "2 marks '<image>' for 1 image"),
        ({"question": "See <image>.", "image": ["a.png", "b.png"]}, "media_marks", "question", "1 mark '<image>' for 2 images"),
        ({"question": "Is <image> a tag?"}, "media_missing", "question", "the row names no image"),
        ({"question": "See <video>.", "image": "a.png"}, "media_missing", "question", "the row names no video"),
        ({"question": "What?", "conversations": TWICE}, "turns", "question", "stands beside conversations"),
        ({"conversations": TWICE[:2]}, "turns", "conversations", "ends with a turn of the assistant"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "turns", "conversations[0]", "has the role 'tool'"),
        ({"conversations": [{"value": "x"}]}, "turns", "conversations[0]", "has the role None"),
        ({"conversations": [{"from": "human", "value": 5}]}, "type", "conversations[0]", "int, not text"),
        ({"conversations": ["One?"]}, "type", "conversations[0]", "str, not an object"),
        ({"conversations": {"from": "human"}}, "type", "conversations", "dict, not a list of turns"),
        ({"conversations": [TWICE[0], {"from": "gpt", "value": " "}, TWICE[2]]}, "empty_prompt", "conversations[1]", "is empty"),
        (
            {"conversations": [TWICE[0], TWICE[1], {"from": "human", "value": "<image>"}], "image": "a.png"},
            "empty_prompt",
            "conversations",
            "ends with a turn without text",
        ),
        (
            {"conversations": [TWICE[0], {"from": "gpt", "value": "<image>"}, TWICE[2]], "image": "a.png"},
            "special_token",
            "conversations[1]",
            "<image>",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "turns", "messages[0]", "{'type': 'audio'}"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a <image>"}]}]}, "special_token", "messages[0]", "<image>"),
        ({"question": "What?", "image": ["a.png", 5]}, "type", "image", "int, not text"),
        ({"question": "What?", "image": ["a.png", ""]}, "media_path", "image", "an empty path among 2"),
    ],
)
def test_refusal_names_field_and_numbers(row: dict[str, Any], kind: str, field: str, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        read_turns(row)
    assert (caught.value.kind, caught.value.field) == (kind, field)
    assert reason in caught.value.reason


@pytest.mark.parametrize("field", ["models_output", "score_reasons"])
def test_mark_in_answer_or_reason_is_refused_for_every_base(field: str) -> None:
    row = {"id": "a", "question": "What?", "image": "a.png", "models_output": ["x", "y"], "final_ranking": [1, 2]}
    with pytest.raises(RowError, match="the mark of a medium's place") as caught:
        query_from_row(row | {field: ["fine", "see <image>"]})
    assert (caught.value.kind, caught.value.field) == ("special_token", f"{field}[1]")


AWKWARD = {
    "space behind a leading medium": Query("q", "short", (user("", " hi ", "?"),), RESPONSES, (A, B)),
    "only space between media": Query("q", "short", (user("See ", " ", " "),), RESPONSES, (A, B)),
    "videos before images": Query("q", "short", (user("", "", "Which?"),), RESPONSES, (CLIP, A)),
}


@pytest.mark.parametrize("query", [*conversations().values(), *AWKWARD.values()], ids=[*conversations(), *AWKWARD])
def test_conversations_go_out_and_come_back_same(query: Query) -> None:
    query = Query("q", "short", query.turns, query.responses, tuple(Medium(medium.path, medium.kind) for medium in query.media))
    responses = tuple(Response(r.text, r.rank, critique=r.critique, critique_source="human") for r in query.responses)
    query = Query("q", "short", query.turns, responses, query.media)
    assert query_from_row(row_from_query(query)) == query


def test_row_of_one_leading_image_has_no_list_and_no_mark() -> None:
    row = row_from_query(Query.single("q", "short", "What?", RESPONSES, A))
    assert (row["question"], row["image"], row["video"]) == ("What?", "a.png", "")
    assert "messages" not in row


def test_transcript_numbers_media_where_they_stand() -> None:
    assert transcript(Query.single("q", "short", "What?", (), A)) == "What?"
    assert transcript(Query("q", "short", (user("See ", " and ", "."),), (), (A, CLIP))) == "See [image 1] and [video 2]."
    turns = (user("", "One?"), Turn("assistant", ("Yes.",)), user("Two?"))
    assert transcript(Query("q", "short", turns, (), (A,))) == "User: [image 1]One?\n\nAssistant: Yes.\n\nUser: Two?"


def test_content_differs_with_all_that_a_model_reads() -> None:
    def content(*turns: Turn, media: tuple[Medium, ...] = (Medium("a", "image", "1"), Medium("b", "image", "2"))) -> tuple[str, ...]:
        return Query("q", "short", turns, (), media).content

    contents = [
        content(user("", "", "ab")),
        content(user("", "a", "b")),
        content(user("", "ab", "")),
        content(user("", "", "ab"), media=(Medium("a", "image", "2"), Medium("b", "image", "1"))),
        content(user("", "", "ab"), media=(Medium("a", "image", "1"), Medium("b", "video", "2"))),
        content(user("", "a"), user("", "b")),
        content(Turn("system", ("x",)), user("", "", "ab")),
    ]
    assert len(set(contents)) == len(contents)
    assert content(user("", "", "ab")) == content(user("", "", "ab"), media=(Medium("c", "image", "1"), Medium("d", "image", "2")))
    assert Query.single("q", "short", "ab", (), Medium("a", "image", "1")).content == ("ab", "image", "1")
    assert Query.single("q", "short", "ab", ()).content == ("ab", "", "")
