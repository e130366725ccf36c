"""Number words from 0 to 100 in six languages, and Chinese numerals."""

from __future__ import annotations

import re

_UNITS = {
    "en": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen",
    "de": "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit dix-neuf",
    "es": (
        "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis diecisiete dieciocho diecinueve "
        "veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete veintiocho veintinueve"
    ),
    "pt": "zero um dois três quatro cinco seis sete oito nove dez onze doze treze catorze quinze dezesseis dezessete dezoito dezenove",
}
_TENS = {
    "en": "twenty thirty forty fifty sixty seventy eighty ninety hundred",
    "de": "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig hundert",
    "fr": "vingt trente quarante cinquante soixante soixante-dix quatre-vingts quatre-vingt-dix cent",
    "es": "veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa cien",
    "pt": "vinte trinta quarenta cinquenta sessenta setenta oitenta noventa cem",
}
_MORE = {
    "duas": 2, "quatorze": 14, "dezasseis": 16, "dezassete": 17, "dezanove": 19, "einhundert": 100, "one hundred": 100, "a hundred": 100,
    "septante": 70, "huitante": 80, "nonante": 90, "zwo": 2, "quatre-vingt": 80, "a dozen": 12, "ein dutzend": 12, "une douzaine": 12,
    "una docena": 12, "uma dúzia": 12, "none": 0, "keine": 0, "ninguno": 0, "ninguna": 0, "nenhum": 0, "nenhuma": 0, "aucun": 0, "aucune": 0,
}  # fmt: skip
# Words that are a number where they stand alone, and an article or pronoun elsewhere.
ARTICLES = frozenset(
    [
        "one",
        "a",
        "an",
        "ein",
        "eine",
        "einen",
        "einem",
        "einer",
        "un",
        "une",
        "una",
        "uno",
        "um",
        "uma",
        "none",
        "keine",
        "ninguno",
        "ninguna",
        "nenhum",
        "nenhuma",
        "aucun",
        "aucune",
    ]
)
_DIGITS = {"零": 0, "〇": 0, "一": 1, "二": 2, "两": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9}
_PLACES = {"十": 10, "百": 100, "千": 1000, "万": 10000}
HAN = "零〇一二两三四五六七八九十百千万"


def _words() -> dict[str, int]:
    table = dict(_MORE)
    for language, names in _UNITS.items():
        for value, word in enumerate(names.split()):
            table.setdefault(word, value)
        for position, word in enumerate(_TENS[language].split(), start=2):
            table.setdefault(word, 10 * position)
    for language, names in _UNITS.items():
        units = names.split()
        for position, ten in enumerate(_TENS[language].split()[:-1], start=2):
            for value in range(1, 20):
                for word in _joined(language, ten, units[value], value):
                    table.setdefault(word, 10 * position + value)
    return table


def _joined(language: str, ten: str, unit: str, value: int) -> list[str]:
    if value > 9 and not (language == "fr" and ten in ("soixante", "quatre-vingts")):
        return []
    if language == "de":
        return [f"{'ein' if value == 1 else unit}und{ten}"]
    if language == "fr":
        stem = ten.removesuffix("s") if ten.startswith("quatre") else ten
        return [f"{stem}-{unit}", f"{stem} et {unit}", f"{stem}-et-{unit}", f"{stem} {unit}"]
    return {"en": [f"{ten}-{unit}", f"{ten} {unit}"], "es": [f"{ten} y {unit}"], "pt": [f"{ten} e {unit}"]}[language]


VALUES = _words()
PATTERN = re.compile(r"(?<![\w-])(?:" + "|".join(re.escape(word) for word in sorted(VALUES, key=len, reverse=True)) + r")(?![\w-])")


def from_han(numeral: str) -> int:
    """The value of a Chinese numeral, such as 二十三."""
    if not any(character in _PLACES for character in numeral):
        return int("".join(str(_DIGITS[character]) for character in numeral))
    total, section, digit = 0, 0, 0
    for character in numeral:
        if character in _DIGITS:
            digit = _DIGITS[character]
        elif character == "万":
            total, section, digit = (total + section + digit) * _PLACES[character], 0, 0
        else:
            section, digit = section + (digit or 1) * _PLACES[character], 0
    return total + section + digit
