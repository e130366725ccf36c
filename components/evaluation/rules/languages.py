"""Which texts the rules may read: those in English, German, French, Spanish, Portuguese or Chinese, as far as script and common words show.

- A text without letters, or with an option's letter alone, belongs to every language.
- Latin letters need evidence: a common word of a known language. A sentence in which another language has more evidence makes the text unread.
- A word that several languages share counts for each of them a fraction, so that "la" decides nothing and "della" does.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from components.evaluation.rules.language_words import CHARACTERS, OTHERS, WORDS

KNOWN = ("en", "de", "fr", "es", "pt", "zh")
_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE = re.compile(r"[.!?;:\n。！？；]+")  # noqa: RUF001 -- full-width marks are meant
_LANGUAGES = {name: frozenset(words.split()) for name, words in {**WORDS, **OTHERS}.items()}
_SHARED = Counter(word for words in _LANGUAGES.values() for word in words)
FEW_WORDS = 2
FEW_LETTERS = 3  # of another script, such as the Greek of a formula
LEAD_SURELY = 0.8  # the least evidence for another language against one that has some
LEAD = 0.4  # by which another language's evidence in one sentence must exceed that of the known ones


@lru_cache(maxsize=8192)
def language_of(text: str) -> str:
    """A known language's name, "" for a text that belongs to every language, "?" for one without evidence, "other" for another language."""
    text = unicodedata.normalize("NFKC", text)
    scripts = Counter(_script(character) for character in text if character.isalpha())
    foreign = sum(number for script, number in scripts.items() if script not in ("LATIN", "CJK"))
    if scripts["HIRAGANA"] or scripts["KATAKANA"] or scripts["HANGUL"] or foreign >= FEW_LETTERS:
        return "other"
    words = [word for word in _WORD.findall(text) if len(word) > 1 and not _is_cjk(word)]
    if not words:
        return "zh" if scripts["CJK"] else ""
    scores = _scores(words)
    best = max(WORDS, key=lambda name: scores[name])
    other = max(scores[name] for name in OTHERS)
    if other > scores[best] + (LEAD if len(words) > 1 else 0) and (scores[best] == 0 or other >= LEAD_SURELY):
        return "other"
    if scores["CJK"] or scripts["CJK"] > len(words):
        return "zh"
    return best if scores[best] > other or (len(words) == 1 and scores[best] == other > 0) else "?"


def readable(*texts: str) -> bool:
    """Whether the rules may judge by these texts, the question first: together in known languages, and no sentence of them in another one."""
    question, *others = texts
    whole = language_of(" . ".join(texts))
    neutral = len(question.split()) <= FEW_WORDS and not any(map(language_of, others))  # "Value?" and numbers
    if whole == "other" or (whole == "?" and not neutral):
        return False
    return all(language_of(sentence) != "other" for text in texts for sentence in _SENTENCE.split(text) if sentence.strip())


def first_language(texts: Iterable[str]) -> str:
    """The known language of the first text that shows one; "" where none does."""
    return next((name for name in map(language_of, texts) if name in KNOWN), "")


def _scores(words: list[str]) -> Counter[str]:
    scores: Counter[str] = Counter()
    for word in (word.casefold() for word in words):
        for name, common in _LANGUAGES.items():
            if word in common:
                scores[name] += 1 / _SHARED[word]  # type: ignore[assignment]  # a fraction, where many languages have the word
        for name, characters in CHARACTERS.items():
            if any(character in characters for character in word):
                scores[name] += 1
    return scores


def _is_cjk(word: str) -> bool:
    return _script(word[0]) == "CJK"


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split()[0]
