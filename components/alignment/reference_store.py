"""The store of reference log-probs: one entry a response, in Parquet, from which the stage's out is selected.

- An entry belongs to a query, a response's bytes and a `Context`: the model, processor and template, the limits on lengths and the dtype. A
  context has a folder of its own under .mmalign/cache/reference/, so nothing of another one is ever returned.
- Fresh entries go to part files, each written whole and renamed; `compact` joins them into entries.parquet. A kill loses what was not yet
  written, at most `FLUSH_SECONDS` of work, and leaves no half entry. Several processes may write parts beside each other.
- What is there is not replaced: old responses keep their values to the last bit when a query gets new ones and is computed again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from components.checkout import Checkout
from components.errors import StageFault
from components.files import digest_bytes, read_json, write_atomic, write_json
from components.preferences.colors import WHITE
from components.preferences.record import Query

ENTRIES, CONTEXT = "entries.parquet", "context.json"
FLUSH_SECONDS = 2.0  # how long fresh entries wait for company, so that small batches don't become thousands of files
SCHEMA = pa.schema([("query", pa.string()), ("response", pa.string()), ("log_prob", pa.float64()), ("tokens", pa.int32())])
Entry = tuple[float, int]  # sum of log-probs, tokens


@dataclass(frozen=True)
class Context:
    """What a log-prob depends on beside the query and the response. `row_tokens` shapes the batches, and so the last bits.

    `code` is the digest of the reference stage's code.
    """

    code: str
    model: str
    processor: str
    template: str
    dtype: str
    max_length: int
    max_frames: int
    row_tokens: int
    background: str = WHITE

    @property
    def digest(self) -> str:
        """Names the context's folder."""
        return digest_bytes(*(f"{name}={value}" for name, value in sorted(asdict(self).items())))[:24]


def store_key(query: Query, *, blank: bool = False) -> str:
    """Names a query and its responses, so that each response is found by itself: digests of the conversation with its media, and of each response.

    `blank` names the query with gray media in place of its own.
    """
    name = digest_bytes(*query.content, *(["blank"] if blank else []))
    return ":".join([name, *(digest_bytes(response.text) for response in query.responses)])


class ReferenceStore:
    """Entries of one context in `checkout`. Values of `find` and `store` are lists of (log-prob sum, tokens), one a response."""

    def __init__(self, checkout: Checkout, context: Context, flush_seconds: float = FLUSH_SECONDS) -> None:
        self.folder = checkout.cache("reference") / context.digest
        self._flush_seconds = flush_seconds
        self._fresh: dict[tuple[str, str], Entry] = {}
        self._flushed = time.monotonic()
        self._seen: set[str] = set()  # files that are read; a part is never changed once it is there
        self._entries: dict[tuple[str, str], Entry] = {}
        described = self.folder / CONTEXT
        if described.is_file():
            if read_json(described) != asdict(context):
                raise StageFault(f"{described} tells of another model or processor than its folder's name: remove {self.folder}")
        else:
            write_json(described, asdict(context))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.flush()

    def find(self, keys: Iterable[str]) -> dict[str, list[Entry]]:
        """The values of those queries whose responses are all there, by key."""
        self._read_new()
        complete: dict[str, list[Entry]] = {}
        for key in keys:
            query, *responses = key.split(":")
            values = [self._entries.get((query, response)) for response in responses]
            stored = [value for value in values if value is not None]
            if len(stored) == len(values):
                complete[key] = stored
        return complete

    def store(self, values: Mapping[str, Any]) -> None:
        """Keep the entries of whole queries; those that are known stay as they are."""
        for key, entries in values.items():
            query, *responses = key.split(":")
            for response, (log_prob, tokens) in zip(responses, entries, strict=True):
                if (query, response) not in self._entries:
                    self._entries[query, response] = self._fresh[query, response] = (float(log_prob), int(tokens))
        if time.monotonic() - self._flushed >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Write the fresh entries to a part file."""
        if self._fresh:
            # Named by what is in it: a part that is written twice is one file.
            name = digest_bytes(*(part for key in sorted(self._fresh) for part in key))[:24]
            self._write(self.folder / f"part-{name}.parquet", self._fresh)
            self._fresh = {}
        self._flushed = time.monotonic()

    def compact(self) -> None:
        """Join all parts into one file. For the one process that is left when all have written."""
        self.flush()
        self._read_new()
        parts = sorted(self.folder.glob("part-*.parquet"))
        if not parts:
            return
        self._write(self.folder / ENTRIES, self._entries)
        for part in parts:
            part.unlink()

    def _read_new(self) -> None:
        for path in [self.folder / ENTRIES, *sorted(self.folder.glob("part-*.parquet"))]:
            if path.is_file() and path.name not in self._seen:
                self._seen.add(path.name)
                columns = pq.read_table(path).to_pydict()
                for query, response, log_prob, tokens in zip(*(columns[name] for name in SCHEMA.names), strict=True):
                    self._entries.setdefault((query, response), (log_prob, tokens))

    def _write(self, path: Path, entries: Mapping[tuple[str, str], Entry]) -> None:
        ordered = sorted(entries)
        columns = [
            [query for query, _ in ordered],
            [response for _, response in ordered],
            [entries[key][0] for key in ordered],
            [entries[key][1] for key in ordered],
        ]
        table = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        write_atomic(path, buffer.getvalue().to_pybytes())
        self._seen.add(path.name)
