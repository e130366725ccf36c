"""Batched greedy or sampled continuation of prompts with media.

Prompts are padded on the left and sorted by length, so that little is wasted; results come back in the order given. A batch's make-up
depends on the inputs alone, so equal inputs give equal tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from components.vlm.families import Root
from components.vlm.features import embed

Progress = Callable[[int, int], None]


@torch.no_grad()
def generate(
    model: Any,
    roots: Sequence[Root],
    suffixes: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    end_id: int,
    progress: Progress | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[list[int]]:
    """New token ids after each root and its suffix, without the end token.

    `suffixes` are tokens after the root (empty for a policy's answer). `temperature` 0 is greedy. `progress(done, total)` is called after
    every batch.
    """
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    lengths = [len(root.input_ids) + len(suffix) for root, suffix in zip(roots, suffixes, strict=True)]
    order = sorted(range(len(roots)), key=lambda index: (-lengths[index], index))
    results: list[list[int]] = [[] for _ in roots]
    was_training = model.training
    model.eval()
    device = model.device
    sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(lengths[index] for index in chosen)
        input_ids = torch.full((len(chosen), width), end_id)
        attention = torch.zeros((len(chosen), width), dtype=torch.long)
        for row, index in enumerate(chosen):
            tokens = [*roots[index].input_ids, *suffixes[index]]
            input_ids[row, width - len(tokens) :] = torch.tensor(tokens)
            attention[row, width - len(tokens) :] = 1
        embeddings, _, _ = embed(model, input_ids.to(device), [roots[index] for index in chosen])
        output = model.generate(
            inputs_embeds=embeddings,
            attention_mask=attention.to(device),
            max_new_tokens=max_new_tokens,
            eos_token_id=end_id,
            pad_token_id=end_id,
            **sampling,
        )
        for row, index in enumerate(chosen):
            tokens = output[row].tolist()
            results[index] = tokens[: tokens.index(end_id)] if end_id in tokens else tokens
        if progress is not None:
            progress(min(start + batch_size, len(order)), len(order))
    model.train(was_training)
    torch.random.set_rng_state(generator_state)
    return results
