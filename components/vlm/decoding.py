"""Greedy continuation of prompts that share roots, with the same tokens as `components.vlm.generation.generate` and less work.

- A root is read once for all of its suffixes (the responses of a query that is judged): its keys and values are copied to their rows.
- Keys and values lie in a buffer that is written in place; transformers' cache is copied whole at every token.
- Rows that have ended leave the batch, so that one long text doesn't keep all the others running.
- A repetition penalty counts what a row has written, as `generate` has it for a prompt alone: beside longer ones it leaves tokens out.
- Models with several position axes, sliding windows or a generation setting beyond a repetition penalty go through `generate`.

Sums are taken in another order than there, so that logits differ in their last bits: a tie within some 1e-6 may fall the other way.

Shapes: Q distinct roots, B rows, L tokens or slots, G key-value heads, D size of a head, H hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from components.vlm.families import Root, family_of
from components.vlm.features import embed
from components.vlm.generation import Progress, generate

COMPACT_AT = 0.8  # share of rows still going below which the others are dropped: dropping copies the buffers once
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


class InStep(Protocol):
    """How far other processes go that must run the model equally often."""

    def most(self, count: int) -> int:
        """The largest `count` among them."""
        ...

    def any(self, wanted: bool) -> bool:
        """Whether one of them goes on."""
        ...


class Alone:
    """No other process is waited for."""

    def most(self, count: int) -> int:
        """`count` itself."""
        return count

    def any(self, wanted: bool) -> bool:
        """`wanted` itself."""
        return wanted


Count = Callable[[int, int], None]  # told of every pass: tokens, and slots of the batch


@torch.no_grad()
def decode(
    model: Any,
    roots: Sequence[Root],
    suffixes: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    end_id: int,
    progress: Progress | None = None,
    step: InStep | None = None,
    count: Count = lambda _tokens, _slots: None,
) -> list[list[int]]:
    """New token ids after each root and its suffix, without the end token: the likeliest one at every place.

    Batches hold at most `batch_size` rows, the longest prompts first, rows of one root together; their make-up depends on the inputs alone.
    `progress(done, total)` is called after every batch. Processes that keep in step must give equally many batches' worth of rows, or some.
    """
    step = step or Alone()
    keys = [(root.input_ids, tuple(medium.key for medium in root.media)) for root in roots]
    order = _order(keys, [len(root.input_ids) + len(suffix) for root, suffix in zip(roots, suffixes, strict=True)])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    results: list[list[int]] = [[] for _ in roots]
    together = _continue if can_decode(model) else _generate
    for number in range(step.most(len(batches))):
        # Another process has more batches: the first one is run once more, and nothing comes of it.
        chosen = batches[number] if number < len(batches) else batches[0]
        prompts = [(keys[index], roots[index], suffixes[index]) for index in chosen]
        found = together(model, prompts, max_new_tokens, end_id, step, count)
        if number < len(batches):
            for index, tokens in zip(chosen, found, strict=True):
                results[index] = tokens
            if progress is not None:
                progress(min((number + 1) * batch_size, len(order)), len(order))
    return results


Prompt = tuple[Any, Root, Sequence[int]]  # what names the root, the root, the suffix


def _continue(model: Any, prompts: Sequence[Prompt], max_new_tokens: int, end_id: int, step: InStep, count: Count) -> list[list[int]]:
    distinct: dict[Any, Root] = {}
    for key, root, _ in prompts:
        distinct.setdefault(key, root)
    places = {key: place for place, key in enumerate(distinct)}
    owners, suffixes = [places[key] for key, _, _ in prompts], [list(suffix) for _, _, suffix in prompts]
    with _as_it_decodes(model):
        return _Batch(model, list(distinct.values()), owners, suffixes, max_new_tokens, end_id).run(step, count)


def _generate(model: Any, prompts: Sequence[Prompt], max_new_tokens: int, end_id: int, _: InStep, count: Count) -> list[list[int]]:
    roots, suffixes = [root for _, root, _ in prompts], [suffix for _, _, suffix in prompts]
    found = generate(model, roots, suffixes, max_new_tokens=max_new_tokens, batch_size=len(prompts), end_id=end_id)
    lengths = [len(root.input_ids) + len(suffix) for _, root, suffix in prompts]
    count(sum(lengths), max(lengths) * len(prompts))
    count(sum(map(len, found)), max(map(len, found)) * len(found))
    return found


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


class KeyValues:
    """Keys and values of all layers [B, G, L, D], written in place: what transformers' attention takes for a cache."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.used = 0
        self._buffered = False

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add a layer's new keys and values behind those in use; returns all of them."""
        if not self._buffered:
            self.layers.append((keys, values))
            return keys, values
        end = self.used + keys.shape[2]
        kept_keys, kept_values = self.layers[layer]
        kept_keys[:, :, self.used : end] = keys
        kept_values[:, :, self.used : end] = values
        return kept_keys[:, :, :end], kept_values[:, :, :end]

    def buffer(self, rows: Tensor, slots: int) -> None:
        """Give every row its root's keys and values (`rows` [B] says which), and room for `slots` in all."""
        self.used = self.layers[0][0].shape[2]
        self._buffered = True
        self.layers = [(self._roomy(keys, rows, slots), self._roomy(values, rows, slots)) for keys, values in self.layers]

    def keep(self, rows: Tensor) -> None:
        """Drop all but `rows`."""
        slots = self.layers[0][0].shape[2]
        self.layers = [(self._roomy(keys, rows, slots), self._roomy(values, rows, slots)) for keys, values in self.layers]

    def _roomy(self, states: Tensor, rows: Tensor, slots: int) -> Tensor:
        found = states.new_empty(len(rows), states.shape[1], slots, states.shape[3])
        found[:, :, : self.used] = states[rows, :, : self.used]
        return found


class _Batch:
    """Rows that are continued together. Slots are laid out as roots, suffixes (both padded on the left) and new tokens."""

    def __init__(
        self, model: Any, roots: Sequence[Root], owners: Sequence[int], suffixes: Sequence[list[int]], max_new_tokens: int, end_id: int
    ) -> None:
        self.model, self.roots, self.suffixes, self.end_id, self.max_new_tokens = model, roots, suffixes, end_id, max_new_tokens
        self.language = model.model.language_model
        self.penalty = float(model.generation_config.repetition_penalty or 1.0)
        # transformers renamed the argument in 5.24.
        self.cache_name = "cache" if "cache" in inspect.signature(self.language.forward).parameters else "past_key_values"
        self.device = model.device
        self.owner_B = torch.tensor(owners, device=self.device)
        self.cache = KeyValues()

    def run(self, step: InStep, count: Count) -> list[list[int]]:
        """The new tokens of each row, without the end token."""
        lengths = [len(suffix) for suffix in self.suffixes]
        hidden_BH, root_valid_BL = self._read_roots(count)
        width = step.most(max(lengths))  # a pass over suffixes that only other processes have is made too
        valid_BL = torch.cat([root_valid_BL, self._valid(lengths, width)], 1)
        self.cache.buffer(self.owner_B, valid_BL.shape[1] + self.max_new_tokens)
        if width:
            hidden_BH = self._read_suffixes(hidden_BH, valid_BL, width, count)
        return self._write(hidden_BH, valid_BL, step, count)

    def _read_roots(self, count: Count) -> tuple[Tensor, Tensor]:
        """Each row's last hidden state of its root [B, H], and which root slots hold a token [B, L]."""
        lengths = [len(root.input_ids) for root in self.roots]
        width = max(lengths)
        valid_QL = self._valid(lengths, width)
        ids_QL = torch.full((len(lengths), width), self.end_id)
        for row, root in enumerate(self.roots):
            ids_QL[row, width - lengths[row] :] = torch.tensor(root.input_ids)
        embeddings, _, _ = embed(self.model, ids_QL.to(self.device), list(self.roots))
        causal_LL = torch.ones(width, width, dtype=torch.bool, device=self.device).tril()
        positions_QL = (valid_QL.cumsum(1) - 1).clamp(min=0)
        hidden_QLH = self._forward(embeddings, (causal_LL & valid_QL[:, None])[:, None], positions_QL)
        count(sum(lengths), width * len(lengths))
        return hidden_QLH[self.owner_B, -1], valid_QL[self.owner_B]

    def _read_suffixes(self, hidden_BH: Tensor, valid_BL: Tensor, width: int, count: Count) -> Tensor:
        """The last hidden state of root and suffix [B, H]."""
        ids_BL = torch.full((len(self.suffixes), width), self.end_id)
        for row, suffix in enumerate(self.suffixes):
            ids_BL[row, width - len(suffix) :] = torch.tensor(suffix, dtype=torch.long)
        slots = valid_BL.shape[1]
        causal_LL = torch.ones(width, slots, dtype=torch.bool, device=self.device).tril(slots - width)
        allowed_B1LL = (causal_LL & valid_BL[:, None])[:, None]
        positions_BL = (valid_BL.cumsum(1) - 1).clamp(min=0)[:, -width:]
        hidden_BLH = self._forward(self.model.get_input_embeddings()(ids_BL.to(self.device)), allowed_B1LL, positions_BL)
        self.cache.used += width
        count(sum(map(len, self.suffixes)), width * len(self.suffixes))
        has_suffix_B = torch.tensor([bool(suffix) for suffix in self.suffixes], device=self.device)
        return torch.where(has_suffix_B[:, None], hidden_BLH[:, -1], hidden_BH)

    def _write(self, hidden_BH: Tensor, valid_BL: Tensor, step: InStep, count: Count) -> list[list[int]]:
        position_B = valid_BL.sum(1)
        free_BL = torch.ones(len(valid_BL), self.max_new_tokens, dtype=torch.bool, device=self.device)
        mask_B11L = self._additive(torch.cat([valid_BL, free_BL], 1)[:, None, None], hidden_BH.dtype)
        written: list[list[int]] = [[] for _ in self.suffixes]
        rows = list(range(len(written)))  # which result each row of the batch writes to
        going = [True] * len(rows)
        for number in range(self.max_new_tokens):
            token_B = self._next(hidden_BH, [written[row] for row in rows])
            for place, token in enumerate(token_B.tolist()):
                if going[place]:
                    going[place] = token != self.end_id
                    if going[place]:
                        written[rows[place]].append(token)
            if number == self.max_new_tokens - 1 or not step.any(any(going)):
                break
            if any(going) and sum(going) < COMPACT_AT * len(going):
                kept = torch.tensor([place for place, goes in enumerate(going) if goes], device=self.device)
                self.cache.keep(kept)
                token_B, position_B, mask_B11L = token_B[kept], position_B[kept], mask_B11L[kept]
                rows = [rows[place] for place in kept.tolist()]
                going = [True] * len(rows)
            embeddings = self.model.get_input_embeddings()(token_B[:, None])
            mask = mask_B11L[..., : self.cache.used + 1]
            hidden_BH = self._language(embeddings, mask, position_B[:, None])[:, -1]
            self.cache.used += 1
            position_B = position_B + 1
            count(sum(going), len(going))
        return written

    def _next(self, hidden_BH: Tensor, written: Sequence[Sequence[int]]) -> Tensor:
        """The likeliest next token [B]; a repetition penalty weighs down what the row has written."""
        logits_BV: Tensor = self.model.lm_head(hidden_BH).float()
        if self.penalty != 1.0:
            for row, tokens in enumerate(written):
                seen = torch.tensor(sorted(set(tokens)), dtype=torch.long, device=self.device)
                score = logits_BV[row, seen]
                logits_BV[row, seen] = torch.where(score < 0, score * self.penalty, score / self.penalty)
        return logits_BV.argmax(1)

    def _forward(self, embeddings: Tensor, allowed: Tensor, positions: Tensor) -> Tensor:
        return self._language(embeddings, self._additive(allowed, embeddings.dtype), positions)

    def _language(self, embeddings: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        outputs = self.language(
            inputs_embeds=embeddings,
            attention_mask={"full_attention": mask},
            position_ids=positions,
            use_cache=True,
            **{self.cache_name: self.cache},
        )
        hidden: Tensor = outputs.last_hidden_state
        return hidden

    @staticmethod
    def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)

    def _valid(self, lengths: Sequence[int], width: int) -> Tensor:
        """Slots that hold a token, where rows of these lengths are padded on the left to `width`."""
        length_N = torch.tensor(lengths, device=self.device)
        return torch.arange(width, device=self.device) >= width - length_N[:, None]
