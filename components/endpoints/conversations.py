"""A query as the conversation that a server is asked to continue, so that it reads what the local model reads.

The server renders the model's own chat template and splits the text into tokens itself. It then reads other tokens than the local decoder in
two cases: a token spans the border between prompt and response, or a text holds a special token. The first is rare and left as it is; the
second would let data give orders to the model, so such a text is not sent. Videos are not sent either: the interface has no form for frames
that servers agree on.
"""

from __future__ import annotations

from functools import cached_property

from PIL import Image

from components.endpoints.pictures import exact_picture
from components.endpoints.request import Picture, Request
from components.errors import UserError
from components.families.processing import Preprocessor
from components.preferences.media import locate
from components.preferences.record import Query

MEGABYTE = 1_000_000


class Conversations:
    """Requests for the model whose files `preprocessor` reads; `identity` is the digest of its weights."""

    def __init__(self, preprocessor: Preprocessor, identity: str, max_image_mb: float) -> None:
        self._preprocessor, self._identity = preprocessor, identity
        self._max_bytes = int(max_image_mb * MEGABYTE)
        self._checked: set[str | None] = set()

    def judgement(self, query: Query, response: str, instruction: str, max_tokens: int, *, blank: bool = False) -> Request:
        """The request for a critique of a response (paper section 3); `blank` shows a gray picture of the same size.

        Raises UserError where the server would open the answer otherwise than the reward model learned it.
        """
        kind = query.media_kind
        if kind not in self._checked:
            if not self._preprocessor.opens_as_trained(kind):
                raise UserError(
                    "the chat template opens an answer with a text that the reward model never saw (a thought, say), and a server would "
                    "write it: set critique.engine to local"
                )
            self._checked.add(kind)
        text = self._preprocessor.judge_text(instruction, query.prompt) + response
        return Request(text, max_tokens, self._pictures(query, blank=blank), identity=self._identity)

    def answer(self, query: Query, max_tokens: int) -> Request:
        """The request for a policy's answer."""
        return Request(query.prompt, max_tokens, self._pictures(query, blank=False), identity=self._identity)

    def local_reason(self, query: Query, *texts: str) -> str | None:
        """Why the texts about a query can't be sent: "video" or "special token"; None if they can."""
        if query.media_kind == "video":
            return "video"
        if any(token in text for text in (query.prompt, *texts) for token in self._special):
            return "special token"
        return None

    @cached_property
    def _special(self) -> list[str]:
        return self._preprocessor.media_tokens()

    def _pictures(self, query: Query, *, blank: bool) -> tuple[Picture, ...]:
        if query.media_kind != "image":
            return ()
        assert query.media is not None

        def read() -> Image.Image:
            return self._preprocessor.load_image(query, blank)

        path = None if blank else locate(self._preprocessor.media_root, query.media)
        return (exact_picture(self._preprocessor.medium_key(query, blank=blank), read, path, self._max_bytes),)
