"""A request for one text, with a key of everything that the text depends on, and the two things that can come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from components.files import digest_bytes

CHARACTERS_PER_TOKEN = 3  # in estimates: few tokenizers need more tokens for ordinary text


class UnsendablePicture(Exception):
    """A picture has no form that may be sent; its text says why."""


@dataclass(frozen=True)
class Picture:
    """A picture by the digest of its bytes and of how they are sent. `url` makes the data URL, only when the request is sent."""

    digest: str
    url: Callable[[], str] = field(compare=False)  # raises UnsendablePicture


@dataclass(frozen=True)
class Request:
    """One question to a model. `temperature` 0 is greedy; None leaves it to the server.

    `identity` names what the text depends on beside what is sent: the digest of the weights, where they are known.
    """

    text: str
    max_tokens: int
    pictures: tuple[Picture, ...] = ()
    system: str = ""
    temperature: float | None = 0.0
    identity: str = ""

    def key(self, model: str) -> str:
        """sha256 of the model's name, the messages with their pictures' digests, and the sampling settings."""
        sampling = f"{self.temperature} {self.max_tokens}"
        return digest_bytes("1", model, self.identity, sampling, self.system, self.text, *(picture.digest for picture in self.pictures))

    def prompt_tokens(self, image_tokens: int) -> int:
        """About how many tokens the prompt has."""
        characters = len((self.system + self.text).encode())
        return -(-characters // CHARACTERS_PER_TOKEN) + image_tokens * len(self.pictures)

    def body(self, model: str) -> dict[str, Any]:
        """The body of the request. Raises UnsendablePicture."""
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": picture.url()}} for picture in self.pictures]
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": self.text}]})
        sampling = {} if self.temperature is None else {"temperature": self.temperature, "top_p": 1.0}
        return {"model": model, "messages": messages, "max_completion_tokens": self.max_tokens, "stream": False, **sampling}


@dataclass(frozen=True)
class Answer:
    """A text that came. `finish` is the server's word for why it ended: stop, length, or another."""

    text: str
    finish: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Refusal:
    """No text: the server refused this request alone, or its picture can't be sent."""

    reason: str
