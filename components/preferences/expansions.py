"""Critiques that a model wrote out of people's short reasons (paper section 3), as a file beside the rows and as a table behind them.

`data/preferences/expanded.jsonl` has a line a response, and is versioned with the data. A line names the response and the reason that it was
made from by their digests: an edited one no longer has an expansion.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import UserError
from components.files import digest_bytes, write_atomic
from components.preferences.record import Query, Response

FILE = "expanded.jsonl"
SCHEMA = pa.schema([("id", pa.string()), ("response", pa.int32()), ("critique", pa.string())])
Key = tuple[str, int]  # id of the query, index of the response


@dataclass(frozen=True)
class Expansion:
    """The expanded critique of one response; `source` is the digest of response and reason, `prompt` that of the prompt's text."""

    id: str
    response: int
    source: str
    critique: str
    prompt_version: str
    prompt: str
    model: str


def source_digest(query: Query, response: Response) -> str:
    """sha256 of all that an expansion is made from, but the pictures' bytes."""
    path = query.media[0].path if query.media else ""
    content = (query.prompt, path) if query.is_plain else ("conversation", query.as_json(lambda medium: f"{medium.kind} {medium.path}"))
    return digest_bytes(*content, response.text, response.critique or "")


def write_expansions(path: Path, expansions: Iterable[Expansion]) -> None:
    """Write a line an expansion, whole or not at all."""
    write_atomic(path, "".join(json.dumps(asdict(expansion), ensure_ascii=False) + "\n" for expansion in expansions))


def read_expansions(path: Path) -> dict[Key, Expansion]:
    """What `write_expansions` wrote. Raises UserError with the line of a fault."""
    expansions: dict[Key, Expansion] = {}
    types = {field.name: int if field.name == "response" else str for field in fields(Expansion)}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8", "strict"))
            values = {name: row[name] for name in types}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path} line {number} is no expansion ({error!r}): write it anew with `mmalign data expand`") from error
        if any(type(values[name]) is not kind for name, kind in types.items()):
            raise UserError(f"{path} line {number} has a field of the wrong type: write it anew with `mmalign data expand`")
        expansions[values["id"], values["response"]] = Expansion(**values)
    return expansions


def matching(queries: Sequence[Query], expansions: Mapping[Key, Expansion]) -> dict[Key, str]:
    """The critiques of expansions whose response and reason are still what they were made from."""
    candidates = (
        (query, index, response, expansions.get((query.id, index))) for query in queries for index, response in enumerate(query.responses)
    )
    return {
        (query.id, index): expansion.critique
        for query, index, response, expansion in candidates
        if expansion is not None and expansion.source == source_digest(query, response)
    }


def write_expanded_table(path: Path, critiques: Mapping[Key, str]) -> None:
    """Write a row an expanded critique; an empty table where there is none."""
    rows = [{"id": identity, "response": response, "critique": critique} for (identity, response), critique in critiques.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def read_expanded_table(path: Path) -> dict[Key, str]:
    """What `write_expanded_table` wrote."""
    return {(row["id"], row["response"]): row["critique"] for row in pq.read_table(path, schema=SCHEMA).to_pylist()}
