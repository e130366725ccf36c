"""Numbers in texts: digits with signs, separators and scales, number words, Chinese numerals, and the unit beside them.

A separator before three digits has two readings ("1.000"): the text's language says which one is meant, and the other one makes the rule silent
where it would decide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Literal

from components.evaluation.rules.number_words import ARTICLES, HAN, PATTERN, VALUES, from_han
from components.evaluation.rules.units import PHRASES, UNITS, Unit

Equality = Literal["equal", "unequal", "unclear"]
NEAR = Decimal("0.01")  # relative difference of two fractions that may be one rounded
COMMA_DECIMAL = ("de", "fr", "es", "pt")
_DIGITS = re.compile(
    r"(?P<sign>(?<![\w.,)%°])[-+]\s?(?=[$€£¥.\d])|(?<!\w)(?:minus|moins|menos|negative)\s|负)?(?:(?P<before>us\$|r\$|[$€£¥])\s?)?(?P<inner>(?<=[$€£¥])-)?"
    r"(?P<body>(?<![\w.])\.\d+|\d+(?:(?:[.,']\d+)+|(?:[ ]\d{3}(?!\d))+(?:[.,]\d+)?)?)(?:\s?/\s?(?P<below>\d+)(?![/\d]))?"
    r"(?:\s?(?:x|\*)\s?10\s?\^?\s?(?P<power>-?\d+)|e(?P<exponent>[+-]?\d+)(?!\w))?(?P<ordinal>(?:st|nd|rd|th)(?!\w))?"
)
_HAN = re.compile(rf"(?<![{HAN}第])[{HAN}]+(?![{HAN}])")
_AFTER_HAN = re.compile(r"\s*(?:[个只条张辆本位名人头匹朵把件瓶杯棵座架台艘双支颗片间层次岁年月天小分秒米厘公千克元块美欧升度%]|$|[.,!])")
_HAN_WORDS = re.compile(r"^(?:十分|万一|一些|一样|一起|一下|一定|一般|一直|三角|四周|一旁|一边|一侧)")
_PERCENT_HAN = re.compile(rf"百分之([{HAN}]+|\d+(?:\.\d+)?)")
SCALES = {
    "k": 3, "thousand": 3, "tausend": 3, "mille": 3, "mil": 3, "千": 3, "万": 4, "million": 6, "millions": 6, "millionen": 6, "mio": 6, "mio.": 6,
    "millón": 6, "millones": 6, "milhão": 6, "milhões": 6, "m": 6, "bn": 9, "billion": 9, "billions": 9, "milliarde": 9, "milliarden": 9,
    "mrd": 9, "mrd.": 9, "milliard": 9, "milliards": 9, "bilhão": 9, "bilhões": 9, "亿": 8,
}  # fmt: skip
_SCALE = re.compile(
    r"\s?(thousand|tausend|mille|mil|千|万|millions|million|millionen|mio\.?|millón|millones|milhão|milhões|billions|billion|"
    r"milliarden|milliarde|mrd\.?|milliards|milliard|bilhão|bilhões|亿|k(?![\w]))(?![a-zà-ÿ])(?:\s(?:de|d')\s)?"
)
_UNIT = re.compile(
    r"\s?(us\$|r\$|km/h|mi/h|m²|°\s?[cf](?!\w)|[%°$€£¥]|[a-zà-ÿß]+|小时|分钟|毫米|厘米|公里|千米|千克|公斤|毫克|毫升|个月|美元|欧元|英镑|英寸|英尺|英里|摄氏度|[米克升秒天周年岁吨度元块瓦伏磅])"
)


LONGEST_BOUND = 40  # characters before a number in which its bound stands
_BOUND_BEFORE = re.compile(
    r"(?:\b(?:more than|fewer than|less than|over|under|above|below|at least|at most|up to|almost|nearly|not quite|none of(?: the| these)?|neither of the|"
    r"used to be|mehr als|weniger als|über|unter|mindestens|höchstens|maximal|bis zu|fast|beinahe|knapp|kein(?:er|e|es)? (?:der|von den)|"
    r"plus de|plus d'|moins de|moins d'|au moins|au plus|jusqu'à|presque|aucun(?:e)? des|más de|menos de|al menos|por lo menos|como mucho|como máximo|hasta|casi|"
    r"ningun[oa] de l[oa]s|mais de|pelo menos|no mínimo|no máximo|até|quase|nenhum(?:a)? d[oa]s)|[<>≤≥~]|"
    r"超过|不到|少于|多于|至少|最多|不足|将近|接近|大于|小于|高于|低于|不止|以前有|没有一)\s*(?:\w+\s)?(?:[$€£¥]\s?)?[-+]?$"
)
_BOUND_AFTER = re.compile(
    r"\s?\+(?!\s?\d)|\s(?:or (?:more|fewer|less)|oder (?:mehr|weniger)|ou (?:plus|moins)|o (?:más|menos)|ou (?:mais|menos))\b|[个只条张辆本位名人头岁元]?(?:多|以上|以下)"
)
_PARTS = re.compile(
    r"\b(?:half|halves|thirds?|quarters?|fourths?|fifths?|tenths?|cents|pence|hundred|point|dozen|"
    r"\w*einhalb\w*|halbe?[rns]?|hälfte|drittel|viertel|fünftel|zehntel|komma|\w*hundert\w*|dutzend|"
    r"demie?|moitié|tiers|quarts?|cinquièmes?|centimes?|virgule|douzaine|"
    r"medi[oa]|mitad|tercios?|cuartos?|quintos?|céntimos?|centavos?|coma|(?<!por )ciento|\w+cient[oa]s|quinient[oa]s|docena|"
    r"mei[oa]|metade|terços?|quartos?|vírgula|(?<!por )cento|(?:du|tre)zent[oa]s|quatrocent[oa]s|quinhent[oa]s|\w+centos|dúzia)\b|"
    r"半|[零一二两三四五六七八九十百\d]角(?!形)|分之(?![一二三四五六七八九十百\d])|[零一二两三四五六七八九十百\d]点[零一二三四五六七八九\d](?![点:时刻分])|\d\s+\d+/\d"
)
_JOINED = re.compile(r"\s*|\s*(?:and|und|et|y|e)\s*")  # between two numbers that are one: "18 euros 90", "1 hour and 30 minutes"
_OUT_OF = re.compile(r"\s*(?:\w+\s+){0,2}(?:in|out of(?: every)?|of|von|aus|sur|de cada|em cada|entre)\s*(?:the\s+)?")
_SCALE_WORD = re.compile(
    r"\b(?:thousands?|tausend|mille|milliers|mil|miles|milhares|millions?|mio|millionen|millones|milhões|billions?|mrd|milliarden|milliards|bilhões|k)\b|[千万亿]"
)
_DEGREES_BELOW = re.compile(
    r"(?<![\d.,])(?P<before>\d{1,9}(?:[.,]\d{1,9})?)\s?°?\s?(?:degrees?|grad|degrés?|grados?|graus?|c)?\s?(?:celsius)?\s?(?:below (?:zero|freezing)|unter (?:null|dem gefrierpunkt)|"
    r"(?:en dessous de|sous) zéro|bajo cero|abaixo de zero)|零下\s?(?P<after>\d{1,9}(?:\.\d{1,9})?)\s?(?:度|摄氏度|°c)?"
)
_DOWN = re.compile(
    r"\b(?:fell|fallen|falls|drop\w*|declin\w+|decreas\w+|lost|sank|gesunken|gefallen|fiel\w*|rückgang|abnahme|abgenommen|baiss\w+|chut\w+|diminu\w+|"
    r"recul\w+|cay\w+|caíd\w+|caiu|caíram|descend\w+|disminu\w+|baj(?:ó|aron|ado)|queda|reduz\w+)\b|下降|减少|下跌|降低"
)
_UP = re.compile(
    r"\b(?:rose|risen|rises|increas\w+|grew|gained|gestiegen|stieg\w*|zunahme|zugenommen|augment\w+|hauss\w+|progress\w+|sub(?:ió|ieron)|aument\w+|creci\w+|"
    r"cresc\w+)\b|上升|增加|上涨|增长"
)


@dataclass(frozen=True)
class Quantity:
    """A number's readings, the likelier first, its unit, where it stands in the text, and whether it is a word that may be an article."""

    values: tuple[Decimal, ...]
    unit: Unit | None
    start: int
    end: int
    article: bool = False


def quantities(text: str, language: str) -> list[Quantity]:
    """The numbers of a plain text in lower case, in order."""
    result = [quantity for match in _DIGITS.finditer(text) if (quantity := _from_digits(text, match, language)) is not None]
    taken = [(quantity.start, quantity.end) for quantity in result]
    words = [_from_word(text, match) for match in PATTERN.finditer(text)]
    words += [quantity for match in _HAN.finditer(text) if (quantity := _from_han(text, match)) is not None]
    words += [_percent_han(match) for match in _PERCENT_HAN.finditer(text)]
    for quantity in sorted(words, key=lambda one: (one.start, -one.end)):
        if all(quantity.end <= start or quantity.start >= end for start, end in taken):
            result.append(quantity)
            taken.append((quantity.start, quantity.end))
    return sorted(result, key=lambda one: one.start)


def is_loose(text: str, quantity: Quantity) -> bool:
    """Whether a text bounds a number, or says that it no longer holds, where it does not state it: "more than 7", "7+", "none of the 7"."""
    before = text[max(0, quantity.start - LONGEST_BOUND) : quantity.start]
    return _BOUND_BEFORE.search(before) is not None or _BOUND_AFTER.match(text, quantity.end) is not None


def is_compound(text: str, stated: Sequence[Quantity]) -> bool:
    """Whether a text has a number in parts that are read one by one: "two and a half", "12 dollars 50", "three quarters", "one in four"."""
    if _PARTS.search(text):
        return True
    between = [(one, text[one.end : other.start]) for one, other in pairwise(stated) if text[other.start] not in "+-"]
    return any(_OUT_OF.fullmatch(words) or (not one.article and _JOINED.fullmatch(words)) for one, words in between)


def direction(text: str) -> int:
    """-1 for a text that says that something fell, 1 for one that says that it rose, 0 for neither or both."""
    return (_UP.search(text) is not None) - (_DOWN.search(text) is not None)


def with_sign(text: str) -> str:
    """A text with a minus in place of "degrees below zero"."""
    return _DEGREES_BELOW.sub(lambda match: f" -{match['after'] or match['before']}", text)


def negative(quantity: Quantity) -> Quantity:
    """A quantity of something that fell, with its sign."""
    return quantity if quantity.values[0] <= 0 else replace(quantity, values=tuple(-value for value in quantity.values))


def compare(reference: Quantity, answer: Quantity) -> Equality:
    """Whether two quantities are the same. A unit that one of them lacks is that of the other; shares and numbers of another scale are unclear."""
    one, other = reference.unit, answer.unit
    if one is not None and other is not None and one.dimension != other.dimension:
        return "unclear" if {one.dimension, other.dimension} <= {"celsius", "fahrenheit", "angle", "length", "speed"} else "unequal"
    factors = (one.factor, other.factor) if one is not None and other is not None else (Decimal(1), Decimal(1))
    expected = [value * factors[0] for value in reference.values]
    actual = [value * factors[1] for value in answer.values]
    if expected[0] == actual[0]:
        return "equal"
    if (one is None) != (other is None) and (one or other).dimension == "share" and _hundredfold(expected[0], actual[0]):  # type: ignore[union-attr]
        return "unclear"
    if set(expected) & set(actual) or _near(expected[0], actual[0]):
        return "unclear"
    return "unequal"


def names_scale(question: str) -> bool:
    """Whether a question asks for thousands, millions or the like."""
    return _SCALE_WORD.search(question) is not None


def differ_by_scale(one: Quantity, other: Quantity) -> bool:
    """Whether two numbers differ by exactly a thousand, a million or another scale."""
    low, high = sorted((abs(one.values[0]), abs(other.values[0])))
    return low > 0 and any(high == low * Decimal(10) ** power for power in set(SCALES.values()))


def _hundredfold(one: Decimal, other: Decimal) -> bool:
    return one * 100 == other or other * 100 == one


def _near(one: Decimal, other: Decimal) -> bool:
    whole = one == one.to_integral_value() and other == other.to_integral_value()
    return not whole and abs(one - other) <= NEAR * max(abs(one), abs(other))


def _from_digits(text: str, match: re.Match[str], language: str) -> Quantity | None:
    if match["ordinal"] or (match.start() and text[match.start() - 1].isalpha() and not _is_han(text[match.start() - 1])):
        return None
    values = _readings(match["body"], language)
    if match["below"] and int(match["below"]):
        values = [value / int(match["below"]) for value in values]
    power = match["power"] or match["exponent"]
    if power:
        values = [value * Decimal(10) ** int(power) for value in values if abs(int(power)) < 40]
    if not values:
        return None
    end = match.end()
    scale = _SCALE.match(text, end)
    if scale is not None:
        values, end = [value * Decimal(10) ** SCALES[scale[1]] for value in values], scale.end()
    if (match["sign"] and match["sign"].strip() != "+") or match["inner"]:
        values = [-value for value in values]
    unit, end = _unit_after(text, end)
    if match["before"]:
        unit = UNITS[match["before"]]
    return Quantity(tuple(dict.fromkeys(values)), unit, match.start(), end)


def _readings(body: str, language: str) -> list[Decimal]:
    marks = [character for character in body if not character.isdigit()]
    try:
        if not marks:
            return [Decimal(body)]
        if len(set(marks)) == 1:
            return _one_kind(body, marks[0], len(marks), language)
        decimal = marks[-1]
        if decimal not in ".," or marks.count(decimal) > 1 or len(set(marks[:-1])) > 1:
            return []
        thousands = marks[0]
        whole, _, fraction = body.rpartition(decimal)
        return [Decimal(whole.replace(thousands, "") + "." + fraction)] if _grouped(whole, thousands) else []
    except InvalidOperation:
        return []


def _one_kind(body: str, mark: str, count: int, language: str) -> list[Decimal]:
    grouped = [Decimal(body.replace(mark, ""))] if _grouped(body, mark) else []
    fraction = [Decimal(body.replace(mark, "."))] if count == 1 and mark in ".," else []
    if not grouped or not fraction:
        return grouped or fraction
    decimal_mark = "," if language in COMMA_DECIMAL else "."
    if mark == "," and language not in COMMA_DECIMAL:
        return grouped
    return [*fraction, *grouped] if mark == decimal_mark else [*grouped, *fraction]


def _grouped(body: str, mark: str) -> bool:
    first, *others = body.split(mark)
    return (
        first != "" and len(first) <= 3 and not (len(first) > 1 and first[0] == "0") and first != "0" and all(len(o) == 3 for o in others)
    )


def _unit_after(text: str, end: int) -> tuple[Unit | None, int]:
    rest = text[end:]
    for phrase, symbol in PHRASES.items():
        if rest.lstrip().startswith(phrase):
            return UNITS.get(symbol), end + len(rest) - len(rest.lstrip()) + len(phrase)
    match = _UNIT.match(text, end)
    name = match[1].replace(" ", "") if match is not None else ""
    if match is None or name not in UNITS or (name in ("in", "pie", "mes", "an", "mo", "go", "real") and text[match.start(1) - 1] == " "):
        return None, end
    return UNITS[name], match.end()


def _from_word(text: str, match: re.Match[str]) -> Quantity:
    end, value = match.end(), Decimal(VALUES[match[0]])
    scale = _SCALE.match(text, end)
    if scale is not None:
        value, end = value * Decimal(10) ** SCALES[scale[1]], scale.end()
    unit, end = _unit_after(text, end)
    if re.search(r"(?<!\w)(?:minus|moins|menos|negative)\s$", text[: match.start()]):
        value = -value
    return Quantity((value,), unit, match.start(), end, match[0] in ARTICLES and scale is None)


def _from_han(text: str, match: re.Match[str]) -> Quantity | None:
    if (
        _HAN_WORDS.match(text[match.start() :])
        or not _AFTER_HAN.match(text, match.end())
        or text[max(0, match.start() - 2) : match.start()] == "之"
    ):
        return None
    if match.start() and text[match.start() - 1].isdigit():
        return None
    unit, end = _unit_after(text, match.end())
    value = Decimal(from_han(match[0]))
    if match.start() and text[match.start() - 1] == "负":
        value = -value
    return Quantity((value,), unit, match.start(), end, match[0] == "一" and unit is None and bool(text[match.end() :].strip(" .,!个只")))


def _percent_han(match: re.Match[str]) -> Quantity:
    value = Decimal(match[1]) if match[1][0].isdigit() else Decimal(from_han(match[1]))
    return Quantity((value,), UNITS["%"], match.start(), match.end())


def _is_han(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff"
