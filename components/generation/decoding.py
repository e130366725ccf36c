"""Greedy continuation of prompts that share roots, with the same tokens as `components.generation.generate.generate` and less work.

- The model reads a root once for all of its suffixes (the responses of a judged query) and copies its keys and values to their rows.
- A new token's keys and values go into a buffer in place; transformers' cache copies all of them at every token.
- Finished rows leave the batch, so that one long text does not keep all others running.
- A repetition penalty counts a row's own tokens, as `generate` does for a single prompt: for a padded row, `generate` leaves tokens out.
- Models with several position axes, sliding windows or a generation setting beyond a repetition penalty use `generate`.

The order of sums differs from `generate`, so that logits differ in their last bits: a tie within some 1e-6 may be broken differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NotRequired, Unpack

import torch

from components.families.adapters import Root, family_of
from components.families.loading import set_attention
from components.generation.continuation import Batch, Continued, Lockstep, SingleProcess
from components.generation.generate import Limits, generate
from components.trees.scoring import Count

# Settings of a checkpoint's generation_config.json that change greedy decoding, with their values that do not.
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


class SharedLimits(Limits):
    """Limits of a greedy continuation. `step` keeps processes in lockstep; `count` gets each pass's tokens and slots."""

    step: NotRequired[Lockstep | None]
    count: NotRequired[Count]


class DecodeOptions(SharedLimits):
    """Limits and end token of a greedy continuation."""

    end_id: int


def decode(model: Any, roots: Sequence[Root], suffixes: Sequence[Sequence[int]], **options: Unpack[DecodeOptions]) -> list[list[int]]:
    """New token ids after each root and its suffix, without the end token: see `continue_prompts`."""
    return [row.tokens for row in continue_prompts(model, roots, suffixes, **options)]


@torch.no_grad()
def continue_prompts(
    model: Any,
    roots: Sequence[Root],
    suffixes: Sequence[Sequence[int]],
    *,
    read_ends: bool = False,
    **options: Unpack[DecodeOptions],
) -> list[Continued]:
    """The likeliest tokens after each root and its suffix, until the end token or `max_new_tokens`.

    With `read_ends` the model also reads the end token, even after a row that did not write it; models that use `generate` give no end state.
    Batches have at most `batch_size` rows, the longest prompts first, rows of one root together; they depend only on the inputs. Each of the
    processes in lockstep needs at least one row.
    """
    max_new_tokens, batch_size, end_id = options["max_new_tokens"], options["batch_size"], options["end_id"]
    step, count, progress = options.get("step") or SingleProcess(), options.get("count", _ignore), options.get("progress")
    keys = [(root.input_ids, tuple(medium.key for medium in root.media)) for root in roots]
    order = _order(keys, [len(root.input_ids) + len(suffix) for root, suffix in zip(roots, suffixes, strict=True)])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    results: dict[int, Continued] = {}
    fast = can_decode(model)
    for number in range(step.most(len(batches))):
        # If another process has more batches, this one repeats its first and drops the result.
        chosen = batches[number] if number < len(batches) else batches[0]
        prompts = [(keys[index], roots[index], suffixes[index]) for index in chosen]
        limits = max_new_tokens, end_id
        continued = _continue(model, prompts, *limits, step, count, read_ends) if fast else _generate(model, prompts, *limits, count)
        if number < len(batches):
            results.update(zip(chosen, continued, strict=True))
            if progress is not None:
                progress(min((number + 1) * batch_size, len(order)), len(order))
    return [results[index] for index in range(len(roots))]


Prompt = tuple[Any, Root, Sequence[int]]  # the root's key, the root, the suffix


def _ignore(_tokens: int, _slots: int) -> None:
    """The default of `DecodeOptions.count`."""


def _continue(
    model: Any, prompts: Sequence[Prompt], max_new_tokens: int, end_id: int, step: Lockstep, count: Count, read_ends: bool
) -> list[Continued]:
    distinct: dict[Any, Root] = {}
    for key, root, _ in prompts:
        distinct.setdefault(key, root)
    number_of = {key: number for number, key in enumerate(distinct)}
    owners, suffixes = [number_of[key] for key, _, _ in prompts], [list(suffix) for _, _, suffix in prompts]
    with _as_it_decodes(model):
        return Batch(model, list(distinct.values()), owners, suffixes, max_new_tokens, end_id, read_ends).run(step, count)


def _generate(model: Any, prompts: Sequence[Prompt], max_new_tokens: int, end_id: int, count: Count) -> list[Continued]:
    roots, suffixes = [root for _, root, _ in prompts], [suffix for _, _, suffix in prompts]
    written = generate(model, roots, suffixes, max_new_tokens=max_new_tokens, batch_size=len(prompts), end_id=end_id)
    lengths = [len(root.input_ids) + len(suffix) for _, root, suffix in prompts]
    count(sum(lengths), max(lengths) * len(prompts))
    count(sum(map(len, written)), max(map(len, written)) * len(written))
    return [Continued(tokens, None) for tokens in written]


@contextmanager
def _as_it_decodes(model: Any) -> Iterator[None]:
    """Inside, evaluation mode and sdpa attention: flex attention takes no mask of single rows, and gains nothing at one token a row."""
    was_training = model.training
    attention = model.config.text_config._attn_implementation  # noqa: SLF001 - transformers keeps the choice nowhere public
    model.eval()
    set_attention(model, "sdpa")
    try:
        yield
    finally:
        set_attention(model, attention)
        model.train(was_training)


def can_decode(model: Any) -> bool:
    """Whether this module gives `generate`'s tokens for `model`: one position axis, full attention, no setting but a repetition penalty."""
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
