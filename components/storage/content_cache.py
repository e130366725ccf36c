"""An untracked cache of computed values by content key. A stage selects its out from it.

DVC empties outs before a stage runs, so values that must survive lie here: one SQLite file a kind, one transaction a batch. The key of a
value covers all its inputs, so a changed input is a miss.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from components.checkout import Checkout
from components.storage.sqlite import open_database

TABLE = "create table if not exists entries (key text primary key, value text not null) without rowid"
LOOKUP_CHUNK = 500  # keys in one query; SQLite limits the variables of a statement


class ContentCache:
    """Values by key in `checkout`.cache("KIND.sqlite"). A value is any JSON value."""

    def __init__(self, checkout: Checkout, kind: str) -> None:
        self._connection = open_database(checkout.cache(f"{kind}.sqlite"), TABLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()

    def find(self, keys: Iterable[str]) -> dict[str, Any]:
        """The cached values among `keys`, by key."""
        wanted = list(dict.fromkeys(keys))
        cached: dict[str, Any] = {}
        for start in range(0, len(wanted), LOOKUP_CHUNK):
            chunk = wanted[start : start + LOOKUP_CHUNK]
            marks = ",".join("?" * len(chunk))
            rows = self._connection.execute(f"select key, value from entries where key in ({marks})", chunk)  # noqa: S608 - the text holds only question marks
            cached.update((key, json.loads(value)) for key, value in rows)
        return cached

    def store(self, values: Mapping[str, Any] | Sequence[tuple[str, Any]]) -> None:
        """Store all of `values` in one transaction."""
        rows = values.items() if isinstance(values, Mapping) else values
        with self._connection:
            self._connection.executemany("insert or replace into entries values (?, ?)", [(key, json.dumps(value)) for key, value in rows])
