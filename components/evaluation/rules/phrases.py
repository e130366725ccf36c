"""Yes and no, lists, and short statements: what an answer in words says against a reference."""

from __future__ import annotations

import re

from components.evaluation.rules.plain import bare, plain, sentences, without_preface

_YES = r"yes|yeah|yep|correct|that's correct|true|ja|jawohl|richtig|stimmt|wahr|oui|vrai|si|sí|claro que sí|verdadero|cierto|sim|verdadeiro|是的?|对的?|有的?|正确|没错|会的?|可以|能"
_NO = r"no|nope|false|incorrect|nein|falsch|non|faux|falso|não|nao|falso|否|不是的?|不对|没有|不|错误?|不会|不可以|不能|无"
_POLAR = re.compile(rf"^(?:(?P<yes>{_YES})|(?P<no>{_NO}))(?=$|[\s,.;:!，。；])", re.IGNORECASE)
NEGATION = re.compile(
    r"(?<!\w)(?:no|not|never|none|neither|nor|without|cannot|\w+n't|nicht|kein\w*|nie|niemals|weder|ohne|ne|n'|pas|aucune?|jamais|sans|ni|nunca|"
    r"ningun[oa]?|ningún|sin|não|nenhuma?|nem|sem|jamais)(?!\w)|[不没无非未]"
)
HEDGE = re.compile(
    r"\b(?:not sure|unsure|uncertain|cannot (?:tell|determine|say|see)|can't (?:tell|determine|say|see)|unclear|unable to (?:tell|determine|see)|"
    r"hard to (?:tell|say)|might|maybe|perhaps|possibly|probably|either|depends|nicht sicher|unklar|vielleicht|möglicherweise|nicht erkennen|"
    r"pas sûr|peut-être|impossible de|difficile|incertain|no estoy segur\w|quizás?|tal vez|no se puede|no puedo|não tenho certeza|talvez|não é possível|"
    r"não consigo|could be|kann ich nicht|je ne peux pas|je ne sais pas|no sé|não sei|don't know|weiß (?:ich )?nicht|keine ahnung)|不确定|可能|也许|无法|不清楚|不知道|看不"
)
_COLORS = {
    "red": "red rot rote roter rotes roten rouge rouges rojo roja rojos rojas vermelho vermelha vermelhos vermelhas 红 红色",
    "blue": "blue blau blaue blauer blaues blauen bleu bleue bleus bleues azul azules azuis 蓝 蓝色",
    "green": "green grün grüne grüner grünes grünen vert verte verts vertes verde verdes 绿 绿色",
    "yellow": "yellow gelb gelbe gelber gelbes gelben jaune jaunes amarillo amarilla amarillos amarillas amarelo amarela amarelos amarelas 黄 黄色",
    "black": "black schwarz schwarze schwarzer schwarzes schwarzen noir noire noirs noires negro negra negros negras preto preta pretos pretas 黑 黑色",
    "white": "white weiß weiße weißer weißes weißen blanc blanche blancs blanches blanco blanca blancos blancas branco branca brancos brancas 白 白色",
    "brown": "brown braun braune brauner braunes braunen marron brun brune marrón castanho castanha 棕色 褐色 棕",
    "gray": "gray grey grau graue grauer graues grauen gris grise grises cinza cinzento 灰 灰色",
    "orange": "orange naranja laranja 橙 橙色 橘色",
    "purple": "purple violet lila violett violette morado morada púrpura roxo roxa 紫 紫色",
    "pink": "pink rosa rose rosado rosada 粉 粉色 粉红色",
}
_SIDES = {
    "left": "left links linke linken gauche izquierda esquerda 左 左边 左侧",
    "right": "right rechts rechte rechten droite derecha direita 右 右边 右侧",
    "top": "top above upper oben haut dessus arriba cima superior 上 上面 上方",
    "bottom": "bottom below lower unten bas dessous abajo baixo inferior 下 下面 下方",
}
CLASSES = [{word: value for value, words in table.items() for word in words.split()} for table in (_COLORS, _SIDES)]
# Words that an answer may add without changing what it says.
_SMALL = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "was",
        "were",
        "be",
        "it",
        "its",
        "this",
        "that",
        "these",
        "those",
        "there",
        "here",
        "he",
        "she",
        "they",
        "i",
        "you",
        "we",
        "in",
        "on",
        "at",
        "of",
        "to",
        "and",
        "with",
        "for",
        "from",
        "by",
        "has",
        "have",
        "does",
        "do",
        "image",
        "picture",
        "photo",
        "color",
        "colour",
        "shown",
        "shows",
        "visible",
        "appears",
        "seen",
        "see",
        "can",
        "person",
        "people",
        "photograph",
        "scene",
        "says",
        "say",
        "reads",
        "read",
        "written",
        "displayed",
        "der",
        "die",
        "das",
        "ein",
        "eine",
        "einen",
        "einem",
        "einer",
        "ist",
        "sind",
        "war",
        "es",
        "im",
        "in",
        "auf",
        "dem",
        "den",
        "des",
        "von",
        "zu",
        "und",
        "mit",
        "am",
        "zum",
        "zur",
        "sich",
        "bild",
        "foto",
        "farbe",
        "hat",
        "man",
        "zu",
        "sehen",
        "zeigt",
        "steht",
        "lautet",
        "sagt",
        "le",
        "la",
        "les",
        "l",
        "un",
        "une",
        "des",
        "du",
        "de",
        "d",
        "est",
        "sont",
        "c",
        "ce",
        "cette",
        "ces",
        "il",
        "elle",
        "ils",
        "elles",
        "dans",
        "sur",
        "à",
        "au",
        "aux",
        "et",
        "avec",
        "a",
        "y",
        "image",
        "photo",
        "couleur",
        "on",
        "voit",
        "dit",
        "indique",
        "el",
        "los",
        "las",
        "lo",
        "una",
        "unos",
        "unas",
        "del",
        "es",
        "son",
        "está",
        "están",
        "en",
        "y",
        "con",
        "se",
        "hay",
        "ve",
        "ese",
        "esta",
        "este",
        "imagen",
        "color",
        "tiene",
        "dice",
        "pone",
        "o",
        "os",
        "as",
        "um",
        "uma",
        "uns",
        "umas",
        "do",
        "da",
        "dos",
        "das",
        "no",
        "na",
        "nos",
        "nas",
        "é",
        "são",
        "em",
        "e",
        "com",
        "ao",
        "à",
        "esse",
        "essa",
        "este",
        "imagem",
        "foto",
        "cor",
        "tem",
        "vê",
        "diz",
    ]
)
_SMALL_HAN = re.compile(r"图片|图像|照片|图中|画面|颜色|写着|显示|这个|那个|这是|那是|[是的了在有里上中着呢个它他她这那一]")
_WORD = re.compile(r"[\u4e00-\u9fff]+|[^\W_]+")
_ITEM = re.compile(r"\s*(?:[,;、\n]|(?<!\w)(?:and|und|et|y|e|or|&)(?!\w)|和|与|以及|及)\s*")
_MARK = re.compile(r"^(?:[-*•]|\d+[.)])\s+")
_ORDER = re.compile(
    r"order|sequence|first.*(?:then|last)|from left to right|from top|reihenfolge|von links|ordre|de gauche à droite|orden|de izquierda|ordem|da esquerda|顺序|依次|从左|从上",
    re.IGNORECASE,
)
_FIGURES = re.compile(r"\d(?:[\d.,:/-]*\d)?")
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
    first = polarity(answer)
    if first is not None:
        others = {polarity(sentence) for sentence in sentences(lower)[1:]} - {None, first}
        if others or re.match(r"^\W*(?:yes and no|ja und nein|jein|oui et non|sí y no|sim e não)", lower):
            return None
        return first == reference
    if HEDGE.search(lower) or len(sentences(lower)) > 1:
        return None
    asked, stated = _content(question) - _QUESTIONING, _content(answer)
    if not asked or not asked <= stated or len(stated - asked) > 0:
        return None
    return (NEGATION.search(lower) is None) == reference


def judge_list(question: str, reference: str, answer: str) -> bool | None:
    """Whether an answer lists the reference's items, in any order unless the question asks for one; None where it can't be read as a list."""
    expected, listed = _items(reference), _items(answer)
    if expected is None:
        return None
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
    expected, stated, asked = _content(reference), _content(answer), _content(question)
    if _class_values(expected) and _class_values(stated):
        classed = _judge_class(expected, stated, asked, (one, other))
        if classed is not None:
            return classed
    if not expected or _FIGURES.findall(one) != _FIGURES.findall(other):
        return None
    if expected <= stated and not (stated - expected - asked):
        if _negated(one) != _negated(other):
            return False
        return True if _in_order(reference, answer) else None
    return None


def _judge_class(expected: set[str], stated: set[str], asked: set[str], texts: tuple[str, str]) -> bool | None:
    """The verdict where reference and answer each name colors, or each name sides."""
    wanted, named = _class_values(expected), _class_values(stated)
    if _negated(texts[0]) != _negated(texts[1]) or len(wanted) != 1 or len(expected) > len(wanted) + 1:
        return None
    if wanted == named:
        return True if not ({w for w in stated if not _class_of(w)} - asked - expected) and len(expected) == 1 else None
    comparable = any(wanted <= set(table.values()) and named <= set(table.values()) for table in CLASSES)
    if not comparable or wanted & named:
        return None
    return False if len(stated - asked) <= len(named) + 1 else None


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


def _item(text: str) -> str:
    words = [word for word in text.strip(" .!\"'()[]").split() if word not in _SMALL]
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
        words.update(part for part in parts if part and part not in _SMALL and not NEGATION.fullmatch(part))
    return {word for word in words if not re.fullmatch(r"n|t|don|doesn|isn|aren|s|qu|j", word)}


_QUESTIONING = frozenset(
    [
        "what",
        "which",
        "who",
        "where",
        "when",
        "why",
        "how",
        "any",
        "gibt",
        "est-ce",
        "que",
        "qu",
        "qué",
        "cuál",
        "há",
        "existe",
        "existem",
        "吗",
        "什么",
    ]
)


def _negated(text: str) -> bool:
    return len(NEGATION.findall(re.sub(r"^(?:no|nein|non|não|不)\s*[,.]\s*", "", text))) % 2 == 1


def _in_order(reference: str, answer: str) -> bool:
    """Whether the reference's words with meaning stand in the answer in the same order."""
    wanted = [word for word in _WORD.findall(bare(reference)) if word not in _SMALL]
    words = iter(_WORD.findall(bare(answer)))
    return all(any(word in other if "\u4e00" <= word[0] <= "\u9fff" else word == other for other in words) for word in wanted)
