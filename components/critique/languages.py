"""Which language a text is in, as far as its script and its commonest words say: enough to see that an answer came in another one.

A script that one language writes names the language. Among languages in Latin or Cyrillic letters the function words decide; a text with too
few of them, such as most short reasons, stays with its script alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

WORDS = {
    "en": "the and is of to in it that this are was with not but an be from does has which there as on for at by its what",
    "de": "der die das und ist nicht ein eine es den dem mit auf auch aber im zu sind wird wurde von sich wie aus des einen nur noch",
    "fr": "le la les et est une des du dans pas que qui il elle sur pour avec mais ce cette sont au aux ne être en se par plus",
    "es": "el la los las y es una de en que no del se con por para pero este esta como al su lo son más hay está un",
    "it": "il la le gli e è una di che non del della con per ma questo questa sono nel si dei alla come più anche al lo un",
    "pt": "o a os as e é uma de que não do da em com por para mas este esta como no na são dos um se ao mais foi",
    "nl": "de het een en is van niet dat die in op te zijn met voor maar ook deze er aan als wordt bij naar geen om dit",
    "pl": "i w na jest nie się z do że to jak od po ale co ma są dla o za tak przez przy ten ta",
    "ru": "и в не на что это с как по но из за от для он она у к же его так есть то был",  # noqa: RUF001 -- Cyrillic is meant
    "uk": "і в не на що це з як по але за від для він вона у до та його так є бо був ці",  # noqa: RUF001 -- as above
    "tr": "ve bir bu da de için ile çok ama olarak değil var daha gibi olan ne kadar sonra her yok",
    "vi": "và là của có không trong một cho được với này các những người đã khi từ như thì",
    "id": "yang dan di ini itu dengan untuk tidak dari dalam pada adalah ke oleh ada juga akan sebagai karena",
}
FUNCTION_WORDS = {language: frozenset(words.split()) for language, words in WORDS.items()}
LEAST_HITS, LEAST_LEAD = 3, 1.3  # function words, and how many times those of the next language
NAMED = {"HANGUL": "ko", "HIRAGANA": "ja", "KATAKANA": "ja", "THAI": "th", "GREEK": "el", "HEBREW": "he", "DEVANAGARI": "hi"}
_WORD = re.compile(r"[^\W\d_]+")


class Language(NamedTuple):
    """The script of most letters ("" without letters), and the language, where the text shows one."""

    script: str
    name: str | None


def language_of(text: str) -> Language:
    """The language of `text`."""
    scripts = Counter(_script(character) for character in text if character.isalpha())
    if not scripts:
        return Language("", None)
    script = scripts.most_common(1)[0][0]
    kana = scripts["HIRAGANA"] + scripts["KATAKANA"]
    if script == "CJK" and kana:
        script = "HIRAGANA"
    if script == "CJK":
        return Language(script, "zh")
    if script in NAMED:
        return Language("HIRAGANA" if NAMED[script] == "ja" else script, NAMED[script])
    words = [word.casefold() for word in _WORD.findall(text)]
    hits = sorted(((sum(word in common for word in words), language) for language, common in FUNCTION_WORDS.items()), reverse=True)
    (most, language), (next_most, _) = hits[0], hits[1]
    return Language(script, language if most >= LEAST_HITS and most >= LEAST_LEAD * next_most else None)


def differs(text: str, references: Sequence[str], usual: Language) -> bool:
    """Whether `text` is in the language of none of `references`.

    A reference too short to show its language is taken to be in the `usual` one, where its script is; else its script alone counts.
    """
    own = language_of(text)
    others = [usual if other == Language(usual.script, None) else other for other in map(language_of, references) if other.script]
    return bool(others) and not any(_alike(own, other) for other in others)


def _alike(one: Language, other: Language) -> bool:
    if one.name is not None and other.name is not None:
        return one.name == other.name
    return one.script == other.script


def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split()[0]
