"""A request for one text, with a key of everything that the text depends on, and the two things that can come of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from components.files import digest_bytes
from components.preferences.record import Role

CHARACTERS_PER_TOKEN = 3  # in estimates: few tokenizers need more tokens for ordinary text


class UnsendablePicture(Exception):
    """A picture has no form that may be sent; its text says why."""


@dataclass(frozen=True)
class Picture:
    """A picture by the digest of its bytes and of how they are sent. `url` makes the data URL, only when the request is sent."""

    digest: str
    url: Callable[[], str] = field(compare=False)  # raises UnsendablePicture


@dataclass(frozen=True)
class Message:
    """A message of a conversation: its texts and pictures in their order."""

    role: Role
    content: tuple[str | Picture, ...]

    @property
    def text(self) -> str:
        """Its texts."""
        return "".join(part for part in self.content if isinstance(part, str))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Its pictures."""
        return tuple(part for part in self.content if isinstance(part, Picture))


@dataclass(frozen=True)
class Request:
    """A conversation for a model to continue. `temperature` 0 is greedy; None leaves it to the server.

    `identity` names what the text depends on beside what is sent: the digest of the weights, where they are known.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float | None = 0.0
    identity: str = ""

    @classmethod
    def asking(cls, text: str, max_tokens: int, pictures: tuple[Picture, ...] = (), system: str = "", **settings: Any) -> Self:
        """One question about pictures; `settings` are the remaining fields."""
        messages = (*((Message("system", (system,)),) if system else ()), Message("user", (*pictures, text)))
        return cls(messages, max_tokens, **settings)

    def key(self, model: str) -> str:
        """sha256 of the model's name, the messages with their pictures' digests, and the sampling settings."""
        sampling = f"{self.temperature} {self.max_tokens}"
        *earlier, last = self.messages
        system, digests = "".join(message.text for message in earlier), [picture.digest for picture in last.pictures]
        if self == self.asking(last.text, self.max_tokens, last.pictures, system, temperature=self.temperature, identity=self.identity):
            return digest_bytes("1", model, self.identity, sampling, system, last.text, *digests)
        parts = [[m.role, *([part] if isinstance(part, str) else {"picture": part.digest} for part in m.content)] for m in self.messages]
        return digest_bytes("2", model, self.identity, sampling, json.dumps(parts))

    def prompt_tokens(self, image_tokens: int) -> int:
        """About how many tokens the prompt has."""
        characters = sum(len(message.text.encode()) for message in self.messages)
        return -(-characters // CHARACTERS_PER_TOKEN) + image_tokens * sum(len(message.pictures) for message in self.messages)

    def body(self, model: str) -> dict[str, Any]:
        """The body of the request. Raises UnsendablePicture."""
        messages = [
            {"role": message.role, "content": message.text if message.role == "system" else _parts(message)} for message in self.messages
        ]
        sampling = {} if self.temperature is None else {"temperature": self.temperature, "top_p": 1.0}
        return {"model": model, "messages": messages, "max_completion_tokens": self.max_tokens, "stream": False, **sampling}


def _parts(message: Message) -> list[dict[str, Any]]:
    return [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image_url", "image_url": {"url": part.url()}}
        for part in message.content
    ]


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
