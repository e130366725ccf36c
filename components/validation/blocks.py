"""A file of rows in blocks, and the outcome of each: what can be validated apart, in another process, and remembered.

- A block ends where the digest of a row says so, and not after a number of rows: a new row changes its own block only.
- Lines count from the first one of their block, so that rows above it don't matter.
- An outcome is one Arrow file: a row an accepted query, with its summary, and the refusals in the metadata.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.files import digest_bytes, write_atomic
from components.preferences.faults import RowError
from components.preferences.json_rows import raw_rows
from components.preferences.record import SCHEMA, Query, table_of
from components.validation.summary import SUMMARY, Summary, summary_table

ROWS = 64  # of a block on average: photos take some 30 ms each
MOST_ROWS, MOST_BYTES = 512, 8 * 2**20
PREFIX = "summary_"  # of the summary's columns, beside the query's own
METADATA = b"outcome"
DIGEST_BYTES = 32


@dataclass(frozen=True)
class Block:
    """Rows as bytes (None: overlong), with their lines from `first`; `digest` covers bytes and lines."""

    first: int
    rows: list[tuple[int, bytes | None]]
    digest: str


@dataclass(frozen=True)
class Fault:
    """A refused row of a block: its line from 0, and what `RowError` says."""

    line: int
    kind: str
    field: str
    reason: str


@dataclass
class Outcome:
    """What became of a block's rows. `table` has the accepted queries with their summaries, lines from 0.

    `ranking` is the line and message of a ranking that nobody can read, which ends the reading of the file. `media` are the path, kind and
    state of all media that were examined: a remembered outcome counts while they stay as they are. `unread` counts the fields that nobody reads.
    """

    table: pa.Table
    faults: list[Fault] = field(default_factory=list)
    unread: dict[str, int] = field(default_factory=dict)
    media: list[tuple[str, str, str]] = field(default_factory=list)
    ranking: tuple[int, str] | None = None


@dataclass
class OutcomeBuilder:
    """Collects an outcome, row by row."""

    queries: list[Query] = field(default_factory=list)
    summaries: list[Summary] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    ranking: tuple[int, str] | None = None

    def refuse(self, line: int, fault: RowError) -> None:
        """Add a refused row."""
        self.faults.append(Fault(line, fault.kind, fault.field, fault.reason))

    def build(self, media: list[tuple[str, str, str]]) -> Outcome:
        """The outcome."""
        queries, summaries = table_of(self.queries), summary_table(self.summaries)
        names = [*queries.column_names, *(PREFIX + name for name in summaries.column_names)]
        table = pa.Table.from_arrays([*queries.columns, *summaries.columns], names=names)
        return Outcome(table, self.faults, dict(self.unread), media, self.ranking)


def blocks_of(path: Path) -> Iterator[Block]:
    """The blocks of a file of rows, in order."""
    rows: list[tuple[int, bytes | None]] = []
    size = 0
    with path.open("rb") as stream:
        for number, raw in raw_rows(stream):
            rows.append((number, raw))
            size += len(raw or b"")
            if zlib.crc32(raw or b"") % ROWS == 0 or len(rows) >= MOST_ROWS or size >= MOST_BYTES:
                yield _block(rows)
                rows, size = [], 0
    if rows:
        yield _block(rows)


def query_columns(table: pa.Table) -> pa.Table:
    """The queries of an outcome's table, in the record's schema."""
    return table.select(SCHEMA.names)


def summary_columns(table: pa.Table) -> pa.Table:
    """The summaries of an outcome's table."""
    return table.select([PREFIX + name for name in SUMMARY.names]).rename_columns(SUMMARY.names)


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Write an outcome after its digest, whole or not at all."""
    values = {key: value for key, value in vars(outcome).items() if key != "table"} | {
        "faults": [asdict(fault) for fault in outcome.faults]
    }
    sink = pa.BufferOutputStream()
    table = outcome.table.combine_chunks().replace_schema_metadata({METADATA: json.dumps(values)})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue().to_pybytes()
    write_atomic(path, hashlib.sha256(content).digest() + content)


def read_outcome(path: Path) -> Outcome | None:
    """What `write_outcome` wrote; None without a whole file of the present schema."""
    try:
        stored = path.read_bytes()
        digest, content = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:  # Arrow trusts what it reads
            return None
        table = pa.ipc.open_file(pa.py_buffer(content)).read_all()
        values: dict[str, Any] = json.loads(table.schema.metadata[METADATA])
        return Outcome(
            table.replace_schema_metadata(None),
            [Fault(**fault) for fault in values["faults"]],
            values["unread"],
            [(path, kind, state) for path, kind, state in values["media"]],
            None if values["ranking"] is None else (values["ranking"][0], values["ranking"][1]),
        )
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _block(rows: list[tuple[int, bytes | None]]) -> Block:
    first = rows[0][0]
    parts = (part for number, raw in rows for part in (str(number - first), b"\0" if raw is None else raw))
    return Block(first, rows, digest_bytes(*parts))
