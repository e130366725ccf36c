"""A query as the conversation that a server is asked to continue, so that it reads what the local model reads.

The server renders the model's own chat template and splits the text into tokens itself. It then reads other tokens than the local decoder in
two cases: a token spans the border between prompt and response, or a text holds a special token. The first is rare and left as it is; the
second would let data give orders to the model, so such a text is not sent. Videos are not sent either: the interface has no form for frames that
servers agree on. Nor is a picture within a text sent where the template moves it to the front: the local model reads it in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from components.endpoints.pictures import exact_picture
from components.endpoints.request import Message, Picture, Request
from components.errors import UserError
from components.families.chat_template import TEXT, Shape, judge_turns, shape_of
from components.families.processing import Preprocessor
from components.preferences.media import locate
from components.preferences.record import Kind, Medium, Query, Turn

MEGABYTE = 1_000_000


class Conversations:
    """Requests for the model whose files `preprocessor` reads; `identity` is the digest of its weights."""

    def __init__(self, preprocessor: Preprocessor, identity: str, max_image_mb: float) -> None:
        self._preprocessor, self._identity = preprocessor, identity
        self._max_bytes = int(max_image_mb * MEGABYTE)
        self._openings: dict[Shape, bool] = {}
        self._orders: dict[Shape, bool] = {}

    def judgement(self, query: Query, response: str, instruction: str, max_tokens: int, *, blank: bool = False) -> Request:
        """The request for a critique of a response (paper section 3); `blank` shows gray pictures of the same sizes.

        Raises UserError where the server would open the answer otherwise than the reward model learned it.
        """
        *earlier, last = judge_turns(query, instruction)
        template, turns = self._preprocessor.template, (*earlier, Turn("user", (*last.pieces[:-1], last.pieces[-1] + response)))
        if not _cached(self._openings, template.opens_as_judged, turns, query):
            raise UserError(
                "the chat template opens an answer with a text that the reward model never saw (a thought, say), and a server would "
                "write it: set critique.engine to local"
            )
        return self._request(query, turns, max_tokens, blank=blank)

    def answer(self, query: Query, max_tokens: int) -> Request:
        """The request for a policy's answer."""
        return self._request(query, query.turns, max_tokens, blank=False)

    def local_reason(self, query: Query, *texts: str) -> str | None:
        """Why the texts about a query can't be sent: "video", "special token", "picture within text"; None if they can."""
        if "video" in query.kinds:
            return "video"
        if any(token in text for text in (*(turn.text for turn in query.turns), *texts) for token in self._special):
            return "special token"
        for turns in (query.turns, judge_turns(query, TEXT)):
            if not _cached(self._orders, self._preprocessor.template.takes_parts, turns, query):
                return "picture within text"
        return None

    @cached_property
    def _special(self) -> list[str]:
        return self._preprocessor.media_tokens()

    def _request(self, query: Query, turns: Sequence[Turn], max_tokens: int, *, blank: bool) -> Request:
        pictures = iter(self._pictures(query, blank=blank))
        messages = []
        for turn in turns:
            first, *others = turn.pieces
            content: list[str | Picture] = [first]
            for piece in others:
                content += [next(pictures), piece]
            messages.append(Message(turn.role, tuple(part for part in content if part != "") or ("",)))
        return Request(tuple(messages), max_tokens, identity=self._identity)

    def _pictures(self, query: Query, *, blank: bool) -> list[Picture]:
        def picture(medium: Medium, key: str) -> Picture:
            path = None if blank else locate(self._preprocessor.media_root, medium.path)
            return exact_picture(key, lambda: self._preprocessor.load_image(medium, blank), path, self._max_bytes)

        return [picture(*item) for item in zip(query.media, self._preprocessor.medium_keys(query, blank=blank), strict=True)]


def _cached(answers: dict[Shape, bool], ask: Callable[[Sequence[Turn], Sequence[Kind]], bool], turns: Sequence[Turn], query: Query) -> bool:
    """`ask` of a conversation, once for each shape."""
    shape = shape_of(turns, query.kinds)
    if shape not in answers:
        answers[shape] = ask(turns, query.kinds)
    return answers[shape]
