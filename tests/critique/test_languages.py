from __future__ import annotations

import pytest

from components.critique.languages import LEAST_HITS, LEAST_LEAD, Language, language_of


@pytest.mark.parametrize("kana", ["\N{HIRAGANA LETTER NO}", "\N{KATAKANA LETTER NO}", "\N{HIRAGANA LETTER NO}\N{KATAKANA LETTER NO}"])
def test_chinese_characters_with_any_kana_are_japanese(kana: str) -> None:
    assert language_of(f"東京都庁舎{kana}") == Language("HIRAGANA", "ja")


def test_chinese_characters_alone_are_chinese() -> None:
    assert language_of("東京都庁舎") == Language("CJK", "zh")


def test_text_without_letters_has_no_language() -> None:
    assert language_of("12, 3!") == Language("", None)


def test_lead_of_exactly_the_least_names_the_language() -> None:
    assert (LEAST_HITS, LEAST_LEAD * 10) == (3, 13)
    assert language_of(" ".join(["the"] * 13 + ["der"] * 10)).name == "en"
    assert language_of(" ".join(["the"] * 12 + ["der"] * 10)).name is None


@pytest.mark.parametrize(("hits", "name"), [(2, None), (3, "en")])
def test_few_function_words_name_no_language(hits: int, name: str | None) -> None:
    assert language_of(" ".join(["the"] * hits)).name == name
