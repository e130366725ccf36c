"""Yes and no, lists, and short statements: what an answer in words says against a reference."""

from __future__ import annotations

import re

from components.evaluation.rules.phrase_words import (
    COLORS,
    HEDGE,
    INTENSIFIED,
    NEGATION,
    NO,
    NO_NEGATION,
    QUESTIONING,
    SIDES,
    SMALL,
    YES,
)
from components.evaluation.rules.plain import bare, plain, sentences, without_preface

_POLAR = re.compile(rf"^(?:(?P<yes>{YES})|(?P<no>{NO}))(?=$|[\s,.;:!，。；])", re.IGNORECASE)
CLASSES = [{word: value for value, words in table.items() for word in words.split()} for table in (COLORS, SIDES)]
_SMALL_HAN = re.compile(r"图片|图像|照片|图中|画面|颜色|写着|显示|这个|那个|这是|那是|[是的了在有里上中着呢个它他她这那一]")
_WORD = re.compile(r"[\u4e00-\u9fff]+|[^\W_]+")
_DETERMINER = re.compile(  # "No sign of a cat", "No está": not an answer by itself
    r"\W*(?:no|não|nao|non)\s+(?!(?:it|they|he|she|there|this|that|these|those|i|you|we)\b)[^\W\d_]"
)
_ITEM = re.compile(r"\s*(?:[,;、\n]|(?<!\w)(?:and|und|et|y|e|or|&)(?!\w)|和|与|以及|及)\s*")
_MARK = re.compile(r"^(?:[-*•]|\d+[.)])\s+")
_ORDER = re.compile(
    r"order|sequence|first.*(?:then|last)|from left to right|from top|reihenfolge|von links|ordre|de gauche à droite|orden|de izquierda|ordem|da esquerda|顺序|依次|从左|从上",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d(?:[\d.,:/-]*\d)?")
_LONGEST_ITEM = 4  # words


def is_polar(text: str) -> bool:
    """Whether a text says yes or no, and nothing else."""
    match = _POLAR.match(bare(text))
    return match is not None and match.end() == len(bare(text))


def polarity(text: str) -> bool | None:
    """True for a text that says yes, False for no, None for neither."""
    match = _POLAR.match(without_preface(plain(text).casefold()).strip(" \"'(["))
    match = match or _POLAR.match(plain(text).casefold().strip(" \"'(["))
    return None if match is None else match["yes"] is not None


def judge_polar(question: str, reference: bool, answer: str) -> bool | None:
    """Whether an answer says yes or no as the reference does: by its first word, or by repeating the question's words."""
    lower = plain(answer).casefold()
    first = None if INTENSIFIED.match(lower) else polarity(answer)
    negated = NEGATION.search(NO_NEGATION.sub("", plain(question).casefold()))
    if negated or (first and NEGATION.search(sentences(lower)[0])):
        return None  # "Isn't it open?" "Yes" and "Correct, it isn't" say one thing here and the other one there
    if first is False and _DETERMINER.match(lower):
        first = None
    if first is not None:
        clauses = re.split(r"[,;:]\s*", sentences(lower)[0])[1:]
        others = {polarity(part) for part in [*clauses, *sentences(lower)[1:]]} - {None, first}
        if others or re.match(r"^\W*(?:yes and no|ja und nein|jein|oui et non|sí y no|sim e não)", lower):
            return None
        return first == reference
    if HEDGE.search(lower) or len(sentences(lower)) > 1:
        return None
    in_question, stated = _content(question) - QUESTIONING, _content(answer)
    if not in_question or not in_question <= stated or len(stated - in_question) > 0:
        return None
    return (NEGATION.search(lower) is None) == reference


def judge_list(question: str, reference: str, answer: str) -> bool | None:
    """Whether an answer lists the reference's items, in any order unless the question asks for one; None where it can't be read as a list."""
    expected, listed = _items(reference), _items(answer)
    if expected is None:
        return None
    listed = _within_sentence(answer, expected) or listed
    if listed is None:
        lower = bare(answer)
        if _item(lower) in expected:
            return False
        missing = [item for item in expected if not _mentions(lower, item)]
        return False if len(missing) == len(expected) and not _synonyms(expected, lower) else None
    if _ORDER.search(question):
        return True if listed == expected else (False if sorted(listed) == sorted(expected) else None)
    if set(listed) == set(expected):
        return True
    if set(listed) < set(expected) or set(expected) < set(listed):
        return False
    return False if not set(listed) & set(expected) and all(_class_of(item) for item in listed) else None


def is_list(reference: str) -> bool:
    """Whether a reference is a list of short items."""
    return _items(reference) is not None


def judge_words(question: str, reference: str, answer: str) -> bool | None:
    """Whether an answer says what a short reference does: equal text, the same words under the same negation, or another member of its class."""
    one, other = bare(reference), bare(answer)
    if one == other:
        return True
    if HEDGE.search(other) or len(sentences(plain(answer))) > 1:
        return None
    expected, stated, in_question = _content(reference), _content(answer), _content(question)
    if _class_values(expected) and _class_values(stated):
        classed = _judge_class(expected, stated, in_question, (one, other))
        if classed is not None:
            return classed
    if not expected or _DIGITS.findall(one) != _DIGITS.findall(other):
        return None
    if expected <= stated and not (stated - expected - in_question):
        if _negated(one) != _negated(other):
            return False
        return True if _in_order(reference, answer) else None
    return None


def _judge_class(expected: set[str], stated: set[str], in_question: set[str], texts: tuple[str, str]) -> bool | None:
    """The verdict where reference and answer each name colors, or each name sides."""
    wanted, named = _class_values(expected), _class_values(stated)
    if _negated(texts[0]) != _negated(texts[1]) or len(wanted) != 1 or len(expected) > len(wanted) + 1:
        return None
    if wanted == named:
        return True if not ({w for w in stated if not _class_of(w)} - in_question - expected) and len(expected) == 1 else None
    comparable = any(wanted <= set(table.values()) and named <= set(table.values()) for table in CLASSES)
    if not comparable or wanted & named:
        return None
    return False if len(stated - in_question) <= len(named) + 1 else None


def _items(text: str) -> list[str] | None:
    text = without_preface(plain(text).casefold())
    text = re.sub(r"^[^:\n]{0,80}:\s*(?=\S)", "", text)
    text = "\n".join(_MARK.sub("", line) for line in text.splitlines())
    if len(sentences(text.replace("\n", ","))) > 1:
        return None
    items = [_item(item) for item in _ITEM.split(text)]
    items = [item for item in items if item]
    if len(items) < 2 or any(len(item.split()) > _LONGEST_ITEM for item in items) or NEGATION.search(text):
        return None
    return items


def _within_sentence(answer: str, expected: list[str]) -> list[str] | None:
    """The items of a list that a sentence begins before and may end after: "The bowl holds apples, pears and figs." None for other answers."""
    text = without_preface(plain(answer).casefold()).strip(" .!")
    parts = [part for part in _ITEM.split(text) if part.strip()]
    if len(parts) < 2 or "\n" in text or len(sentences(text)) > 1 or NEGATION.search(text) or HEDGE.search(text):
        return None
    head, tail = parts[0].split(), parts[-1].split()
    first = next((item for size in (1, 2, 3) if (item := _item(" ".join(head[-size:]))) in expected), None)
    first = first or next((item for item in expected if "\u4e00" <= item[0] <= "\u9fff" and parts[0].endswith(item)), None)
    last = next((item for size in (1, 2, 3) if (item := _item(" ".join(tail[:size]))) in expected), _item(parts[-1]))
    middle = [_item(part) for part in parts[1:-1]]
    if first is None or any(len(item.split()) > 2 for item in [*middle, last]):
        return None
    return [first, *middle, last]


def _item(text: str) -> str:
    words = [word for word in text.strip(" .!\"'()[]").split() if word not in SMALL]
    joined = " ".join(words) or text.strip(" .!\"'()[]")
    return _class_of(joined) or joined


def _synonyms(expected: list[str], lower: str) -> bool:
    return any(_class_of(word) in expected for word in _WORD.findall(lower))


def _mentions(text: str, item: str) -> bool:
    return item in text


def _class_of(word: str) -> str | None:
    return next((table[word] for table in CLASSES if word in table), None)


def _class_values(words: set[str]) -> set[str]:
    return {value for word in words if (value := _class_of(word)) is not None}


def _content(text: str) -> set[str]:
    """The words of a text that carry meaning; of Chinese, what stands between its small words."""
    words: set[str] = set()
    for word in _WORD.findall(plain(text).casefold()):
        parts = _SMALL_HAN.split(re.sub(r"[不没无非未]", "", word)) if "\u4e00" <= word[0] <= "\u9fff" else [word]
        words.update(part for part in parts if part and part not in SMALL and not NEGATION.fullmatch(part))
    return {word for word in words if not re.fullmatch(r"n|t|don|doesn|isn|aren|s|qu|j", word)}


def _negated(text: str) -> bool:
    return len(NEGATION.findall(re.sub(r"^(?:no|nein|non|não|不)\s*[,.]\s*", "", text))) % 2 == 1


def _in_order(reference: str, answer: str) -> bool:
    """Whether the reference's words with meaning stand in the answer in the same order."""
    wanted = [word for word in _WORD.findall(bare(reference)) if word not in SMALL]
    words = iter(_WORD.findall(bare(answer)))
    return all(any(word in other if "\u4e00" <= word[0] <= "\u9fff" else word == other for other in words) for word in wanted)
