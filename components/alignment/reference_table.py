"""The table of reference log-probs: one row a response, read without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.preferences.record import Query

LogProb = tuple[float, int]  # sum over the response's tokens and its end, number of tokens
SCHEMA = pa.schema([("id", pa.string()), ("response", pa.int32()), ("log_prob", pa.float64()), ("tokens", pa.int32())])
BLANK = pa.field("log_prob_blank", pa.float64())
Blank = Mapping[str, Sequence[LogProb]]  # by query id


def write_log_probs(path: Path, queries: Sequence[Query], log_probs: Sequence[Sequence[LogProb]], blank: Blank | None = None) -> None:
    """Write the table of `queries`, whose responses have these `log_probs`. `blank`, under gray media, makes a column: null for other queries."""
    rows: list[dict[str, Any]] = [
        {"id": query.id, "response": number, "log_prob": log_prob, "tokens": tokens}
        for query, values in zip(queries, log_probs, strict=True)
        for number, (log_prob, tokens) in enumerate(values)
    ]
    if blank is not None:
        for row in rows:
            row[BLANK.name] = blank[row["id"]][row["response"]][0] if row["id"] in blank else None
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA if blank is None else SCHEMA.append(BLANK)), path)


def read_log_probs(path: Path) -> dict[tuple[str, int], LogProb]:
    """(log-prob sum, tokens) by (query id, response index)."""
    return {(row["id"], row["response"]): (row["log_prob"], row["tokens"]) for row in pq.read_table(path).to_pylist()}


def read_blank_log_probs(path: Path) -> dict[tuple[str, int], float]:
    """Log-prob sums under gray media by (query id, response index); empty where the table has none."""
    if BLANK.name not in pq.read_schema(path).names:
        return {}
    return {(row["id"], row["response"]): row[BLANK.name] for row in pq.read_table(path).to_pylist() if row[BLANK.name] is not None}
