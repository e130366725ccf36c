"""One run against a server: workers that send request after request, and what comes of each.

An answer is stored when it comes. A fault is sent again at `Pace`'s pace, a refusal is returned, and what concerns every request ends the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol

from components.endpoints.pace import Pace
from components.endpoints.request import Answer, Refusal, Request, UnsendablePicture
from components.errors import InfrastructureFault, ServiceAway, UserError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from components.config.endpoint import EndpointSettings

FAULTS = frozenset({408, 409, 425, 429})  # and every status from 500 on
CROWDED = 429
SERVER_FAULT = 500
UNKNOWN_KEY, NO_RIGHT, NO_MODEL = 401, 403, 404
FRUITLESS_TRIES = 5  # of a server that has answered nothing yet, and of one request while others get answers
LONGEST_WAIT = 900.0  # seconds that a server may ask to be left in peace
CONNECT_SECONDS = 10.0  # that a server may take to accept a connection
SHOWN_CHARACTERS = 200  # of a server's message
MILLION = 1e6
# What openai raises, beside errors of its own, on a proxy's page, a cut body, and one that was made to fail.
OF_BODY = (AttributeError, LookupError, RecursionError, TypeError, ValueError)


class Store(Protocol):
    """Answers by key, as JSON values; what is stored survives a kill."""

    def find(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values that are there, by key."""
        ...

    def store(self, values: Mapping[str, Any]) -> None:
        """Keep all of `values`, or none of them."""
        ...


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


@dataclass(frozen=True)
class Server:
    """A server as a run needs it: its name in messages, the model's name there, address, key with its variable ("" without), prices."""

    name: str
    model: str
    url: str
    key: str = field(repr=False)
    key_name: str
    input_price: float
    output_price: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The price of so many tokens."""
        return (prompt_tokens * self.input_price + completion_tokens * self.output_price) / MILLION


class Run:
    """One run of a client: workers that take request after request, and what they share."""

    def __init__(
        self,
        server: Server,
        settings: EndpointSettings,
        store: Store,
        progress: Callable[[int], Any],
        *,
        backoff_seconds: float,
        proven: bool,
    ) -> None:
        self.server, self.settings, self.store, self.progress = server, settings, store, progress
        self.usage = Usage()
        self._backoff_seconds = backoff_seconds
        self._proven = proven  # earlier answers show that server and model are right
        self._fault: Exception | None = None

    async def ask_all(self, requests: Mapping[str, Request]) -> dict[str, Refusal]:
        """Ask for every text; answers go to the store. Returns the refusals."""
        from openai import AsyncOpenAI, Timeout

        from components.endpoints.bounded import BoundedClient

        settings = self.settings
        timeout = Timeout(settings.timeout_seconds, connect=min(settings.timeout_seconds, CONNECT_SECONDS))
        self._pace = Pace(settings.concurrency, settings.requests_per_minute, settings.tokens_per_minute, self._backoff_seconds)
        # A short request goes first: of all, it has the least reason to be refused for itself.
        queue = iter(sorted(requests.items(), key=lambda item: item[1].prompt_tokens(settings.image_tokens)))
        refusals: dict[str, Refusal] = {}
        key, url = self.server.key, self.server.url
        async with AsyncOpenAI(api_key=key, base_url=url, max_retries=0, timeout=timeout, http_client=BoundedClient()) as server:

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
            body = await asyncio.to_thread(request.body, self.server.model)
        except UnsendablePicture as error:
            self._count(refusals=1)
            return Refusal(str(error))
        tokens = request.prompt_tokens(self.settings.image_tokens) + request.max_tokens
        if self.usage.cost > self.settings.max_cost:
            self._end(
                UserError(
                    f"{self.server.name} has cost {self.usage.cost:.2f} so far, more than endpoint.max_cost {self.settings.max_cost:.2f} and than "
                    "estimated: raise the cap or endpoint.image_tokens and run again; the answers are cached"
                )
            )
            return None
        tries, answers_before = 0, self.usage.answers
        while (generation := await self._pace.enter(tokens)) is not None:
            tries += 1
            self._count(requests=1)
            outcome = await self._send(server, body)
            if isinstance(outcome, Answer):
                self.store.store({key: asdict(outcome)})
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

    async def _send(self, server: AsyncOpenAI, body: dict[str, Any]) -> Answer | Failure:
        from openai import APIConnectionError, APIResponseValidationError, APIStatusError, APITimeoutError

        from components.endpoints.bounded import answer_of

        try:
            async with asyncio.timeout(self.settings.timeout_seconds):  # openai's own bound begins anew with every byte
                completion = await server.chat.completions.create(**body)
            return answer_of(completion)
        except (APITimeoutError, TimeoutError):
            return Failure(True, f"no answer within {self.settings.timeout_seconds:g} seconds")
        except APIConnectionError as error:
            return Failure(True, f"no connection ({self._clean(str(error.__cause__ or error))})")
        except APIStatusError as error:
            retry = error.status_code in FAULTS or error.status_code >= SERVER_FAULT
            wait = wait_seconds(error.response.headers.get("retry-after"))
            return Failure(retry, self._clean(str(error.message)), error.status_code, wait)
        except (APIResponseValidationError, *OF_BODY):
            return Failure(True, "a body that is no completion")

    def _bear(self, failure: Failure) -> None:
        """Note a fault; end the run if it is one too many."""
        where, retries = f"the server at {self.server.url} ({self.server.name})", self.settings.retries
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

    def _refused(self, failure: Failure) -> Refusal | None:
        """A refusal of one request; of all, if server, key or model are wrong."""
        server = self.server
        where = f"the server at {server.url}"
        if failure.status in {UNKNOWN_KEY, NO_RIGHT}:
            source = (
                f"the key in {server.key_name}" if server.key_name else f"a request without a key: name its variable in {server.name}.key"
            )
            self._end(UserError(f"{where} refuses {source} (status {failure.status})"))
        elif failure.status == NO_MODEL:
            self._end(
                UserError(
                    f"{where} serves no model '{server.model}': start it with the command that `mmalign model serve-command` prints, or set "
                    f"{server.name}.model and .url ({failure.reason})"
                )
            )
        elif self.usage.answers == 0 and not self._proven:
            self._end(UserError(f"{where} ({server.name}, model '{server.model}') refuses the first request: {failure.reason}"))
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
        self.usage = replace(usage, cost=self.server.cost(usage.prompt_tokens, usage.completion_tokens))

    def _clean(self, message: str) -> str:
        if self.server.key_name:
            message = message.replace(self.server.key, "***")
        return " ".join(message.split())[:SHOWN_CHARACTERS]


@dataclass(frozen=True)
class Failure:
    """A request without an answer: whether to send it again, why, its HTTP status, and the wait that the server asked for."""

    retry: bool
    reason: str
    status: int | None = None
    wait_seconds: float | None = None


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
