"""The writer of critiques: greedy texts of a vision-language model on (query, response) pairs (paper section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from components.families.processing import Preprocessor
from components.generation.decoding import decode
from components.generation.generate import Limits
from components.preferences.record import Query


def write_critiques(
    model: Any,
    preprocessor: Preprocessor,
    items: Sequence[tuple[Query, str]],
    *,
    instruction: str,
    blank: bool = False,
    **limits: Unpack[Limits],
) -> list[str]:
    """Greedy critiques of each (query, response text), in order. `model` is the vision-language model without its score head."""
    tokens = decode(
        model,
        [preprocessor.judge_root(query, instruction, blank=blank) for query, _ in items],
        [preprocessor.judge_ids(response) for _, response in items],
        end_id=preprocessor.end_id,
        **limits,
    )
    return [preprocessor.tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens]
