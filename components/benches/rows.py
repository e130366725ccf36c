"""Tables with one row a question, by which two models are compared: what `reports/bench` has beside each result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.evaluation.results import CLUSTERS

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("category", pa.string()),
        ("pairs", pa.int32()),  # what `correct` counts at most
        ("correct", pa.float64()),
        CLUSTERS,
    ]
)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the schema; the same rows give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a table, with `clusters` as a mapping, and whatever columns it has."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return [{**row, "clusters": dict(row.get("clusters") or ())} for row in rows]
