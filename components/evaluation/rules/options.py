"""Answers to multiple choice: which option's letter a text names, with or without the option's text."""

from __future__ import annotations

import re
from collections.abc import Mapping

from components.evaluation.rules.phrase_words import HEDGE
from components.evaluation.rules.plain import bare, plain, sentences

LONGEST_CONCLUSION = 40  # characters: "So the correct answer is option C."
_REFERENCE = re.compile(r"^\(?(?P<letter>[A-J])\)?(?:[.):,]\s*(?P<text>.+)?)?$|^\(?(?P<lone>[a-j])[.)]?$", re.DOTALL)
_IN_QUESTION = re.compile(r"(?:^|[\n,;]|(?<=\s))\s*\(?(?P<letter>[A-J])[.):]\s*(?P<text>[^\n;]+?)(?=\s*(?:[\n,;]|\s\(?[A-J][.):]\s)|\s*$)")
_WORDS = r"(?:answer|option|choice|antwort|réponse|respuesta|resposta|opción|opção|letra|alternativa|buchstabe|lettre|letter|答案|选项|选择|选|应选|应该选)"
_NAMED = re.compile(
    rf"(?i:{_WORDS})(?i:\s*(?:is|would be|should be|ist|lautet|est|es|é|是|为|应为|correct[ae]?|correcta|correta|certa|korrekt|final[e]?|definitiva|"
    r"the|la|die|a)?)*\s*[:：]?\s*"  # noqa: RUF001
    r"[\"'(\[]*(?:option\s|opción\s|opção\s|选项)?(?P<letter>[A-J])(?![\w'])"
)
_LEADING = re.compile(r"^[\"'(\[]*(?P<letter>[A-J])(?:[\"')\].:,]+(?!\w)|\s*$|\s*[-:]\s|\s+(?=\())")
_CLOSING = re.compile(r"(?:^|\s|:)[\"'(\[]*(?P<letter>[A-J])[\"')\]]*\.?$")
_ANY = re.compile(r"(?<![\w'])\(?(?P<letter>[A-J])\)?(?![\w']|\.[mM]\b)")
_EITHER = re.compile(r"\w+ [\"'(\[]*[A-J][\"')\]]* (?:or|oder|ou|o|或者?) [\"'(\[]*[A-J](?![\w'])")
_AGAINST = re.compile(
    r"\b(?:not|isn't|wrong|incorrect|nicht|falsch|pas|fausse|no es|não é|incorrecta|incorreta)\b|不是|错误|不选", re.IGNORECASE
)


_NONE_OF = re.compile(
    r"(?:none|neither) of (?:the|these|those)(?: (?:above|options?|choices|answers|given))?"
    r"(?: (?:options?|choices|answers|is correct|are correct|apply|fits?))?|"
    r"keine (?:der|von den) (?:genannten |gegebenen |obigen )?(?:antworten|optionen|möglichkeiten)(?: (?:trifft zu|ist richtig|passt|stimmt))?|"
    r"aucune (?:de ces|des)(?: (?:réponses|options|propositions|choix))?(?: (?:proposées|ci-dessus|précédentes))?|"
    r"ninguna de las (?:anteriores|opciones|respuestas)(?: (?:anteriores|es correcta))?|"
    r"nenhuma das (?:alternativas|opções|respostas|anteriores)(?: (?:acima|anteriores|está correta|é correta))?|以上(?:选项)?(?:都|均|皆)不(?:是|对|正确)"
)


def option_of(reference: str) -> tuple[str, str | None] | None:
    """(letter, its text or None) of a reference answer that names an option, else None."""
    match = _REFERENCE.match(plain(reference).strip())
    if match is None:
        return None
    return (match["letter"] or match["lone"].upper()), (match["text"] or "").strip(" .") or None


def options_in(question: str) -> dict[str, str]:
    """Options by letter, as a question lists them."""
    options = {match["letter"]: match["text"].strip(" .,") for match in _IN_QUESTION.finditer(plain(question))}
    return options if list(options) == [chr(ord("A") + number) for number in range(len(options))] and len(options) > 1 else {}


def judge_option(reference: tuple[str, str | None], options: Mapping[str, str], answer: str) -> bool | None:
    """Whether an answer chooses the reference's option; None where it does not show which one it chooses."""
    letter, text = reference
    options = dict(options) if text is None else {**options, letter: text}
    answer = plain(answer).strip()
    if _EITHER.search(answer) or HEDGE.search(answer.casefold()):
        return None
    if _NONE_OF.fullmatch(bare(answer)):
        named = [name for name, text in options.items() if _NONE_OF.fullmatch(bare(text))]
        return named == [letter] if named or options else None
    letters = _letters(answer)
    if letters is None:
        return False
    if len(letters) > 1:
        return None
    if letters:
        (chosen,) = letters
        choice = sentences(answer)[-1] if _concluded(answer) == letters else answer  # what reasons for it may name other options
        return None if _contradicts(chosen, options, choice) else chosen == letter
    return _by_text(letter, options, answer)


def _letters(answer: str) -> set[str] | None:
    """The letters that an answer chooses; None for one that lists several as its answer."""
    lower = re.fullmatch(
        r"(?:.*(?:answer|antwort|réponse|respuesta|resposta|答案)\W{0,4})?\(?([a-j])[.)]*", answer, re.IGNORECASE | re.DOTALL
    )
    if lower is not None and lower[1].islower():
        return {lower[1].upper()}
    listed = re.fullmatch(
        r"[\"'(\[]*[A-J][\"')\].]*(?:\s*(?:,|and|or|/|und|oder|et|ou|y|o|e|和|或|&|\s)\s*[\"'(\[]*[A-J][\"')\].]*)+", answer
    )
    if listed is not None and len(set(re.findall(r"[A-J]", answer))) > 1:
        return None
    named = {
        match["letter"] for match in _NAMED.finditer(answer) if not _AGAINST.search(answer[max(0, match.start() - 12) : match.end() + 14])
    }
    mentioned = _mentioned(answer)
    if named:
        return named if mentioned <= named else _concluded(answer) or named | mentioned
    leading = _LEADING.match(answer)
    if leading is not None:
        later = _LEADING.match(answer.splitlines()[-1]) if "\n" in answer else None
        lines = [head["letter"] for line in answer.splitlines() if (head := _LEADING.match(line)) is not None]
        if later is not None and len(set(lines)) > 1:
            return set(lines)
        return max({leading["letter"]}, mentioned)
    closing = _CLOSING.search(answer)
    if closing is not None and not _AGAINST.search(answer):
        return max({closing["letter"]}, mentioned)
    return mentioned if len(mentioned) > 1 else set()


def _mentioned(text: str) -> set[str]:
    """All letters in a text that may be options; "A" and "I" before another word are words."""
    return {match["letter"] for match in _ANY.finditer(text) if not (match["letter"] in "AI" and text[match.end() :][:1] == " ")}


def _concluded(answer: str) -> set[str] | None:
    """The letter that the last sentence names as the answer, where it mentions no other one."""
    last = sentences(answer)[-1]
    match = _NAMED.search(last)
    if match is None or _AGAINST.search(last) or _mentioned(last) != {match["letter"]} or len(last) > LONGEST_CONCLUSION:
        return None
    return {match["letter"]}


def _contradicts(letter: str, options: Mapping[str, str], answer: str) -> bool:
    """Whether an answer names a letter and the text of another option, and not its own option's."""
    text, lower = options.get(letter), bare(answer)
    others = [bare(other) for name, other in options.items() if name != letter]
    if text is not None and bare(text) in lower:
        return False
    if any(len(other) > 1 and re.search(rf"(?<!\w){re.escape(other)}(?!\w)", lower) for other in others):
        return True
    rest = re.match(r"^[\"'(\[]*[A-J][\"')\]]*[.:)]\s*(?P<rest>[^\n]+)$", answer)
    return rest is not None and text is not None and not _same(rest["rest"], text)


def _same(one: str, other: str) -> bool:
    return bare(one) in bare(other) or bare(other) in bare(one)


def _by_text(letter: str, options: Mapping[str, str], answer: str) -> bool | None:
    """Whether an answer without a letter is the text of one option."""
    lower = bare(answer)
    equal = [name for name, text in options.items() if bare(text) == lower]
    if len(equal) == 1:
        return equal[0] == letter
    stated = [
        name
        for name, text in options.items()
        if bare(text) and re.search(rf"(?<![\w.:,]){re.escape(bare(text))}(?![\w:]|[.,]\d)", lower) and not _AGAINST.search(answer)
    ]
    if len(stated) == 1 and len(options) > 1:
        return stated[0] == letter
    return None
