"""What two texts have in common as a reader sees them: without what is invisible, in one normal form of Unicode.

- A blank text shows nothing: it consists of spaces and of characters that no font draws.
- The wording of a question is its text without differences of case and space.
"""

from __future__ import annotations

import re
import unicodedata

# Characters that Unicode lists as ignorable when drawn, and fillers that look like a space: an answer of these alone is empty.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)


def visible(text: str) -> str:
    """A text in Unicode's composed form (NFC), without invisible characters and without space at its ends."""
    if text.isascii():
        return text.strip()
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).strip()


def is_blank(text: str) -> bool:
    """Whether a text shows nothing."""
    return not visible(text)


def wording(question: str) -> str:
    """A question without differences of case and space: two questions of one wording ask the same."""
    return " ".join(visible(question).split()).casefold()
