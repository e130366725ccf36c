"""Conversations with several pictures as a server gets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.endpoints.conversations import Conversations
from components.endpoints.request import Message, Picture, Request
from components.files import digest_bytes
from components.preferences.record import Medium, Query, Response, Turn
from demo.text import CHAT_TEMPLATE
from tests.tiny import preprocessor

SQUARE, TALL = Medium("square.png", "image", "1"), Medium("tall.png", "image", "2")
TURNS = (Turn("system", ("Be brief.",)), Turn("user", ("", "Is it ", "?")), Turn("assistant", ("No.",)), Turn("user", ("And this?",)))
QUERY = Query("q", "short", TURNS, (Response("Yes.", 1), Response("No.", 2)), (SQUARE, TALL))
INSTRUCTION = "Judge."


@pytest.fixture
def conversations(tiny_base: Path, tiny_media: Path) -> Conversations:
    return Conversations(preprocessor(tiny_base, tiny_media), "weights", 1)


def test_pictures_and_turns_stand_in_their_order(conversations: Conversations) -> None:
    request = conversations.answer(QUERY, 4)
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "user"]
    first, between, second, after = request.messages[1].content
    assert (between, after) == ("Is it ", "?")
    assert isinstance(first, Picture)
    assert isinstance(second, Picture)
    assert first.digest != second.digest
    messages = request.body("m")["messages"]
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in messages[1]["content"]] == ["image_url", "text", "image_url", "text"]
    assert all(part["image_url"]["url"].startswith("data:image/png;base64,") for part in messages[1]["content"][::2])
    assert messages[2]["content"] == [{"type": "text", "text": "No."}]


def test_judge_gets_earlier_turns_before_its_question(conversations: Conversations) -> None:
    answer, judgement = conversations.answer(QUERY, 4), conversations.judgement(QUERY, "Yes.", INSTRUCTION, 4)
    assert judgement.messages[:-1] == answer.messages[:-1]
    assert judgement.messages[-1].content == ("Judge.\nQuestion: And this?\nAnswer:\nYes.",)


def test_picture_within_text_stays_here_where_template_moves_it(conversations: Conversations, tiny_base: Path, tiny_media: Path) -> None:
    assert conversations.local_reason(QUERY) is None
    moving = preprocessor(tiny_base, tiny_media)
    moving.processor.chat_template = CHAT_TEMPLATE
    served = Conversations(moving, "weights", 1)
    assert served.local_reason(QUERY) == "picture within text"
    assert served.local_reason(Query.single("q", "short", "Which?", (), SQUARE, TALL)) is None
    assert served.local_reason(Query.single("q", "short", "Which?", (), SQUARE, Medium("two", "video"))) == "video"


def test_key_of_question_stays_and_conversations_have_own() -> None:
    picture = Picture("1", str)
    assert Request.asking("What?", 8, (picture,), "Be brief.").key("m") == digest_bytes("1", "m", "", "0.0 8", "Be brief.", "What?", "1")
    contents = [(picture, "What?"), ("What?", picture), (picture, "Wh", "at?"), (picture, picture, "What?"), ("What?",)]
    keys = {Request((Message("user", content),), 8).key("m") for content in contents}
    keys |= {Request((Message(role, ("x",)), Message("user", (picture, "What?"))), 8).key("m") for role in ("system", "user", "assistant")}
    assert len(keys) == len(contents) + 3
