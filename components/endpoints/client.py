"""The one client of OpenAI-compatible servers.

- An answer is written to the cache when it comes, in one transaction: a killed run resumes, and no answer is asked for a second time.
- 429, 408, 409, 5xx, time-outs, cut connections and bodies that are no completion are faults: the request is sent again, at `Pace`'s pace.
  More than `retries` of them in a run end it; the answers stay.
- Another 4xx is the request's own fault. The first request of a run shows that server, model and key are right; later refusals are returned.
- The estimate of the cost comes before the first request. A run that exceeds `max_cost` by it does not start.
- The key is read from the environment when a run starts, and stands in no log, message, cache or setting.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from components.endpoints.request import Answer, Refusal, Request
from components.endpoints.run import Run, Server, Store, Usage
from components.errors import UserError

if TYPE_CHECKING:
    from components.config.endpoint import EndpointSettings, ServerSettings

DIGEST_CHARACTERS = 12  # of the weights' digest, in a served model's name


@dataclass(frozen=True)
class Estimate:
    """What a run will take at most: texts to write and those in the cache, tokens of both sides, and the cost."""

    texts: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cost: float

    def sentence(self, name: str, url: str) -> str:
        """The estimate for a person."""
        tokens = f"about {self.prompt_tokens:,} tokens in, at most {self.completion_tokens:,} out"
        return f"{name}: {self.texts:,} texts from {url} ({self.cached:,} cached): {tokens}, at most {self.cost:.2f} in cost"


class Client:
    """Asks one server, `name` in section `endpoint`, for texts of `model`. `log` gets the estimate."""

    def __init__(
        self,
        name: str,
        model: str,
        settings: EndpointSettings,
        store: Store,
        *,
        backoff_seconds: float = 1.0,
        log: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        self.name, self.model, self.settings, self.store = f"endpoint.{name}", model, settings, store
        self.server: ServerSettings = getattr(settings, name)
        self.usage = Usage()
        self._backoff_seconds, self._log = backoff_seconds, log

    def cached(self, requests: Sequence[Request]) -> list[Answer | None]:
        """The answers that came before, without asking for any."""
        keys = [request.key(self.model) for request in requests]
        values = self.store.find(keys)
        return [Answer(**values[key]) if key in values else None for key in keys]

    def estimate(self, requests: Sequence[Request]) -> Estimate:
        """What `complete` would take at most; equal requests count once."""
        missing = self._missing(requests)
        prompt = sum(request.prompt_tokens(self.settings.image_tokens) for request in missing.values())
        completion = sum(request.max_tokens for request in missing.values())
        distinct = len({request.key(self.model) for request in requests})
        return Estimate(len(missing), distinct - len(missing), prompt, completion, self._server("").cost(prompt, completion))

    def complete(self, requests: Sequence[Request], label: str, unit: str = "text") -> list[Answer | Refusal]:
        """The answer to each request, or why there is none, in order.

        Raises UserError for an estimate above `max_cost` and for a server that refuses model, key or the first request; ServiceAway where
        no server answers at all; InfrastructureFault after too many faults.
        """
        missing = self._missing(requests)
        refusals: dict[str, Refusal] = {}
        if missing:
            estimate = self.estimate(requests)
            self._log(estimate.sentence(label, self.server.url))
            if estimate.cost > self.settings.max_cost:
                raise UserError(
                    f"{label} may cost {estimate.cost:.2f}, more than endpoint.max_cost {self.settings.max_cost:.2f}: nothing was sent; "
                    "raise the cap, or ask for less"
                )
            with tqdm(total=len(missing), desc=label, unit=unit, mininterval=1) as bar:
                server, proven = self._server(self.api_key()), estimate.cached > 0
                run = Run(server, self.settings, self.store, bar.update, backoff_seconds=self._backoff_seconds, proven=proven)
                try:
                    refusals = asyncio.run(run.ask_all(missing))
                finally:
                    self.usage = run.usage
        answers = self.cached(requests)
        return [answer or refusals[request.key(self.model)] for request, answer in zip(requests, answers, strict=True)]

    def api_key(self) -> str:
        """The key from the environment, or a word for servers that need none. Raises UserError for an unset variable."""
        if not self.server.key:
            return "none"
        value = os.environ.get(self.server.key, "")
        if not value:
            raise UserError(f"{self.name} takes its key from {self.server.key}, which is not set: export it, or set {self.name}.key")
        return value

    def _missing(self, requests: Sequence[Request]) -> dict[str, Request]:
        by_key = {request.key(self.model): request for request in requests}
        for key in self.store.find(by_key):
            del by_key[key]
        return by_key

    def _server(self, key: str) -> Server:
        server = self.server
        return Server(self.name, self.model, server.url, key, server.key, server.input_price, server.output_price)


def served_name(weights: str) -> str:
    """The name at a server of the model whose digest is `weights`; no other weights have it."""
    return f"mmalign-{weights[:DIGEST_CHARACTERS]}"
