"""Greedy continuation of prompts that share roots, with the same tokens as `components.generation.generate.generate` and less work.

- A root is read once for all of its suffixes (the responses of a query that is judged): its keys and values are copied to their rows.
- Keys and values lie in a buffer that is written in place; transformers' cache is copied whole at every token.
- Rows that have ended leave the batch, so that one long text doesn't keep all the others running.
- A repetition penalty counts what a row has written, as `generate` has it for a prompt alone: beside longer ones it leaves tokens out.
- Models with several position axes, sliding windows or a generation setting beyond a repetition penalty go through `generate`.

Sums are taken in another order than there, so that logits differ in their last bits: a tie within some 1e-6 may fall the other way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from components.families.adapters import Root, family_of
from components.generation.continuation import Batch, Continued, Lockstep, SingleProcess
from components.generation.generate import Progress, generate
from components.trees.scoring import Count

# Settings of a checkpoint's generation_config.json that change greedy decoding, with the values that leave it alone.
INERT: dict[str, tuple[Any, ...]] = {
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "bad_words_ids": (None,),
    "sequence_bias": (None,),
    "suppress_tokens": (None,),
    "begin_suppress_tokens": (None,),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1.0),
    "num_beams": (None, 1),
    "penalty_alpha": (None, 0.0),
    "prompt_lookup_num_tokens": (None,),
    "dola_layers": (None,),
}


def decode(
    model: Any,
    roots: Sequence[Root],
    suffixes: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    end_id: int,
    progress: Progress | None = None,
    step: Lockstep | None = None,
    count: Count = lambda _tokens, _slots: None,
) -> list[list[int]]:
    """New token ids after each root and its suffix, without the end token: see `continue_prompts`."""
    arguments: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "end_id": end_id}
    found = continue_prompts(model, roots, suffixes, **arguments, progress=progress, step=step, count=count)
    return [row.tokens for row in found]


@torch.no_grad()
def continue_prompts(
    model: Any,
    roots: Sequence[Root],
    suffixes: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    end_id: int,
    read_ends: bool = False,
    progress: Progress | None = None,
    step: Lockstep | None = None,
    count: Count = lambda _tokens, _slots: None,
) -> list[Continued]:
    """The likeliest token at every place behind each root and its suffix, until the end token or `max_new_tokens`.

    With `read_ends` the end token is read as well, also behind a row that did not write it; models that go through `generate` give none.
    Batches hold at most `batch_size` rows, the longest prompts first, rows of one root together; their make-up depends on the inputs alone.
    `progress(done, total)` is called after every batch. Processes that keep in step must all have a row at least.
    """
    step = step or SingleProcess()
    keys = [(root.input_ids, tuple(medium.key for medium in root.media)) for root in roots]
    order = _order(keys, [len(root.input_ids) + len(suffix) for root, suffix in zip(roots, suffixes, strict=True)])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    results: dict[int, Continued] = {}
    fast = can_decode(model)
    for number in range(step.most(len(batches))):
        # Another process has more batches: the first one is run once more, and nothing comes of it.
        chosen = batches[number] if number < len(batches) else batches[0]
        prompts = [(keys[index], roots[index], suffixes[index]) for index in chosen]
        limits = max_new_tokens, end_id
        found = _continue(model, prompts, *limits, step, count, read_ends) if fast else _generate(model, prompts, *limits, count)
        if number < len(batches):
            results.update(zip(chosen, found, strict=True))
            if progress is not None:
                progress(min((number + 1) * batch_size, len(order)), len(order))
    return [results[index] for index in range(len(roots))]


Prompt = tuple[Any, Root, Sequence[int]]  # what names the root, the root, the suffix


def _continue(
    model: Any, prompts: Sequence[Prompt], max_new_tokens: int, end_id: int, step: Lockstep, count: Count, read_ends: bool
) -> list[Continued]:
    distinct: dict[Any, Root] = {}
    for key, root, _ in prompts:
        distinct.setdefault(key, root)
    places = {key: place for place, key in enumerate(distinct)}
    owners, suffixes = [places[key] for key, _, _ in prompts], [list(suffix) for _, _, suffix in prompts]
    with _as_it_decodes(model):
        return Batch(model, list(distinct.values()), owners, suffixes, max_new_tokens, end_id, read_ends).run(step, count)


def _generate(model: Any, prompts: Sequence[Prompt], max_new_tokens: int, end_id: int, count: Count) -> list[Continued]:
    roots, suffixes = [root for _, root, _ in prompts], [suffix for _, _, suffix in prompts]
    found = generate(model, roots, suffixes, max_new_tokens=max_new_tokens, batch_size=len(prompts), end_id=end_id)
    lengths = [len(root.input_ids) + len(suffix) for _, root, suffix in prompts]
    count(sum(lengths), max(lengths) * len(prompts))
    count(sum(map(len, found)), max(map(len, found)) * len(found))
    return [Continued(tokens, None) for tokens in found]


@contextmanager
def _as_it_decodes(model: Any) -> Iterator[None]:
    """Evaluation mode, and sdpa attention: flex attention takes no mask of single rows, and gains nothing at one token a row."""
    was_training, text = model.training, model.config.text_config
    attention = text._attn_implementation  # noqa: SLF001 - transformers keeps the choice nowhere public
    model.eval()
    text._attn_implementation = "sdpa"  # noqa: SLF001
    try:
        yield
    finally:
        text._attn_implementation = attention  # noqa: SLF001
        model.train(was_training)


def can_decode(model: Any) -> bool:
    """Whether this module reads `model` as `generate` would: one position axis, full attention, nothing but a repetition penalty set."""
    text = model.config.text_config
    full = all(kind == "full_attention" for kind in text.to_dict().get("layer_types") or ())
    settings = model.generation_config.to_dict()
    plain = all(settings.get(name) in values for name, values in INERT.items())
    return family_of(model.config).axes == 1 and full and plain


def _order(keys: Sequence[Any], lengths: Sequence[int]) -> list[int]:
    """Row indices, those of one root together, the root with the longest row first."""
    members: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        members.setdefault(key, []).append(index)
    groups = sorted(members.values(), key=lambda group: (-max(lengths[index] for index in group), group[0]))
    return [index for group in groups for index in group]
