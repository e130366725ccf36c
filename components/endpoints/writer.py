"""Texts of one model by a server: asked for once by the process that starts a stage's ranks, then read from the cache by each rank.

What a server can't write (see `conversations`), refuses, or ends for a reason of its own has no text here; the local decoder then writes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from components.checkout import Checkout
from components.config.endpoint import AUTO, EndpointSettings
from components.endpoints.client import Client, served_name
from components.endpoints.conversations import Conversations
from components.endpoints.request import Answer, Refusal, Request
from components.families.processing import Preprocessor
from components.preferences.record import Query
from components.storage.content_cache import ContentCache

Item = TypeVar("Item")
ENDED = ("stop", "length")


@dataclass(frozen=True)
class Written:
    """A text, and whether the model ended it before its last token."""

    text: str
    ended: bool


@dataclass
class ServedWriter(Generic[Item]):
    """Asks a server about items, and hands out what it wrote. `request_of` gives an item's request, or why it is written locally."""

    client: Client
    request_of: Callable[[Item], Request | str]
    counts: Counter[str] = field(default_factory=Counter)

    def ask(self, items: Sequence[Item], label: str) -> None:
        """Ask for the text of every item that the server may write, and count: texts, and local ones by their reason."""
        requests = [self.request_of(item) for item in items]
        sent = [request for request in requests if isinstance(request, Request)]
        self.counts.update(f"local: {request}" for request in requests if isinstance(request, str))
        if sent:
            outcomes = self.client.complete(sent, label)
            refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
            self.counts["local: refused"] += len(refused)
            self.counts["local: ended by the server"] += sum(isinstance(o, Answer) and o.finish not in ENDED for o in outcomes)
            for reason, number in Counter(refusal.reason for refusal in refused).most_common(3):
                print(f"{label}: {number} texts refused ({reason})", flush=True)
        local = sum(number for reason, number in self.counts.items() if reason.startswith("local: "))
        self.counts["served"] = len(items) - local
        reasons = ", ".join(
            f"{number} {reason.removeprefix('local: ')}" for reason, number in self.counts.items() if number and ":" in reason
        )
        print(
            f"{label}: {len(items) - local} texts by {self.client.server.url}, {local} here{f' ({reasons})' if local else ''}", flush=True
        )

    def texts(self, items: Sequence[Item]) -> list[Written | None]:
        """What the server wrote about each item; None where the local decoder has to."""
        requests = [self.request_of(item) for item in items]
        sent = [request for request in requests if isinstance(request, Request)]
        answers = iter(self.client.cached(sent))
        return [_written(next(answers)) if isinstance(request, Request) else None for request in requests]

    def times(self, prefix: str) -> dict[str, float]:
        """The counts for a stage's record."""
        usage = self.client.usage
        counts = {name.replace("local: ", "local_").replace(" ", "_"): number for name, number in self.counts.items() if number}
        return {f"{prefix}.{name}": float(number) for name, number in counts.items()} | {
            f"{prefix}.requests": float(usage.requests),
            f"{prefix}.cost": usage.cost,
        }


def judgement_writer(
    preprocessor: Preprocessor, weights: str, client: Client, instruction: str, max_tokens: int, *, blank: bool = False
) -> ServedWriter[tuple[Query, str]]:
    """The writer of critiques on (query, response) by the reward model whose digest is `weights`."""
    conversations = Conversations(preprocessor, weights, client.settings.max_image_mb)

    def request_of(item: tuple[Query, str]) -> Request | str:
        reason = conversations.local_reason(*item)
        return reason or conversations.judgement(*item, instruction, max_tokens, blank=blank)

    return ServedWriter(client, request_of)


def answer_writer(preprocessor: Preprocessor, weights: str, client: Client, max_tokens: int) -> ServedWriter[Query]:
    """The writer of answers to queries by the policy whose digest is `weights`."""
    conversations = Conversations(preprocessor, weights, client.settings.max_image_mb)

    def request_of(query: Query) -> Request | str:
        return conversations.local_reason(query) or conversations.answer(query, max_tokens)

    return ServedWriter(client, request_of)


def client_for(name: str, weights: str, settings: EndpointSettings, checkout: Checkout) -> Client:
    """The client of the server `name` that writes for the model whose digest is `weights`."""
    model: str = getattr(settings, name).model
    return Client(name, served_name(weights) if model == AUTO else model, settings, ContentCache(checkout, "endpoints"))


def _written(answer: Answer | None) -> Written | None:
    return Written(answer.text, answer.finish == "stop") if answer is not None and answer.finish in ENDED else None
