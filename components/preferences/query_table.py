"""The queries of a validated table as a sequence that reads each from a mapped file: processes share its pages, and hold no query.

Parquet can't be mapped, so that the first process writes the table once as an Arrow file, in .mmalign/cache/queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.checkout import Checkout
from components.files import digest_bytes, digest_file
from components.preferences.expansions import Key, read_expanded_table
from components.preferences.record import SCHEMA, Query, query_of_row
from components.storage.prepared import prepared

CHUNK = 256  # rows that are read at once
FILE = "queries.arrow"
Rows = np.ndarray[Any, np.dtype[np.int64]]


class QueryTable(Sequence[Query]):
    """Rows of a mapped table, in order. `digest` names the table's content."""

    def __init__(self, table: pa.Table, digest: str, rows: Rows | None = None) -> None:
        self.digest = digest
        self.rows: Rows = np.arange(len(table)) if rows is None else rows
        self._table = table

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Query: ...
    @overload
    def __getitem__(self, index: slice) -> QueryTable: ...
    def __getitem__(self, index: int | slice) -> Query | QueryTable:
        if isinstance(index, slice):
            return QueryTable(self._table, self.digest, self.rows[index])
        (row,) = self._table.slice(int(self.rows[index]), 1).to_pylist()
        return query_of_row(row)

    def __iter__(self) -> Iterator[Query]:
        for start in range(0, len(self.rows), CHUNK):
            rows = self.rows[start : start + CHUNK]
            consecutive = len(rows) == rows[-1] - rows[0] + 1
            part = self._table.slice(int(rows[0]), len(rows)) if consecutive else self._table.take(rows)
            yield from map(query_of_row, part.to_pylist())

    def select(self, positions: Sequence[int] | Rows) -> QueryTable:
        """The queries at some positions, ascending."""
        return QueryTable(self._table, self.digest, self.rows[np.asarray(positions, dtype=np.int64)])


def open_queries(checkout: Checkout, split: str, expanded: Path | None = None) -> QueryTable:
    """The validated queries of a split; with a table of expanded critiques, those in place of the reasons that they were made of."""
    path = checkout.queries(split)
    digest = digest_file(path) if expanded is None else digest_bytes(digest_file(path), digest_file(expanded))
    folder = prepared(checkout, "queries", digest_bytes(digest, str(SCHEMA)), lambda fresh: _write(path, fresh / FILE, expanded))
    return QueryTable(pa.ipc.open_file(pa.memory_map(str(folder / FILE))).read_all(), digest)


def _write(path: Path, out: Path, expanded: Path | None) -> None:
    """The rows of a Parquet file as an Arrow file, part by part."""
    file = pq.ParquetFile(path)
    critiques = read_expanded_table(expanded) if expanded is not None else {}
    with pa.OSFile(str(out), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in file.iter_batches(CHUNK):
            part = _in_schema(pa.Table.from_batches([batch]))
            writer.write_table(_with_critiques(part, critiques) if critiques else part)


def _with_critiques(table: pa.Table, critiques: Mapping[Key, str]) -> pa.Table:
    rows = table.to_pylist()
    for row in rows:
        for number, response in enumerate(row["responses"]):
            response["critique"] = critiques.get((row["id"], number), response["critique"])
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _in_schema(table: pa.Table) -> pa.Table:
    """The columns of SCHEMA; nulls where a table of an earlier version lacks one."""
    columns = [table[field.name] if field.name in table.column_names else pa.nulls(len(table), field.type) for field in SCHEMA]
    return pa.Table.from_arrays(columns, names=SCHEMA.names).cast(SCHEMA)
