"""Batched greedy or sampled continuation of prompts with media.

- Prompts are sorted by length and padded on the left, to waste little; results have the order of the inputs. Batches depend only on the
  inputs, so equal inputs give equal tokens.
- Families with one position axis use transformers' generate. Without pixels it accepts neither positions on three axes nor features for
  deeper layers, so `Batch` serves the other families.
- A repetition penalty of transformers' generate counts here the written tokens, since it gets embeddings in place of the prompt's tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NotRequired, TypedDict, Unpack

import torch

from components.families.adapters import Root, family_of
from components.features.embedding import embed
from components.generation.continuation import Batch, SingleProcess, Writing, as_it_decodes


class Limits(TypedDict):
    """Bounds of a generation: new tokens a row, rows a batch, and a callback `progress(rows so far, rows)` after every batch."""

    max_new_tokens: int
    batch_size: int
    progress: NotRequired[Callable[[int, int], None] | None]


@torch.no_grad()
def generate(
    model: Any,
    roots: Sequence[Root],
    suffixes: Sequence[Sequence[int]],
    *,
    end_id: int,
    temperature: float = 0.0,
    seed: int = 0,
    **limits: Unpack[Limits],
) -> list[list[int]]:
    """New token ids after each root and its suffix, without the end token.

    `suffixes` are tokens after the root (empty for a policy's answer). `temperature` 0 is greedy. Under ZeRO-3 all ranks write equally many
    tokens a batch.
    """
    max_new_tokens, batch_size, progress = limits["max_new_tokens"], limits["batch_size"], limits.get("progress")
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    lengths = [len(root.input_ids) + len(suffix) for root, suffix in zip(roots, suffixes, strict=True)]
    order = sorted(range(len(roots)), key=lambda index: (-lengths[index], index))
    results: list[list[int]] = [[] for _ in roots]
    writing = Writing(max_new_tokens, end_id, temperature=temperature)
    write = _by_transformers if family_of(model.config).axes == 1 else _by_loop
    with as_it_decodes(model):  # transformers would compile its own flex attention anew as the rows grow, and on a CPU can't
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            written = write(model, [roots[index] for index in chosen], [suffixes[index] for index in chosen], writing)
            for index, tokens in zip(chosen, written, strict=True):
                results[index] = tokens
            if progress is not None:
                progress(min(start + batch_size, len(order)), len(order))
    torch.random.set_rng_state(generator_state)
    return results


def _by_transformers(model: Any, roots: Sequence[Root], suffixes: Sequence[Sequence[int]], writing: Writing) -> list[list[int]]:
    end_id, rows = writing.end_id, [[*root.input_ids, *suffix] for root, suffix in zip(roots, suffixes, strict=True)]
    width = max(map(len, rows))
    input_ids = torch.full((len(rows), width), end_id)
    attention = torch.zeros((len(rows), width), dtype=torch.long)
    for row, tokens in enumerate(rows):
        input_ids[row, width - len(tokens) :] = torch.tensor(tokens)
        attention[row, width - len(tokens) :] = 1
    embeddings, _, _ = embed(model, input_ids.to(model.device), roots)
    sampling: dict[str, Any] = (
        {"do_sample": True, "temperature": writing.temperature, "top_k": 0, "top_p": 1.0} if writing.temperature else {"do_sample": False}
    )
    output = model.generate(
        inputs_embeds=embeddings,
        attention_mask=attention.to(model.device),
        max_new_tokens=writing.max_new_tokens,
        eos_token_id=end_id,
        pad_token_id=end_id,
        **sampling,
    )
    return [tokens[: tokens.index(end_id)] if end_id in tokens else tokens for tokens in output.tolist()]


def _by_loop(model: Any, roots: Sequence[Root], suffixes: Sequence[Sequence[int]], writing: Writing) -> list[list[int]]:
    continued = Batch(model, roots, range(len(roots)), suffixes, writing).run(SingleProcess(), lambda _tokens, _slots: None)
    return [row.tokens for row in continued]
