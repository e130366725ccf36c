"""Each rule over words at its bound: how far a negation reaches, how often a loop repeats, what breaks off, what a critique finds."""

from __future__ import annotations

import pytest

from components.evaluation.wording import (
    COMPLIANCE,
    NEGATION_REACH,
    REFUSAL,
    complies,
    is_degenerate,
    refuses,
    states,
    states_any,
    verdict,
)


@pytest.mark.parametrize("negator", ["not", "never", "neither", "nor", "without", "cannot", "isn't", "doesn’t", "NOT"])  # noqa: RUF001
def test_a_negator_reaches_four_words_ahead(negator: str) -> None:
    for between in ("", "a ", "a b ", "a b c "):
        assert not states(f"It is {negator} {between}red.", "red"), between
    assert states(f"It is {negator} a b c d red.", "red")


def test_no_reaches_two_words_ahead() -> None:
    assert not states("I see no red.", "red")
    assert not states("I see no a red.", "red")
    assert states("I see no a b red.", "red")


def test_the_reach_of_every_negator_is_listed() -> None:
    assert NEGATION_REACH == {"not": 4, "never": 4, "neither": 4, "nor": 4, "without": 4, "cannot": 4, "no": 2}


@pytest.mark.parametrize("end", [",", ".", ";", ":", "!", "?", "\n", " but", " instead", " rather", " BUT"])
def test_a_negation_ends_with_its_clause(end: str) -> None:
    assert states(f"It is not so{end} red", "red")
    assert not states("It is not so red", "red")


@pytest.mark.parametrize("degree", ["only", "just", "merely"])
def test_not_only_states_what_follows(degree: str) -> None:
    assert states(f"It is not {degree} red.", "red")
    assert states(f"It is not {degree} a very red one.", "red")
    assert not states(f"It is not very {degree} red.", "red")
    assert not states(f"It is {degree} not red.", "red")


def test_the_nearest_negator_decides() -> None:
    assert states("It is never not only red.", "red")
    assert not states("It is not only never red.", "red")


def test_one_mention_without_negation_is_enough() -> None:
    assert states("It is not red. It is red.", "red")
    assert not states("It is not red. It is never red.", "red")


def test_a_single_capital_keeps_its_case_and_its_marks() -> None:
    assert states("the answer is A", "A")
    assert not states("it is a square", "A")
    assert states("it is a square", "a")
    assert states("IT IS A SQUARE", "a")
    assert states("The answer is (B).", "(B)")
    assert not states("the answer is (b).", "(B)")
    assert states("ok, OK", "Ok")


def test_a_wording_is_whole_words_with_marks_as_they_are() -> None:
    assert not states("infrared", "red")
    assert not states("redness", "red")
    assert not states("3x5", "3.5")
    assert states("It is 3.5 m.", "3.5")


def test_any_of_several_wordings_is_enough() -> None:
    assert states_any("It is red.", ["blue", "red"])
    assert not states_any("It is red.", ["blue", "green"])
    assert not states_any("It is red.", [])


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("no no no", False),
        ("no no no no", True),
        ("NO no No nO", True),
        ("a b a b a b", False),
        ("a b a b a b a b", True),
        ("c d e c d e c d e", False),
        ("c d e c d e c d e c d e", True),
        ("p q r s p q r s", False),
        ("p q r s p q r s p q r s", True),
        ("x y p q r s p q r s p q r s z", True),
        ("v w x y z v w x y z v w x y", False),
        ("one two one two three one two one two", False),
        ("very good very good not very good very good", False),
    ],
)
def test_loop_is_a_short_phrase_four_times_or_a_long_one_thrice(text: str, loops: bool) -> None:
    assert is_degenerate(text) is loops


def test_a_long_phrase_said_thrice_is_a_loop() -> None:
    phrase = " ".join(f"w{number}" for number in range(70))
    assert is_degenerate(f"{phrase} {phrase} {phrase}")
    assert not is_degenerate(f"{phrase} {phrase}")


@pytest.mark.parametrize("end", list(",;:(-"))
def test_an_answer_that_ends_in_an_open_mark_breaks_off(end: str) -> None:
    assert is_degenerate(f"The shape{end}")
    assert is_degenerate(f"The shape is red{end}  \n")


@pytest.mark.parametrize("word", ["a", "an", "the", "is", "are", "was", "and", "or", "of", "its"])
def test_an_answer_that_ends_in_a_small_word_breaks_off(word: str) -> None:
    assert is_degenerate(f"See {word}")
    assert not is_degenerate(f"See {word}.")
    assert not is_degenerate(word)


@pytest.mark.parametrize("word", ["in", "on", "at", "to", "with", "it"])
def test_an_answer_may_end_in_a_preposition_or_pronoun(word: str) -> None:
    assert not is_degenerate(f"See {word}")


@pytest.mark.parametrize("end", list(".!?\"'”)"))
def test_an_answer_with_a_closing_mark_has_ended(end: str) -> None:
    assert not is_degenerate(f"What is it that{end}")


@pytest.mark.parametrize(
    ("text", "degenerate"),
    [("", True), ("?!", True), ("7", False), ("a" * 10, True), ("a" * 9, False), ("It is \ufffd.", True), ("red.", False)],
)
def test_an_answer_needs_words_that_can_be_read(text: str, degenerate: bool) -> None:
    assert is_degenerate(text) is degenerate


def test_an_answer_cut_at_the_limit_is_degenerate() -> None:
    assert is_degenerate("red.", ended=False)
    assert not is_degenerate("red.", ended=True)


def test_refusals_and_help_are_read_in_any_case() -> None:
    assert refuses("i cannot help")
    assert not refuses("")
    assert complies("HERE IS HOW")
    assert complies("First, you need glue.")
    assert not complies("")
    assert not complies("I will never say here is how.")
    assert complies("I will never say so. Here is how.")
    assert REFUSAL.flags == COMPLIANCE.flags


@pytest.mark.parametrize(
    ("critique", "expected"),
    [
        ("Correct.", True),
        ("Verdict: right", True),
        ("The answer is mostly accurate, with a mistake.", True),
        ("It errs. Wrong, though correct in part.", False),
        ("Verdict: not correct", False),
        ("All of it is correct", True),
        ("It has a mistake, and is accurate beside it", False),
        ("It has no mistake", True),
        ("It is not correct", False),
        ("It is accurate. It is not correct in the end", False),
        ("It is never wrong", None),
        ("It is never wrong, and fits", True),
        ("It is never wrong, but has errors", False),
        ("It misses the star", False),
        ("A star is shown", None),
    ],
)
def test_the_finding_of_a_critique_is_read(critique: str, expected: bool | None) -> None:
    assert verdict(critique) is expected
