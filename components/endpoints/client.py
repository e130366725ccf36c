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
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

from components.endpoints.pace import Pace
from components.endpoints.request import Answer, Refusal, Request, UnsendablePicture
from components.errors import InfrastructureFault, ServiceAway, UserError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from components.config.endpoint import EndpointSettings, ServerSettings

FAULTS = frozenset({408, 409, 425, 429})  # and every status from 500 on
CROWDED = 429
SERVER_FAULT = 500
UNKNOWN_KEY, NO_RIGHT, NO_MODEL = 401, 403, 404
FRUITLESS_TRIES = 5  # of a server that has answered nothing yet, and of one request while others get answers
LONGEST_WAIT = 900.0  # seconds that a server may ask to be left in peace
SHOWN_CHARACTERS = 200  # of a server's message
MILLION = 1e6
DIGEST_CHARACTERS = 12  # of the weights' digest, in a served model's name


class Store(Protocol):
    """Answers by key, as JSON values; what is stored survives a kill."""

    def find(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values that are there, by key."""
        ...

    def store(self, values: Mapping[str, Any]) -> None:
        """Keep all of `values`, or none of them."""
        ...


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


@dataclass(frozen=True)
class Usage:
    """What a run took."""

    requests: int = 0
    answers: int = 0
    refusals: int = 0
    faults: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


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
        return Estimate(len(missing), distinct - len(missing), prompt, completion, self._cost(prompt, completion))

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
                run = _Run(self, bar.update, self._backoff_seconds, proven=estimate.cached > 0)
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

    def _cost(self, prompt: int, completion: int) -> float:
        return (prompt * self.server.input_price + completion * self.server.output_price) / MILLION


class _Run:
    """One run of a client: workers that take request after request, and what they share."""

    def __init__(self, client: Client, progress: Callable[[int], Any], backoff_seconds: float, *, proven: bool) -> None:
        self.client, self.settings, self.progress = client, client.settings, progress
        self._proven = proven  # earlier answers show that server and model are right
        self.usage = Usage()
        self._backoff_seconds = backoff_seconds
        self._key = client.api_key()
        self._fault: Exception | None = None

    async def ask_all(self, requests: Mapping[str, Request]) -> dict[str, Refusal]:
        """Ask for every text; answers go to the store. Returns the refusals."""
        from openai import AsyncOpenAI

        settings = self.settings
        self._pace = Pace(settings.concurrency, settings.requests_per_minute, settings.tokens_per_minute, self._backoff_seconds)
        # A short request goes first: of all, it has the least reason to be refused for itself.
        queue = iter(sorted(requests.items(), key=lambda item: item[1].prompt_tokens(settings.image_tokens)))
        refusals: dict[str, Refusal] = {}
        async with AsyncOpenAI(
            api_key=self._key, base_url=self.client.server.url, max_retries=0, timeout=settings.timeout_seconds
        ) as server:

            async def work() -> None:
                for key, request in queue:
                    outcome = await self._ask(server, key, request)
                    if self._fault is not None:
                        return
                    if isinstance(outcome, Refusal):
                        refusals[key] = outcome
                    self.progress(1)

            await asyncio.gather(*(work() for _ in range(min(settings.concurrency, len(requests)))))
        if self._fault is not None:
            raise self._fault
        return refusals

    async def _ask(self, server: AsyncOpenAI, key: str, request: Request) -> Answer | Refusal | None:
        """One text: its answer, stored; a refusal; or None once the run has failed."""
        try:
            body = await asyncio.to_thread(request.body, self.client.model)
        except UnsendablePicture as error:
            self._count(refusals=1)
            return Refusal(str(error))
        tokens = request.prompt_tokens(self.settings.image_tokens) + request.max_tokens
        tries, answers_before = 0, self.usage.answers
        while (generation := await self._pace.enter(tokens)) is not None:
            tries += 1
            self._count(requests=1)
            outcome = await self._send(server, body)
            if isinstance(outcome, Answer):
                self.client.store.store({key: asdict(outcome)})
                self._count(answers=1, prompt_tokens=outcome.prompt_tokens, completion_tokens=outcome.completion_tokens)
                self._pace.answered()
                return outcome
            if not outcome.retry:
                self._count(refusals=1)
                self._pace.answered()
                return self._refused(outcome)
            self._count(faults=1)
            self._pace.failed(generation, crowded=outcome.status == CROWDED, wait_seconds=outcome.wait_seconds)
            self._bear(outcome)
            if tries >= FRUITLESS_TRIES and outcome.status != CROWDED and self.usage.answers - answers_before >= FRUITLESS_TRIES:
                return Refusal(f"no answer to {tries} requests while others were answered; the last: {outcome.reason}")
        return None

    async def _send(self, server: AsyncOpenAI, body: dict[str, Any]) -> Answer | _Failure:
        from openai import APIConnectionError, APIResponseValidationError, APIStatusError, APITimeoutError

        try:
            completion = await server.chat.completions.create(**body)
            choice = completion.choices[0]
            usage = completion.usage
            return Answer(
                text=choice.message.content or "",
                finish=choice.finish_reason or "stop",
                prompt_tokens=usage.prompt_tokens if usage else 0,
                completion_tokens=usage.completion_tokens if usage else 0,
            )
        except APITimeoutError:
            return _Failure(True, f"no answer within {self.settings.timeout_seconds:g} seconds")
        except APIConnectionError as error:
            return _Failure(True, f"no connection ({self._clean(str(error.__cause__ or error))})")
        except APIStatusError as error:
            retry = error.status_code in FAULTS or error.status_code >= SERVER_FAULT
            wait = wait_seconds(error.response.headers.get("retry-after"))
            return _Failure(retry, self._clean(str(error.message)), error.status_code, wait)
        except (APIResponseValidationError, json.JSONDecodeError, AttributeError, IndexError, TypeError):
            return _Failure(True, "a body that is no completion")  # a proxy's page, or a cut one

    def _bear(self, failure: _Failure) -> None:
        """Note a fault; end the run if it is one too many."""
        where, retries = f"the server at {self.client.server.url} ({self.client.name})", self.settings.retries
        if self.usage.answers == 0 and failure.status is None and self.usage.faults >= min(FRUITLESS_TRIES, retries + 1):
            self._end(ServiceAway(f"{where} answers nothing: {failure.reason}; start it (mmalign model serve-command), or set its url"))
        elif failure.wait_seconds is not None and failure.wait_seconds > LONGEST_WAIT:
            self._end(
                InfrastructureFault(f"{where} asks to wait {failure.wait_seconds:.0f} seconds: run again then; the answers are cached")
            )
        elif self.usage.faults > retries:
            self._end(
                InfrastructureFault(
                    f"{where} left {self.usage.faults} requests without an answer, more than endpoint.retries; the last: {failure.reason}. "
                    "Run again when it is well: the answers are cached"
                )
            )

    def _refused(self, failure: _Failure) -> Refusal | None:
        """A refusal of one request; of all, if server, key or model are wrong."""
        client = self.client
        where = f"the server at {client.server.url}"
        if failure.status in {UNKNOWN_KEY, NO_RIGHT}:
            source = (
                f"the key in {client.server.key}"
                if client.server.key
                else f"a request without a key: name its variable in {client.name}.key"
            )
            self._end(UserError(f"{where} refuses {source} (status {failure.status})"))
        elif failure.status == NO_MODEL:
            self._end(
                UserError(
                    f"{where} serves no model '{client.model}': start it with the command that `mmalign model serve-command` prints, or set "
                    f"{client.name}.model and .url ({failure.reason})"
                )
            )
        elif self.usage.answers == 0 and not self._proven:
            self._end(UserError(f"{where} ({client.name}, model '{client.model}') refuses the first request: {failure.reason}"))
        else:
            return Refusal(failure.reason)
        return None

    def _end(self, fault: Exception) -> None:
        if self._fault is None:
            self._fault = fault
            self._pace.close()

    def _count(self, **amounts: int) -> None:
        counts = {name: getattr(self.usage, name) + amount for name, amount in amounts.items()}
        usage = replace(self.usage, **counts)
        self.usage = replace(usage, cost=self.client._cost(usage.prompt_tokens, usage.completion_tokens))  # noqa: SLF001 -- one module

    def _clean(self, message: str) -> str:
        return " ".join(message.replace(self._key, "***").split())[:SHOWN_CHARACTERS]


@dataclass(frozen=True)
class _Failure:
    """A request without an answer: whether to send it again, why, its HTTP status, and the wait that the server asked for."""

    retry: bool
    reason: str
    status: int | None = None
    wait_seconds: float | None = None


def served_name(weights: str) -> str:
    """The name at a server of the model whose digest is `weights`; no other weights have it."""
    return f"mmalign-{weights[:DIGEST_CHARACTERS]}"


def wait_seconds(header: str | None) -> float | None:
    """Seconds from the value of a Retry-After header, a number or a date; None without a readable one."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
