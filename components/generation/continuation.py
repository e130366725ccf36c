"""A batch of rows: the model reads roots and suffixes, then writes one token a row at a time.

Shapes: Q distinct roots, B rows, L tokens or slots, G key-value heads, D size of a head, H hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from components.families.adapters import Root
from components.features.embedding import embed
from components.trees.scoring import Count

COMPACT_AT = 0.8  # share of unfinished rows below which the batch drops the finished ones; dropping copies the buffers once


class Lockstep(Protocol):
    """Agreement of processes that must call the model equally often."""

    def most(self, count: int) -> int:
        """The largest `count` among them."""
        ...

    def any(self, wanted: bool) -> bool:
        """Whether one of them continues."""
        ...


class SingleProcess:
    """The lockstep of one process, which waits for no other."""

    def most(self, count: int) -> int:
        """`count` itself."""
        return count

    def any(self, wanted: bool) -> bool:
        """`wanted` itself."""
        return wanted


@dataclass(frozen=True)
class Continued:
    """The tokens written after a prompt, without the end token; and with `read_ends` the last hidden state [H] of the end token."""

    tokens: list[int]
    end_H: Tensor | None


class KeyValues:
    """Keys and values of all layers [B, G, L, D], written in place, with the interface of transformers' cache."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.used = 0
        self._buffered = False

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append a layer's new keys and values; return all of the layer's."""
        if not self._buffered:
            self.layers.append((keys, values))
            return keys, values
        end = self.used + keys.shape[2]
        all_keys, all_values = self.layers[layer]
        all_keys[:, :, self.used : end] = keys
        all_values[:, :, self.used : end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]

    def buffer(self, rows: Tensor, slots: int) -> None:
        """Give every row its root's keys and values (`rows` [B] are the roots' indices), and buffers of `slots` slots."""
        self.used = self.layers[0][0].shape[2]
        self._buffered = True
        self.layers = [(self._roomy(keys, rows, slots), self._roomy(values, rows, slots)) for keys, values in self.layers]

    def keep(self, rows: Tensor) -> None:
        """Drop all but `rows`."""
        slots = self.layers[0][0].shape[2]
        self.layers = [(self._roomy(keys, rows, slots), self._roomy(values, rows, slots)) for keys, values in self.layers]

    def _roomy(self, states: Tensor, rows: Tensor, slots: int) -> Tensor:
        buffer = states.new_empty(len(rows), states.shape[1], slots, states.shape[3])
        buffer[:, :, : self.used] = states[rows, :, : self.used]
        return buffer


class Batch:
    """Rows that the model continues together. The slots hold roots, suffixes (both padded on the left) and new tokens."""

    def __init__(
        self,
        model: Any,
        roots: Sequence[Root],
        owners: Sequence[int],
        suffixes: Sequence[list[int]],
        max_new_tokens: int,
        end_id: int,
        read_ends: bool,
    ) -> None:
        self.model, self.roots, self.suffixes, self.end_id, self.max_new_tokens = model, roots, suffixes, end_id, max_new_tokens
        self.read_ends = read_ends
        self.room = max_new_tokens + read_ends  # slots after the suffixes
        self.language = model.model.language_model
        self.penalty = float(model.generation_config.repetition_penalty or 1.0)
        # transformers renamed the argument in 5.24.
        self.cache_name = "cache" if "cache" in inspect.signature(self.language.forward).parameters else "past_key_values"
        self.device = model.device
        self.owner_B = torch.tensor(owners, device=self.device)
        self.cache = KeyValues()

    def run(self, step: Lockstep, count: Count) -> list[Continued]:
        """Each row's continuation."""
        lengths = [len(suffix) for suffix in self.suffixes]
        hidden_BH, root_valid_BL = self._read_roots(count)
        width = step.most(max(lengths))  # also runs a pass for suffixes that only other processes have
        valid_BL = torch.cat([root_valid_BL, self._valid(lengths, width)], 1)
        self.cache.buffer(self.owner_B, valid_BL.shape[1] + self.room)
        if width:
            hidden_BH = self._read_suffixes(hidden_BH, valid_BL, width, count)
        return self._write(hidden_BH, valid_BL, step, count)

    def _read_roots(self, count: Count) -> tuple[Tensor, Tensor]:
        """The last hidden state [B, H] of each row's root, and the mask [B, L] of root slots with a token."""
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

    def _write(self, hidden_BH: Tensor, valid_BL: Tensor, step: Lockstep, count: Count) -> list[Continued]:
        position_B = valid_BL.sum(1)
        free_BL = torch.ones(len(valid_BL), self.room, dtype=torch.bool, device=self.device)
        mask_B11L = self._additive(torch.cat([valid_BL, free_BL], 1)[:, None, None], hidden_BH.dtype)
        written: list[list[int]] = [[] for _ in self.suffixes]
        ends: list[Tensor | None] = [None] * len(written)
        rows = list(range(len(written)))  # index of each row's result
        going = [True] * len(rows)
        for number in range(self.room):
            if number < self.max_new_tokens:
                token_B = self._next(hidden_BH, [written[row] for row in rows])
            else:
                token_B = torch.full((len(rows),), self.end_id, device=self.device)
            ending = []
            for index, token in enumerate(token_B.tolist()):
                ending.append(going[index] and token == self.end_id)
                going[index] = going[index] and token != self.end_id
                if going[index]:
                    written[rows[index]].append(token)
            wanted = [goes or (self.read_ends and ends_now) for goes, ends_now in zip(going, ending, strict=True)]
            last = number == self.room - 1 and not self.read_ends  # the last token needs no forward
            if last or not step.any(any(wanted)):
                break
            if any(wanted) and sum(wanted) < COMPACT_AT * len(wanted):
                selected = [index for index, wants in enumerate(wanted) if wants]
                selected_rows = torch.tensor(selected, device=self.device)
                self.cache.keep(selected_rows)
                token_B, position_B, mask_B11L = token_B[selected_rows], position_B[selected_rows], mask_B11L[selected_rows]
                rows = [rows[index] for index in selected]
                going, ending = ([column[index] for index in selected] for column in (going, ending))
            embeddings = self.model.get_input_embeddings()(token_B[:, None])
            mask = mask_B11L[..., : self.cache.used + 1]
            hidden_BH = self._language(embeddings, mask, position_B[:, None])[:, -1]
            self.cache.used += 1
            position_B = position_B + 1
            count(sum(wanted), len(rows))
            for index, ends_now in enumerate(ending):
                if ends_now and self.read_ends:
                    ends[rows[index]] = hidden_BH[index]
        return [Continued(tokens, end_H) for tokens, end_H in zip(written, ends, strict=True)]

    def _next(self, hidden_BH: Tensor, written: Sequence[Sequence[int]]) -> Tensor:
        """The likeliest next token [B]; a repetition penalty lowers the scores of the row's own tokens."""
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
        """The mask of slots with a token, for rows of these lengths padded on the left to `width`."""
        length_N = torch.tensor(lengths, device=self.device)
        return torch.arange(width, device=self.device) >= width - length_N[:, None]
