"""The table of reference log-probs: one row a response, read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.preferences.record import Query

LogProb = tuple[float, int]  # sum over the response's tokens and its end, number of tokens
SCHEMA = pa.schema([("id", pa.string()), ("response", pa.int32()), ("log_prob", pa.float64()), ("tokens", pa.int32())])


def write_log_probs(path: Path, queries: Sequence[Query], log_probs: Sequence[Sequence[LogProb]]) -> None:
    """Write the table of `queries`, whose responses have these `log_probs`."""
    rows = [
        {"id": query.id, "response": number, "log_prob": log_prob, "tokens": tokens}
        for query, values in zip(queries, log_probs, strict=True)
        for number, (log_prob, tokens) in enumerate(values)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def read_log_probs(path: Path) -> dict[tuple[str, int], LogProb]:
    """(log-prob sum, tokens) by (query id, response index)."""
    return {(row["id"], row["response"]): (row["log_prob"], row["tokens"]) for row in pq.read_table(path).to_pylist()}
