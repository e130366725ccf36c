"""What a server may send: a body within a bound of bytes, and a completion of the right types. openai checks neither."""

from __future__ import annotations

from typing import Any

from openai import DefaultAsyncHttpxClient

from components.endpoints.request import Answer

MAX_BODY_BYTES = 16 * 2**20
OF_CONTENT = {"content-encoding", "content-length", "transfer-encoding"}  # headers that a body has no more once it is read


class BodyTooLarge(Exception):
    """A server sends a body without end."""


class BoundedClient(DefaultAsyncHttpxClient):
    """openai's own HTTP client, which reads no more of a body, unpacked, than the bound."""

    async def send(self, request: Any, **options: Any) -> Any:
        """The response, read. Raises BodyTooLarge, which openai takes for a lost connection."""
        response = await super().send(request, **options | {"stream": True})
        content = bytearray()
        try:
            async for block in response.aiter_bytes(2**16):
                content += block
                if len(content) > MAX_BODY_BYTES:
                    raise BodyTooLarge(f"an answer of more than {MAX_BODY_BYTES:,} bytes")
        finally:
            await response.aclose()
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in OF_CONTENT]
        return type(response)(response.status_code, headers=headers, content=bytes(content), request=response.request)


def answer_of(completion: Any) -> Answer:
    """The answer in a body that openai has read. Raises AttributeError, LookupError or TypeError for one that is no completion."""
    choice = completion.choices[0]
    text, finish = choice.message.content, choice.finish_reason
    if not isinstance(text, str | None) or not isinstance(finish, str | None):
        raise TypeError("texts of other types")
    usage = completion.usage
    return Answer((text or "").encode(errors="replace").decode(), finish or "stop", _tokens(usage, "prompt"), _tokens(usage, "completion"))


def _tokens(usage: Any, side: str) -> int:
    """The tokens that a server counted; 0 where it states no number of tokens."""
    count = getattr(usage, f"{side}_tokens", None)
    return count if isinstance(count, int) and count > 0 else 0
