"""When the next request may start: a cap on requests under way, rates a minute, and pauses after faults that all requests share.

- Requests and tokens are spread evenly over the minute, so that no window of 60 seconds holds more than its share and one request.
- The number under way begins at one and grows with every answer. A fault halves it where the server is crowded (429), else sets it to one:
  a server that is down is asked by one request at a time, after pauses of 1, 2, 4 ... 60 seconds, or as long as it asks for.
- Faults of requests that were under way together count as one.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

LONGEST_PAUSE = 60.0  # seconds between two tries of a server that names no time itself


@dataclass
class Pace:
    """The pace of one run against one server. `backoff_seconds` is the first pause after a fault."""

    concurrency: int
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    backoff_seconds: float = 1.0
    allowed: float = field(default=1.0, init=False)
    under_way: int = field(default=0, init=False)
    _generation: int = field(default=0, init=False)
    _faults: int = field(default=0, init=False)  # in a row, without an answer
    _crowded: bool = field(default=False, init=False)
    _resume_at: float = field(default=0.0, init=False)
    _request_at: float = field(default=0.0, init=False)
    _tokens_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._order = asyncio.Lock()
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()

    async def enter(self, tokens: int) -> int | None:
        """Wait until a request of about `tokens` may start. Returns the number by which its fault is told from later ones; None once closed."""
        async with self._order:
            while not self._closed.is_set():
                now = time.monotonic()
                ready = max(self._resume_at, self._request_at, self._tokens_at)
                if self.under_way >= max(1, int(self.allowed)):
                    self._changed.clear()
                    await self._changed.wait()
                elif ready > now:
                    await self._sleep(ready - now)
                else:
                    self.under_way += 1
                    if self.requests_per_minute:
                        self._request_at = now + 60 / self.requests_per_minute
                    if self.tokens_per_minute:
                        self._tokens_at = now + 60 * tokens / self.tokens_per_minute
                    return self._generation
        return None

    def answered(self) -> None:
        """A request got its answer, so the server is well."""
        self._faults = 0
        self.allowed = min(float(self.concurrency), self.allowed + (1 / self.allowed if self._crowded else 1))
        self._leave()

    def failed(self, generation: int, *, crowded: bool, wait_seconds: float | None) -> None:
        """A request got none. `wait_seconds` is what the server asked for."""
        if generation == self._generation:
            self._generation += 1
            self._faults += 1
            self._crowded = crowded
            self.allowed = max(1.0, self.allowed / 2) if crowded else 1.0
            pause = min(LONGEST_PAUSE, self.backoff_seconds * 2 ** min(self._faults - 1, 16))
            pause *= random.uniform(0.5, 1.0)  # noqa: S311 -- spreads tries of several clients; nothing secret
            self._resume_at = max(self._resume_at, time.monotonic() + pause)
        if wait_seconds is not None:
            wait = wait_seconds * random.uniform(1.0, 1.1)  # noqa: S311 -- as above, and never sooner than asked
            self._resume_at = max(self._resume_at, time.monotonic() + wait)
        self._leave()

    def close(self) -> None:
        """Let nobody start any more."""
        self._closed.set()
        self._changed.set()

    def _leave(self) -> None:
        self.under_way -= 1
        self._changed.set()

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._closed.wait(), seconds)
        except TimeoutError:
            pass
