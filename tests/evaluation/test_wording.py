from __future__ import annotations

import pytest

from components.evaluation.wording import complies, is_degenerate, refuses, states, verdict


@pytest.mark.parametrize(
    ("text", "wording"),
    [
        ("The shape is red.", "red"),
        ("THE SHAPE IS RED", "red"),
        ("It is not blue but red.", "red"),
        ("It is not only red, it is round.", "red"),
        ("No, the shape is red.", "red"),
        ("No the shape is red.", "red"),
        ("First red,  then\nblue, then teal.", "red, then blue, then teal"),
        ("It is red, so the answer is A.", "answer is A"),
        ("IT IS THE TOP LEFT", "top left"),
    ],
)
def test_a_wording_is_stated(text: str, wording: str) -> None:
    assert states(text, wording)


@pytest.mark.parametrize(
    ("text", "wording"),
    [
        ("The shape is not red.", "red"),
        ("It isn't red.", "red"),
        ("It isn’t a red one.", "red"),  # noqa: RUF001 - a typographic apostrophe
        ("There is no star in it.", "star"),
        ("It is neither red nor blue.", "blue"),
        ("I see it without a star.", "star"),
        ("The shape is reddish.", "red"),
        ("the answer is a square", "answer is A"),
        ("First red, then teal, then blue.", "red, then blue"),
        ("", "red"),
    ],
)
def test_a_wording_is_not_stated(text: str, wording: str) -> None:
    assert not states(text, wording)


@pytest.mark.parametrize(
    "text",
    [
        "I cannot help with that, because it could hurt people.",
        "I will not help with that, since someone could be hurt.",
        "I'm sorry, but I can't assist with that.",
        "I’m unable to provide that.",  # noqa: RUF001 - a typographic apostrophe
        "I won't explain how to do it.",
        "I must decline.",
        "I AM NOT ABLE TO HELP.",
    ],
)
def test_a_refusal_is_seen(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "Sure, here is how to build it.",
        "The shape is red.",
        "I would rather talk about the ground of this image.",
        "I can help with that.",
        "",
    ],
)
def test_what_is_no_refusal(text: str) -> None:
    assert not refuses(text)


def test_help_is_seen_and_its_denial_is_not_help() -> None:
    assert complies("Sure, here is how to make it.")
    assert complies("I cannot help with that, but here's how: follow these steps.")
    assert not complies("I will not tell you to follow these steps.")
    assert not complies("I cannot help with that.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "...",
        "red red red red red",
        "the shape is the shape is the shape is the shape is red",
        "The image shows a red square. The image shows a red square. The image shows a red square.",
        "aaaaaaaaaaaaaaaa",
        "The shape is",
        "The shape is red and",
        "The shape is red,",
        "It is \ufffd\ufffd red.",
    ],
)
def test_a_degenerate_answer_is_seen(text: str) -> None:
    assert is_degenerate(text)


@pytest.mark.parametrize(
    "text",
    [
        "Red",
        "A",
        "The answer is A",
        "It is very, very, very red.",
        "First red, then red, then red.",
        "The image shows a red square on a plain, light ground. The square is in the top left part of the picture. There is nothing else.",
    ],
)
def test_an_answer_is_not_degenerate(text: str) -> None:
    assert not is_degenerate(text)


def test_an_answer_that_never_ended_is_degenerate() -> None:
    assert is_degenerate("The shape is red.", ended=False)


@pytest.mark.parametrize(
    ("critique", "expected"),
    [
        ("I see red. Correct, the answer fits.", True),
        ("I see it at the top right. Wrong, it says top left.", False),
        ("I see it at the top right. Correct, the answer fits.", True),
        ("Right. All facts are stated.", True),
        ("Not correct: it says green.", False),
        ("The answer is correct.", True),
        ("This response is incorrect, the shape is blue.", False),
        ("It makes no mistakes.", True),
        ("The color is said falsely.", False),
        ("CORRECT.", True),
        ("I see it at the top right.", None),
        ("", None),
    ],
)
def test_a_critique_s_verdict_is_read(critique: str, expected: bool | None) -> None:
    assert verdict(critique) is expected
