import pytest

from components.preferences.texts import is_blank, visible, wording


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b", "\ufeff \u2060", "\u00a0\u3164", "\u2800\u2800", "\u00ad\ufe0f"])
def test_text_without_visible_character_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["0", ".", "\u200bя", "\u0301a", "😀", "。"])
def test_text_with_visible_character_is_not_blank(text: str) -> None:
    assert not is_blank(text)


def test_texts_that_read_the_same_are_equal() -> None:
    assert visible(" caf\u0065\u0301\u200b. ") == visible("café.")
    assert visible("a b") != visible("a  b")


def test_wording_ignores_case_and_space() -> None:
    assert wording("What  is\nIT?\ufeff") == wording("what is it? ")
