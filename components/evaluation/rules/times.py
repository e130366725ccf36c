"""Clock times and dates in texts of six languages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from components.evaluation.rules.number_words import HAN, VALUES, from_han

HALF_DAY = 12
_MORNING = r"a\.?m\.?|vormittags|morgens|du matin|de la mañana|da manhã"
_AFTERNOON = r"p\.?m\.?|nachmittags|abends|de l'après-midi|du soir|de la tarde|de la noche|da tarde|da noite"
_TIME = re.compile(
    rf"(?:(?P<zh>上午|早上|凌晨|下午|晚上|中午|傍晚)\s?)?(?<![\d:.,/])(?P<hour>\d{{1,2}})"
    rf"(?:(?P<mark>:|\.|\s?h\s?|\s?uhr\s?|[点时])(?P<minute>\d{{2}})(?::\d{{2}})?分?|(?P<whole>\s?uhr|\s?h|点整?|\s?o'clock))?(?!\d|[.:]\d)"
    rf"(?:\s?(?P<clock>uhr|h|horas|o'clock)(?!\w))?(?:\s?(?P<half>{_MORNING}|{_AFTERNOON})(?!\w))?"
)
# Beside a clock in words; "am" before another word is German: "halb vier am Bahnhof".
_HALF_AFTER = re.compile(
    rf"\s(?:am(?=\s*(?:[.,;!?)]|$))|(?:{_MORNING}|in the morning)(?<!\sam)(?!\w)|(?P<late>{_AFTERNOON}|in the (?:afternoon|evening)|at night)(?!\w))"
)
_AFTERNOONS = re.compile(_AFTERNOON)
_MONTHS = {
    1: "january jan januar janvier enero janeiro 一月", 2: "february feb februar février febrero fevereiro 二月",
    3: "march mar märz mars marzo março 三月", 4: "april apr avril abril 四月", 5: "may mai mayo maio 五月", 6: "june jun juni juin junio junho 六月",
    7: "july jul juli juillet julio julho 七月", 8: "august aug août agosto 八月", 9: "september sep sept septembre septiembre setembro 九月",
    10: "october oct oktober okt octobre octubre outubro 十月", 11: "november nov novembre noviembre novembro 十一月",
    12: "december dec dezember dez décembre diciembre dezembro 十二月",
}  # fmt: skip
MONTHS = {name: number for number, names in _MONTHS.items() for name in names.split()}
_MONTH = "|".join(sorted(MONTHS, key=len, reverse=True))
_DATES = (
    re.compile(r"(?<!\d)(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})(?!\d)"),
    re.compile(r"(?<!\d)(?:(?P<year>\d{4})年)?(?P<month>\d{1,2})月(?P<day>\d{1,2})[日号]?"),
    re.compile(rf"(?<!\w)(?P<name>{_MONTH})\.?\s(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:,?\s(?P<year>\d{{4}}))?(?!\d)"),
    re.compile(
        rf"(?<!\d)(?P<day>\d{{1,2}})(?:st|nd|rd|th|er|\.|º)?(?:\s(?:of|de|do))?\s(?P<name>{_MONTH})(?!\w)\.?(?:,?\s(?:de\s|del\s)?(?P<year>\d{{4}}))?"
    ),
)
_NUMERIC = re.compile(r"(?<![\d/.-])(?P<one>\d{1,2})(?P<mark>[/.-])(?P<two>\d{1,2})(?P=mark)(?P<year>\d{4}|\d{2})(?![\d/-]|\.\d)")


_QUARTERS = {
    "quarter": 15, "a quarter": 15, "half": 30, "viertel": 15, "quart": 15, "le quart": 15, "demie": 30, "demi": 30, "cuarto": 15, "media": 30,
    "meia": 30, "um quarto": 15, "半": 30, "一刻": 15, "三刻": 45,
}  # fmt: skip
_HOUR = (
    r"(?P<hour>"
    + "|".join(sorted((word for word, value in VALUES.items() if 1 <= value <= HALF_DAY), key=len, reverse=True))
    + r"|1[0-2]|[1-9])"
)
_MINUTE = "|".join(sorted((word for word, value in VALUES.items() if 1 <= value < 60), key=len, reverse=True)) + r"|[1-5]?\d"
_HAN_HOUR, _HAN_MINUTE = rf"(?P<hour>[{HAN}]{{1,3}}|\d{{1,2}})", rf"[{HAN}]{{1,3}}|\d{{1,2}}"
TO_THE_MINUTE = re.compile(r"\d\s?(?::|\.|h|uhr|点)\s?\d\d")  # a clock in digits
_SPOKEN = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?<!\w)(?:(?P<after_first>half|a quarter|quarter|{_MINUTE})(?: minutes?)? past|"
        rf"(?P<before_first>a quarter|quarter|{_MINUTE})(?: minutes?)? (?:to|till)) {_HOUR}(?!\w)",
        rf"(?<!\w){_HOUR} o'clock(?!\w)",
        rf"(?<!\w)(?P<half_before>halb) {_HOUR}(?!\w)",
        rf"(?<!\w)(?:(?P<after_first>viertel|{_MINUTE})(?: minuten)? nach|(?P<before_first>viertel|{_MINUTE})(?: minuten)? vor) {_HOUR}(?!\w)",
        rf"(?<!\w){_HOUR} uhr(?: (?P<after>{_MINUTE}))?(?!\w)",
        rf"(?<!\w){_HOUR} heures?(?: et (?P<after>quart|demie?)| moins (?P<before>le quart|{_MINUTE})| (?P<after_first>{_MINUTE}))?(?!\w)",
        rf"(?<!\w)las? {_HOUR}(?: y (?P<after>cuarto|media|{_MINUTE})| menos (?P<before>cuarto|{_MINUTE})| en punto)?(?!\w)",
        rf"(?<!\w)(?P<before>um quarto|{_MINUTE})(?: minutos)? para (?:as?|a) {_HOUR}(?!\w)",
        rf"(?<!\w)(?:são|é|às?|as) {_HOUR}(?: horas?)?(?: e (?P<after>meia|um quarto|{_MINUTE})| em ponto| horas?)?(?!\w)",
        rf"差(?P<before>一刻|{_HAN_MINUTE})分?(?:钟)?{_HAN_HOUR}点",
        rf"{_HAN_HOUR}点(?:钟|整)?(?:差(?P<before>一刻|{_HAN_MINUTE})分?|过?(?P<after>半|一刻|三刻|{_HAN_MINUTE})分?)?",
    )
)


@dataclass(frozen=True)
class Clock:
    """A time of day in minutes; `open` says that the half of the day is not named."""

    minutes: int
    open: bool


@dataclass(frozen=True)
class Day:
    """The readings of a date, as (year or None, month, day)."""

    readings: frozenset[tuple[int | None, int, int]]


def clocks(text: str) -> list[Clock]:
    """The times of day in a plain text in lower case."""
    result = []
    for match in _TIME.finditer(text):
        named = match["zh"] or match["half"]
        timed = match["minute"] is not None and match["mark"] != "."
        if not (timed or named or match["whole"] or (match["minute"] and match["clock"])):
            continue
        hour, minute = int(match["hour"]), int(match["minute"] or 0)
        if hour > 24 or minute > 59:
            continue
        if named:
            late = (
                match["zh"] in ("下午", "晚上", "傍晚")
                or (match["zh"] == "中午" and hour < HALF_DAY - 1)
                or bool(_AFTERNOONS.fullmatch(named))
            )
            hour = hour % HALF_DAY + (HALF_DAY if late or (match["zh"] == "中午" and hour >= HALF_DAY) else 0) if hour <= HALF_DAY else hour
        result.append(Clock(hour % 24 * 60 + minute, not named and 1 <= hour <= HALF_DAY))
    return result


def spoken_clocks(text: str) -> list[Clock]:
    """The times of day in words, in a plain text in lower case: "ten past ten", "halb vier", "las cuatro y cuarto", "三点半"."""
    for pattern in _SPOKEN:
        match = pattern.search(text)
        if match is None:
            continue
        groups = match.groupdict()
        hour = _number(groups["hour"])
        if groups.get("half_before") is not None:  # "halb vier" is half past three
            minutes = 60 * hour - 30
        else:
            after = _minutes(groups.get("after") or groups.get("after_first"))
            before = _minutes(groups.get("before") or groups.get("before_first"))
            minutes = 60 * hour + after - before
        half = _HALF_AFTER.match(text, match.end())
        late = bool(half and half["late"]) or re.search(r"下午|晚上|傍晚", text) is not None
        named = late or half is not None or re.search(r"上午|早上|凌晨", text) is not None
        if late and hour < HALF_DAY:
            minutes += HALF_DAY * 60
        return [Clock(minutes % (24 * 60), not named and 1 <= hour <= HALF_DAY)]
    return []


def _number(words: str) -> int:
    if words.isdigit():
        return int(words)
    return from_han(words) if words[0] in HAN else VALUES[words]


def _minutes(words: str | None) -> int:
    if words is None:
        return 0
    if words in _QUARTERS:
        return _QUARTERS[words]
    return _number(words)


def days(text: str, *, day_first: bool = False) -> list[Day]:
    """The dates in a plain text in lower case; `day_first` where its language writes 5/3 for the fifth of March."""
    by_position: dict[int, Day] = {}
    for pattern in _DATES:
        for match in pattern.finditer(text):
            groups = match.groupdict()
            month = MONTHS[groups["name"]] if groups.get("name") else int(groups["month"])
            day = _day(int(groups["year"]) if groups["year"] else None, month, int(groups["day"]))
            if day is not None:
                by_position.setdefault(match.start(), Day(frozenset((day,))))
    for match in _NUMERIC.finditer(text):
        year = int(match["year"]) + (2000 if len(match["year"]) == 2 else 0)
        one, two = int(match["one"]), int(match["two"])
        orders = [(two, one)] if match["mark"] == "." or day_first else [(one, two), (two, one)]
        readings = frozenset(day for month, number in orders if (day := _day(year, month, number)) is not None)
        if readings:
            by_position.setdefault(match.start(), Day(readings))
    return [by_position[start] for start in sorted(by_position)]


def same_clock(reference: Clock, answer: Clock) -> bool | None:
    """Whether two times are the same; None where one does not name the half of the day and the other one names the second."""
    if reference.minutes == answer.minutes:
        return True
    if (reference.open or answer.open) and reference.minutes % (12 * 60) == answer.minutes % (12 * 60):
        return None
    return False


def same_day(reference: Day, answer: Day) -> bool | None:
    """Whether two dates are the same; None where their readings or a missing year leave it open."""
    if reference.readings == answer.readings:
        return True
    matches = [_agree(one, other) for one in reference.readings for other in answer.readings]
    if not any(matches):
        return False
    certain = len(reference.readings) == len(answer.readings) == 1 and next(iter(answer.readings))[0] is not None
    return True if certain else None


def _agree(one: tuple[int | None, int, int], other: tuple[int | None, int, int]) -> bool:
    return one[1:] == other[1:] and (one[0] is None or other[0] is None or one[0] == other[0])


def _day(year: int | None, month: int, day: int) -> tuple[int | None, int, int] | None:
    try:
        date(year or 2000, month, day)
    except ValueError:
        return None
    return year, month, day
