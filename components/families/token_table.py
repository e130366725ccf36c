"""Token ids of a table's responses and critiques, and the lengths of its roots, in mapped arrays: made once, shared by all processes.

Every array has the table's order. Numbers are 32 bits wide. Roots are not in it: their placeholders repeat what a medium's size says.

Shapes: Q queries, K responses of all queries.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from components.checkout import Checkout
from components.families.digests import processor_digest
from components.families.processing import Preprocessor
from components.files import digest_bytes
from components.preferences.query_table import QueryTable
from components.preferences.record import Query
from components.storage.prepared import prepared

FORMAT = "1"
Ints = np.ndarray[Any, np.dtype[np.int32]]
Offsets = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Texts:
    """Tokenized texts, one behind the other: text k is `tokens[starts[k] : starts[k + 1]]`."""

    tokens: Ints
    starts: Offsets

    def __getitem__(self, number: int) -> tuple[int, ...]:
        return tuple(self.tokens[self.starts[number] : self.starts[number + 1]].tolist())

    @property
    def lengths(self) -> Offsets:
        """Tokens of each text."""
        return np.diff(self.starts)


@dataclass(frozen=True)
class TokenTable:
    """`policy_Q` and `judge_Q` are lengths of roots. Query q has the responses from `first[q]` to before `first[q + 1]`.

    `responses` are `Preprocessor.response_ids`; `critiques` are `critique_ids` of the given critiques, of "" where there is none.
    """

    policy_Q: Ints
    judge_Q: Ints
    first: Offsets
    responses: Texts
    critiques: Texts

    def policy_tokens(self) -> Offsets:
        """Length of each query's tree for the policy."""
        return self.policy_Q + self._sums(self.responses.lengths)

    def judge_tokens(self, between: int) -> Offsets:
        """Length of each query's tree for the judge on these critiques. `between` are the tokens of `judge_ids("")`."""
        # A response has no end token here.
        return self.judge_Q + self._sums(self.responses.lengths - 1 + between + self.critiques.lengths)

    def response_tokens(self) -> Offsets:
        """Length of each query's tree for a judge that reads the responses without critiques."""
        return self.judge_Q + self._sums(self.responses.lengths)

    def _sums(self, lengths_K: Offsets) -> Offsets:
        """Sums over the responses of each query."""
        return np.diff(np.concatenate([[0], np.cumsum(lengths_K)])[self.first])


def recorded(query: Query) -> list[str]:
    """The recorded critiques of a query's responses, "" where there is none."""
    return [response.critique or "" for response in query.responses]


def open_tokens(checkout: Checkout, preprocessor: Preprocessor, queries: QueryTable, instruction: str) -> TokenTable:
    """The tokens of a whole table as `preprocessor` reads it."""
    key = digest_bytes(FORMAT, queries.digest, processor_digest(preprocessor.base), str(preprocessor.max_frames), instruction)
    folder = prepared(checkout, "tokens", key, lambda fresh: _write(fresh, preprocessor, queries, instruction))

    def mapped(name: str) -> Any:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    def texts(name: str) -> Texts:
        # An empty file can't be mapped.
        path = folder / f"{name}.ids"
        tokens = np.memmap(path, dtype=np.int32, mode="r") if path.stat().st_size else np.empty(0, dtype=np.int32)
        return Texts(tokens, mapped(f"{name}.starts"))

    return TokenTable(mapped("policy"), mapped("judge"), mapped("first"), texts("responses"), texts("critiques"))


def _write(folder: Path, preprocessor: Preprocessor, queries: QueryTable, instruction: str) -> None:
    count = len(queries)
    policy, judge = np.empty(count, dtype=np.int32), np.empty(count, dtype=np.int32)
    first = np.zeros(count + 1, dtype=np.int64)
    with _Writer(folder, "responses") as responses, _Writer(folder, "critiques") as critiques:
        for number, query in enumerate(queries):
            policy[number], judge[number] = preprocessor.policy_length(query), preprocessor.judge_length(query, instruction)
            first[number + 1] = first[number] + len(query.responses)
            for response, critique in zip(query.responses, recorded(query), strict=True):
                responses.add(preprocessor.response_ids(response.text))
                critiques.add(preprocessor.critique_ids(critique))
    np.save(folder / "policy.npy", policy)
    np.save(folder / "judge.npy", judge)
    np.save(folder / "first.npy", first)


class _Writer:
    """Appends texts to a file of tokens, and at its end writes where each starts."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.starts.npy"
        self._file = (folder / f"{name}.ids").open("wb")
        self._starts = array("q", [0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        np.save(self._path, np.frombuffer(self._starts, dtype=np.int64))

    def add(self, ids: list[int]) -> None:
        self._file.write(array("i", ids).tobytes())
        self._starts.append(self._starts[-1] + len(ids))
