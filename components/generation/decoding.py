"""Greedy continuation of prompts that share roots, with the tokens of transformers' generate for each prompt alone and less work.

- The model reads a root once for all of its suffixes (the responses of a judged query) and copies its keys and values to their rows.
- A new token's keys and values go into a buffer in place; transformers' cache copies all of them at every token.
- Finished rows leave the batch, so that one long text does not keep all others running.
- All families are written by one loop. Models with one position axis use `generate` where they have sliding windows or a generation setting
  beyond a repetition penalty. For models with three axes such a setting, or a row longer than the window, is an error.

The order of sums differs from `generate`, so that logits differ in their last bits: a tie within some 1e-6 may be broken differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, Unpack

import torch

from components.errors import UserError
from components.families.adapters import Root, family_of
from components.generation.continuation import Batch, Continued, Lockstep, SingleProcess, Writing, as_it_decodes
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
    batch_size, step = options["batch_size"], options.get("step") or SingleProcess()
    count, progress = options.get("count", _ignore), options.get("progress")
    writing = Writing(options["max_new_tokens"], options["end_id"], read_ends)
    keys = [(root.input_ids, tuple(medium.key for medium in root.media)) for root in roots]
    lengths = [len(root.input_ids) + len(suffix) for root, suffix in zip(roots, suffixes, strict=True)]
    order = _order(keys, lengths)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    results: dict[int, Continued] = {}
    write = _continue if can_decode(model, max(lengths, default=0) + writing.slots) else _generate
    for number in range(step.most(len(batches))):
        # If another process has more batches, this one repeats its first and drops the result.
        chosen = batches[number] if number < len(batches) else batches[0]
        continued = write(model, [(keys[index], roots[index], suffixes[index]) for index in chosen], writing, step, count)
        if number < len(batches):
            results.update(zip(chosen, continued, strict=True))
            if progress is not None:
                progress(min((number + 1) * batch_size, len(order)), len(order))
    return [results[index] for index in range(len(roots))]


Prompt = tuple[Any, Root, Sequence[int]]  # the root's key, the root, the suffix


def _ignore(_tokens: int, _slots: int) -> None:
    """The default of `DecodeOptions.count`."""


def _continue(model: Any, prompts: Sequence[Prompt], writing: Writing, step: Lockstep, count: Count) -> list[Continued]:
    distinct: dict[Any, Root] = {}
    for key, root, _ in prompts:
        distinct.setdefault(key, root)
    number_of = {key: number for number, key in enumerate(distinct)}
    owners, suffixes = [number_of[key] for key, _, _ in prompts], [suffix for _, _, suffix in prompts]
    with as_it_decodes(model):
        return Batch(model, list(distinct.values()), owners, suffixes, writing).run(step, count)


def _generate(model: Any, prompts: Sequence[Prompt], writing: Writing, _step: Lockstep, count: Count) -> list[Continued]:
    roots, suffixes = [root for _, root, _ in prompts], [suffix for _, _, suffix in prompts]
    limit, end_id = writing.max_new_tokens, writing.end_id
    written = generate(model, roots, suffixes, max_new_tokens=limit, batch_size=len(prompts), end_id=end_id)
    lengths = [len(root.input_ids) + len(suffix) for _, root, suffix in prompts]
    count(sum(lengths), max(lengths) * len(prompts))
    count(sum(map(len, written)), max(map(len, written)) * len(written))
    return [Continued(tokens, None) for tokens in written]


def can_decode(model: Any, slots: int) -> bool:
    """Whether the loop of `Batch` writes what `generate` writes, for rows of at most `slots` tokens.

    Raises UserError for a model with several position axes whose settings the loop does not follow: such a model has no other way.
    """
    text, family = model.config.text_config, family_of(model.config)
    settings = model.generation_config.to_dict()
    odd = [name for name, values in INERT.items() if settings.get(name) not in values]
    full = all(kind == "full_attention" for kind in text.to_dict().get("layer_types") or ())
    if family.axes == 1:
        return full and not odd
    if odd:
        raise UserError(
            f"generation_config.json sets {odd[0]} to {settings[odd[0]]}, which {family.model_type} models can't be decoded with: "
            f"remove it from the file beside the model"
        )
    if not full and slots > text.sliding_window:
        raise UserError(
            f"the language model's sliding-window layers see {text.sliding_window} tokens, fewer than a prompt and its text, {slots}: "
            f"set model.max_length and max_new_tokens to {text.sliding_window} together at most"
        )
    return True


def _order(keys: Sequence[Any], lengths: Sequence[int]) -> list[int]:
    """Row indices, those of one root together, the root with the longest row first."""
    members: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        members.setdefault(key, []).append(index)
    groups = sorted(members.values(), key=lambda group: (-max(lengths[index] for index in group), group[0]))
    return [index for group in groups for index in group]
