from __future__ import annotations

import pytest

from components.report.wording import MINUS, cut, duration, number, plain, without_escapes


@pytest.mark.parametrize(
    ("value", "digits", "sign", "text"),
    [
        (1234.56, 1, False, "1,234.6"),
        (-2.5, 1, False, f"{MINUS}2.5"),
        (2.5, 1, True, "+2.5"),
        (-0.04, 1, True, "0.0"),
        (0.0, 2, True, "0.00"),
        (None, 1, False, "–"),
    ],
)
def test_numbers(value: float | None, digits: int, sign: bool, text: str) -> None:
    assert number(value, digits, sign=sign) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, ""), (None, ""), (9.96, "10.0 s"), (75.2, "1 min 15 s"), (7260, "2 h 01 min")])
def test_durations_do_not_break_lines(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text.replace(" ", "\u00a0")


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (None, "null"), (0.0004, "0.0004"), (1.0, "1"), ("sum", "sum"), ([1], "[1]")])
def test_settings(value: object, text: str) -> None:
    assert plain(value) == text


def test_long_text_names_omitted_length() -> None:
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdef", 4) == "abcd [2 more characters]"


def test_terminal_output_becomes_text() -> None:
    assert without_escapes("\x1b[1;31mred\x1b[0m\r\n10 %\r50 %\r100 %\n\x1b]0;title\x07end") == "red\n100 %\nend"
