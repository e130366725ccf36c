"""One short answer against its reference, or its request: the verdict of the rule for its kind, or silence."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from components.evaluation.rules import numbers, times
from components.evaluation.rules.languages import first_language, readable
from components.evaluation.rules.options import judge_option, option_of, options_in
from components.evaluation.rules.phrase_words import HEDGE, NEGATION
from components.evaluation.rules.phrases import is_list, is_polar, judge_list, judge_polar, judge_words, polarity
from components.evaluation.rules.plain import bare, plain, sentences

Kind = Literal["option", "yes_no", "time", "number", "list", "text"]
_MANY = re.compile(r"how many|wie viele?|combien|cuánt[oa]s?|quant[oa]s|多少|几", re.IGNORECASE)
_CUE = re.compile(
    r"(?:\b(?:answer|result|total|sum|therefore|so|antwort|ergebnis|insgesamt|also|réponse|résultat|donc|respuesta|resultado|por lo tanto|resposta|portanto)\b|"
    r"答案|结果|总共|一共|因此|所以|=)"
    r"[^\d.\n]{0,40}$"
)
FEW_WORDS = 6  # of a reference that is a number with its unit


class Judgement(NamedTuple):
    """The kind of question, and whether the answer is right; None where the rules are silent."""

    kind: Kind
    right: bool | None


def judge_answer(question: str, reference: str, answer: str, options: Mapping[str, str] | None = None) -> Judgement:
    """Judge an answer to a question by its reference. Silent in languages that the rules do not know."""
    choices = dict(options or options_in(question))
    option = option_of(reference) or _option_by_text(reference, choices)
    kind = kind_of(reference, option)
    if not answer.strip():
        return Judgement(kind, False)
    if not readable(question, reference, answer):
        return Judgement(kind, None)
    if option is not None:
        return Judgement(kind, _judge_option(option, choices, answer))
    if bare(reference) == bare(answer) and not choices:
        return Judgement(kind, True)
    return Judgement(kind, _RULES[kind](question, reference, answer))


def kind_of(reference: str, option: tuple[str, str | None] | None = None) -> Kind:
    """The kind of question, by its reference."""
    lower = plain(reference).casefold()
    if option is not None:
        return "option"
    if is_polar(reference):
        return "yes_no"
    if len(times.clocks(lower)) + len(times.days(lower)) == 1 and len(lower.split()) <= FEW_WORDS:
        return "time"
    counted = _counted(lower, first_language((reference,)))
    if len(counted) == 1 and _is_quantity(lower, counted[0]):
        return "number"
    return "list" if is_list(reference) else "text"


def _counted(lower: str, language: str) -> list[numbers.Quantity]:
    """The numbers of a reference; a word that may be an article counts where nothing else is there."""
    stated = numbers.quantities(lower, language)
    return [one for one in stated if not one.article or lower[one.start : one.end].strip() == lower.strip(" .")]


def _is_quantity(lower: str, quantity: numbers.Quantity) -> bool:
    """Whether a reference is a number with at most its unit and a word beside it."""
    rest = (lower[: quantity.start] + " " + lower[quantity.end :]).strip(" .")
    return len(rest.split()) <= 2 and len(rest) <= 20 and quantity.start <= 12


def _option_by_text(reference: str, choices: Mapping[str, str]) -> tuple[str, str | None] | None:
    """The option whose text the reference is."""
    letters = [letter for letter, text in choices.items() if bare(text) == bare(reference)]
    return (letters[0], choices[letters[0]]) if len(letters) == 1 else None


def _judge_option(option: tuple[str, str | None], choices: Mapping[str, str], answer: str) -> bool | None:
    right = judge_option(option, choices, answer)
    if right is None and option[1] is not None and not re.search(r"(?<![\w'])[A-J](?![\w'])", plain(answer)):
        kind = kind_of(option[1])
        if kind in ("time", "number") and len(sentences(plain(answer))) == 1:
            return _RULES[kind]("", option[1], answer)
        if bare(option[1]) == bare(answer):
            return True
    return right


def _polar(question: str, reference: str, answer: str) -> bool | None:
    expected = polarity(reference)
    assert expected is not None
    return judge_polar(question, expected, answer)


def _time(question: str, reference: str, answer: str) -> bool | None:
    one, other = plain(reference).casefold(), plain(answer).casefold()
    expected_clocks, expected_days = times.clocks(one), times.days(one)
    matches: list[bool | None]
    if expected_clocks:
        actual = times.clocks(other)
        if len(actual) <= 1 and not times.TO_THE_MINUTE.search(other):
            actual = times.spoken_clocks(other) or actual  # "half past 3 pm" holds "3 pm"
        matches = [times.same_clock(expected_clocks[0], clock) for clock in actual]
    else:
        matches = [
            times.same_day(expected_days[0], day)
            for day in times.days(other, day_first=first_language((answer, question)) in numbers.COMMA_DECIMAL)
        ]
    if not matches:
        similar = re.search(r"\d+[:./-]\d+", other) is not None and len(sentences(other)) == 1
        return False if similar and not HEDGE.search(other) else None
    if len(set(matches)) > 1 or (len(matches) > 1 and matches[0] is not False):
        return None
    return matches[0] if matches[0] is False or not HEDGE.search(other) else None


def _number(question: str, reference: str, answer: str) -> bool | None:
    lower = numbers.with_sign(plain(answer).casefold())
    (expected,) = _counted(plain(reference).casefold(), first_language((reference, answer, question)))
    stated = numbers.quantities(lower, first_language((answer, question)))
    exact = [one for one in stated if not one.article]
    if not exact and len(lower.split()) <= FEW_WORDS and (_MANY.search(question) or len(bare(answer).split()) == 1):
        exact = stated
    if not exact or times.clocks(lower):
        return None
    if any(numbers.is_loose(lower, one) for one in exact) or numbers.is_loose(plain(reference).casefold(), expected):
        return None
    if numbers.is_compound(lower, stated):
        return None
    falls = numbers.direction(lower) < 0
    if (
        falls
        and expected.values[0] > 0
        and (plain(reference).strip().startswith("+") or numbers.direction(plain(question).casefold()) >= 0)
    ):
        return None  # "it fell by 8 %" is not the change of "+8 %", and perhaps that of "8 %"
    if falls and NEGATION.search(lower):
        return None
    if falls and expected.values[0] < 0:
        exact = [numbers.negative(one) for one in exact]
    scaled = numbers.names_scale(plain(question).casefold())  # "in millions": 12.5 and 12.5 million
    outcomes = ["unclear" if scaled and numbers.differ_by_scale(expected, one) else numbers.compare(expected, one) for one in exact]
    if re.search(r"\d\s?(?:-|–|to|bis|à|a|até|至|到)\s?\d", lower) or _alternatives(lower):
        return None if "unequal" not in outcomes or set(outcomes) != {"unequal"} else False
    if len(set(outcomes)) == 1:
        return (
            None
            if outcomes[0] == "unclear" or (outcomes[0] == "equal" and _negated_before(lower, exact[0].start))
            else outcomes[0] == "equal"
        )
    return _concluded(question, lower, list(zip(exact, outcomes, strict=True)))


def _alternatives(lower: str) -> bool:
    return re.search(r"\d\s?(?:or|oder|ou|o|或|/)\s?\d", lower) is not None


def _negated_before(lower: str, start: int) -> bool:
    return (
        re.search(r"(?:\bnot|n't|\bnicht|\bpas|\bno(?: es| hay| son)|\bnão(?: é| são| há)?|不是|without)\s+(?:\w+\s+)?$", lower[:start])
        is not None
    )


def _concluded(question: str, lower: str, pairs: list[tuple[numbers.Quantity, numbers.Equality]]) -> bool | None:
    """The verdict on an answer with several numbers: by the one that it concludes with, or by the one that the question does not hold."""
    cued = [(one, outcome) for one, outcome in pairs if _CUE.search(lower[: one.start])]
    if cued and cued[-1][1] != "unclear" and cued[-1][0] is pairs[-1][0]:
        return cued[-1][1] == "equal"
    in_question = {value for one in numbers.quantities(plain(question).casefold(), first_language((question,))) for value in one.values[:1]}
    fresh = [outcome for one, outcome in pairs if one.values[0] not in in_question]
    if len(fresh) == 1 and fresh[0] != "unclear":
        return fresh[0] == "equal"
    return None


_RULES: dict[Kind, Callable[[str, str, str], bool | None]] = {
    "yes_no": _polar,
    "time": _time,
    "number": _number,
    "list": judge_list,
    "text": judge_words,
}
