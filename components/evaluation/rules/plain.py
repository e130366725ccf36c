"""A text without what says nothing: markup, typographic variants, phrases that only introduce an answer."""

from __future__ import annotations

import re
import unicodedata

_SIGNS = {
    **dict.fromkeys("‐‑‒–−﹣", "-"),
    **dict.fromkeys("‘’‛′＇", "'"),
    **dict.fromkeys("“”„«»″「」『』《》", '"'),
    "\u00a0": " ",
    "\u202f": " ",
    "\u2009": " ",
    "—": ", ",
    "。": ". ",
    "、": ", ",
    "⁄": "/",
    "×": "x",
}
_TABLE = str.maketrans(_SIGNS)
_MARKUP = re.compile(r"\*\*|__|`+|^\s*#{1,6}\s+|^\s*>\s+|\$\$|\\\(|\\\)|\\\[|\\\]|</?[a-z]+>", re.MULTILINE)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}|\\text\{([^{}]*)\}")
_LETTER = re.compile(r"\$\s*\(?([A-Ja-j])\)?\s*\$")
_EMPHASIS = re.compile(r"(?<![\w*])\*(?=\S)([^*\n]+)(?<=\S)\*(?![\w*])")
_PREFACE = re.compile(
    r"^(?:(?:so|thus|therefore|hence|also|daher|donc|por lo tanto|portanto|因此|所以|sure|certainly|of course|okay|ok|natürlich|gerne|bien sûr|"
    r"claro|certo|好的)\s*[,!.:，！：]\s*)?"
    r"(?:based on [^,]*,\s*|according to [^,]*,\s*|in (?:the|this) (?:image|picture|photo),?\s*|(?:auf|in) dem (?:bild|foto),?\s*|"
    r"(?:sur|dans) (?:l'image|la photo),?\s*|en la (?:imagen|foto),?\s*|na (?:imagem|foto),?\s*|(?:在)?(?:图片|图像|照片|图)(?:中|里|上),?\s*)?"
    r"(?:(?:the|my)?\s*(?:final |correct |right |short )?answer(?: to (?:the|this|your) question)?(?: is|:| would be)|answer|"
    r"(?:die |meine )?(?:richtige |korrekte )?antwort(?: ist| lautet|:)|(?:la )?(?:bonne )?réponse(?: correcte)?(?: est|:)|"
    r"(?:la )?respuesta(?: correcta)?(?: es|:)|(?:a )?resposta(?: correta| certa)?(?: é|:)|(?:正确)?答案(?:是|为|:)|答:|it is|it's|this is|"
    r"that is|they are|there are|there is|es ist|das ist|es sind|c'est|ce sont|il s'agit d[e'u]|il y a|es gibt|es|son|hay|é|são|há|是|有)"
    r"(?![\w'])\s*:?\s*",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[!?；！？])\s*|(?<=[.;])\s+(?=\S)|\n+")


def plain(text: str) -> str:
    """`text` in composed form, with usual marks in place of their variants, without markup, spaces once."""
    text = unicodedata.normalize("NFKC", text.replace("½", " 1/2").replace("¼", " 1/4").replace("¾", " 3/4"))
    text = text.translate(_TABLE)
    for _ in range(2):  # \\boxed{\\text{C}}
        text = _BOXED.sub(lambda match: match[1] or match[2] or "", text)
    text = _LETTER.sub(r"\1", text)
    text = _EMPHASIS.sub(r"\1", _MARKUP.sub("", text))
    return "\n".join(line for raw in text.splitlines() if (line := " ".join(raw.split())))


def bare(text: str) -> str:
    """`text` as equality reads it: plain, without case, introducing phrase, quotes and closing marks."""
    text = plain(text).casefold()
    return re.sub(r"\s+", " ", without_preface(text)).strip(" .!,;:\"'()[]")


def without_preface(text: str) -> str:
    """`text` without the phrase that introduces it."""
    shorter = _PREFACE.sub("", text, count=1)
    return shorter if shorter.strip(" .!,;:\"'()[]*") else text


def sentences(text: str) -> list[str]:
    """The sentences of a plain text; each line ends one."""
    return [sentence for part in _SENTENCE.split(text) if (sentence := part.strip())]
