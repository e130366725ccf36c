"""The prompt by which a model expands a person's short reason into a critique. Its version and digest stand in every line of the output.

The person's scores are not shown: the model's own verdict, from the reason alone, is then a check that it has not turned the reason round.
"""

from __future__ import annotations

import re

from components.files import digest_bytes
from components.preferences.record import Query, Response
from components.preferences.turns import transcript

VERSION = "expansion-1"  # a new one with every change of the texts below
SYSTEM = """\
You turn a reviewer's short note about an answer into a full review of that answer.

Rules:
- The note decides. Keep its judgement and every fault or merit that it names; add none that contradicts it.
- Explain: say what in the picture or the question shows that the note is right, and where the answer shows it. Write what you can see, and \
nothing that you guess.
- Write two to five sentences, in the language of the note. Speak of "the answer"; mention neither the note nor the reviewer.
- End with one more line of exactly one of these three forms, in English:
VERDICT: good
VERDICT: mixed
VERDICT: bad"""
TEXT = """\
Question:
{question}

Answer:
{answer}

The reviewer's note on the answer:
{reason}"""
DIGEST = digest_bytes(VERSION, SYSTEM, TEXT)

_VERDICT = re.compile(r"\n?[ \t>*_#`]*verdict[ \t*_`]*:[ \t*_`]*(good|mixed|bad)[ \t*_`.]*\s*\Z", re.IGNORECASE)


def prompt_for(query: Query, response: Response) -> str:
    """The text of the request."""
    return TEXT.format(question=transcript(query), answer=response.text, reason=response.critique)


def parse(text: str) -> tuple[str, str | None]:
    """The critique without its last line, and the verdict of that line: good, mixed, bad, or None where there is no such line."""
    match = _VERDICT.search(text)
    if match is None:
        return text.strip(), None
    return text[: match.start()].strip(), match[1].lower()
