"""Batched greedy or sampled continuation of prompts with media.

- Prompts are sorted by length and padded on the left, to waste little; results have the order of the inputs. Batches depend only on the
  inputs, so equal inputs give equal tokens.
- Families with one position axis use transformers' generate. Without pixels it accepts neither positions on three axes nor features for
  deeper layers, so `_write` serves the other families. Of their generation_config.json only the repetition penalty counts, over prompt and
  answer, as in generate with pixels.

Shapes: R rows, L tokens a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NotRequired, TypedDict, Unpack

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.integrations import is_deepspeed_zero3_enabled

from components.families.adapters import Root, family_of
from components.families.loading import set_attention
from components.features.embedding import embed


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
    was_training, attention_path = model.training, model.config.text_config._attn_implementation  # noqa: SLF001 -- no public name
    model.eval()
    set_attention(model, "sdpa")  # transformers would compile its own flex attention anew as the rows grow, and on a CPU can't
    device = model.device
    sampling: dict[str, Any] = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}
    )
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(lengths[index] for index in chosen)
        input_ids = torch.full((len(chosen), width), end_id)
        attention = torch.zeros((len(chosen), width), dtype=torch.long)
        for row, index in enumerate(chosen):
            tokens = [*roots[index].input_ids, *suffixes[index]]
            input_ids[row, width - len(tokens) :] = torch.tensor(tokens)
            attention[row, width - len(tokens) :] = 1
        inputs = (input_ids.to(device), attention.to(device), [roots[index] for index in chosen])
        if family_of(model.config).axes == 1:
            embeddings, _, _ = embed(model, inputs[0], inputs[2])
            output = model.generate(
                inputs_embeds=embeddings,
                attention_mask=inputs[1],
                max_new_tokens=max_new_tokens,
                eos_token_id=end_id,
                pad_token_id=end_id,
                **sampling,
            )
        else:
            output = _write(model, *inputs, max_new_tokens=max_new_tokens, end_id=end_id, temperature=temperature)
        for row, index in enumerate(chosen):
            tokens = output[row].tolist()
            results[index] = tokens[: tokens.index(end_id)] if end_id in tokens else tokens
        if progress is not None:
            progress(min(start + batch_size, len(order)), len(order))
    set_attention(model, attention_path)
    model.train(was_training)
    torch.random.set_rng_state(generator_state)
    return results


def _write(
    model: Any,
    input_ids_RL: Tensor,
    attention_RL: Tensor,
    roots: Sequence[Root],
    *,
    max_new_tokens: int,
    end_id: int,
    temperature: float,
) -> Tensor:
    """New tokens [R, at most `max_new_tokens`], each row filled with `end_id` after its end."""
    family = family_of(model.config)
    rows = [_positions(root, mask, family.axes) for root, mask in zip(roots, attention_RL, strict=True)]
    positions_ARL, following_AR1 = torch.tensor_split(torch.stack(rows, dim=1), [-1], dim=2)
    embeddings, media_RL, deeper = embed(model, input_ids_RL, roots)
    cache = DynamicCache(config=model.config.text_config)
    hidden = family.extend(model, embeddings, attention_RL, positions_ARL, cache, deeper, media_RL)
    ended_R = torch.zeros(len(roots), dtype=torch.bool, device=input_ids_RL.device)
    written: list[Tensor] = []
    penalty = model.generation_config.repetition_penalty or 1.0
    # Padding counts as the prompt's last token, so that no padding token is penalized.
    seen_RL = torch.where(attention_RL.bool(), input_ids_RL, input_ids_RL[:, -1:])
    while True:
        logits_RV = model.lm_head(hidden[:, -1]).float()
        if penalty != 1.0:
            scores_RL = logits_RV.gather(1, seen_RL)
            logits_RV = logits_RV.scatter(1, seen_RL, torch.where(scores_RL < 0, scores_RL * penalty, scores_RL / penalty))
        tokens_R = torch.multinomial((logits_RV / temperature).softmax(-1), 1)[:, 0] if temperature else logits_RV.argmax(-1)
        written.append(tokens_R.masked_fill(ended_R, end_id))
        ended_R = ended_R | (tokens_R == end_id)
        if len(written) == max_new_tokens or not any_rank(not bool(ended_R.all())):
            return torch.stack(written, dim=1)
        seen_RL = torch.cat([seen_RL, written[-1][:, None]], dim=1)
        attention_RL = torch.cat([attention_RL, attention_RL.new_ones(len(roots), 1)], dim=1)
        hidden = family.extend(model, model.get_input_embeddings()(written[-1][:, None]), attention_RL, following_AR1, cache)
        following_AR1 = following_AR1 + 1


def _positions(root: Root, attention_L: Tensor, axes: int) -> Tensor:
    """Positions [axes, L + 1] of a row padded on the left and of its next token: the root's, then consecutive ones."""
    start, length = len(attention_L) - int(attention_L.sum()), len(root.input_ids)
    positions = torch.zeros((axes, len(attention_L) + 1), dtype=torch.long)
    positions[:, start : start + length] = torch.arange(length) if root.positions_AL is None else root.positions_AL
    positions[:, start + length :] = root.next_position + torch.arange(len(attention_L) + 1 - start - length)
    return positions.to(attention_L.device)


def any_rank(continues: bool) -> bool:
    """Whether some rank continues, under ZeRO-3, which gathers a model's weights from all ranks for each token; else `continues`."""
    if not (is_deepspeed_zero3_enabled() and torch.distributed.is_initialized()):
        return continues
    device = torch.device("cuda") if torch.distributed.get_backend() == "nccl" else torch.device("cpu")
    count = torch.tensor(int(continues), device=device)
    torch.distributed.all_reduce(count)
    return int(count) > 0
