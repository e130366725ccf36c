"""A batch of rows: the model reads roots and suffixes, then writes one token a row at a time.

- Chosen tokens, ends and end states stay on the device. The loop asks it only every CHECK_TOKENS tokens whether all rows have ended, and
  what has ended leaves the batch then. Until it leaves, an ended row writes end tokens, which nothing reads.
- Positions are those of a tree: a suffix and what is written after it continue from its root's next position, on every axis for M-RoPE.

Shapes: Q distinct roots, N rows at first, B of them still in the batch, L tokens or slots, A position axes, G key-value heads, D size of a
head, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from components.families.adapters import Root, family_of
from components.families.loading import set_attention
from components.features.embedding import embed
from components.trees.scoring import PASS_SLOTS, Count

MASK_VALUES = 1 << 24  # of the attention masks of rows that are read in one pass, at most, beyond one row's: 64 MB in fp32
COMPACT_AT = 0.8  # share of unfinished rows below which the batch drops the finished ones; dropping copies the buffers once
# Tokens between two questions to the device. On a GPU each waits for all queued work; a CPU has none, and saves passes for ended rows.
CHECK_TOKENS = {"cpu": 1, "cuda": 8}


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

    @classmethod
    def joined(cls, parts: Sequence[KeyValues]) -> KeyValues:
        """Those of all parts' rows, in order; the parts are emptied layer by layer."""
        if len(parts) == 1:
            return parts[0]
        joined = cls()
        for _ in range(len(parts[0].layers)):
            keys, values = zip(*(part.layers.pop(0) for part in parts), strict=True)
            joined.layers.append((torch.cat(keys), torch.cat(values)))
        return joined

    def buffer(self, rows: Tensor, slots: int) -> None:
        """Give every row its root's keys and values (`rows` [B] are the roots' indices), and buffers of `slots` slots."""
        self.used = self.layers[0][0].shape[2]
        self._buffered = True
        self.layers = [(self._roomy(keys, rows, slots), self._roomy(values, rows, slots)) for keys, values in self.layers]

    def part(self, rows: slice) -> KeyValues:
        """Those of `rows`, once there are buffers; what it takes up stands in this one's buffers too."""
        part = KeyValues()
        part.used, part._buffered = self.used, True
        part.layers = [(keys[rows], values[rows]) for keys, values in self.layers]
        return part

    def keep(self, rows: Tensor) -> None:
        """Drop all but `rows`."""
        slots = self.layers[0][0].shape[2]
        self.layers = [(self._roomy(keys, rows, slots), self._roomy(values, rows, slots)) for keys, values in self.layers]

    def _roomy(self, states: Tensor, rows: Tensor, slots: int) -> Tensor:
        buffer = states.new_empty(len(rows), states.shape[1], slots, states.shape[3])
        buffer[:, :, : self.used] = states[rows, :, : self.used]
        return buffer


@contextmanager
def as_it_decodes(model: Any) -> Iterator[None]:
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


@dataclass(frozen=True)
class Writing:
    """How rows are written: at most `max_new_tokens` tokens, up to `end_id`; `temperature` 0 takes the likeliest.

    With `read_ends` the model also reads the end token, even after a row that did not write it.
    """

    max_new_tokens: int
    end_id: int
    read_ends: bool = False
    temperature: float = 0.0

    @property
    def slots(self) -> int:
        """Tokens that the model may read after a suffix."""
        return self.max_new_tokens + self.read_ends


@dataclass(frozen=True)
class _Rows:
    """The rows still in a batch: their numbers in the results, what the model last returned, and their next token with its position."""

    number_B: Tensor
    hidden_BH: Tensor
    token_B: Tensor
    position_B: Tensor
    mask_B11L: Tensor
    ended_B: Tensor
    seen_BV: Tensor | None

    def select(self, left: Tensor) -> _Rows:
        """Only the rows `left`."""
        columns: dict[str, Any] = {name: None if column is None else column[left] for name, column in vars(self).items()}
        return _Rows(**columns)


def rows_together(width: int, slots: int) -> int:
    """How many rows of `width` tokens, each of which may attend to `slots` slots, are read in one pass."""
    return max(1, min(PASS_SLOTS // width, MASK_VALUES // (width * slots)))


def in_parts(count: int, together: int, step: Lockstep) -> Iterator[tuple[slice, bool]]:
    """The parts of `count` rows, `together` at a time, each with whether it counts.

    Processes in lockstep make equally many passes: one that has fewer parts runs its last one again beside the others'.
    """
    parts = [slice(start, start + together) for start in range(0, count, together)]
    for number in range(step.most(len(parts))):
        yield parts[min(number, len(parts) - 1)], number < len(parts)


class Batch:
    """Rows that the model continues together. The slots hold roots, suffixes (both padded on the left) and new tokens."""

    def __init__(
        self, model: Any, roots: Sequence[Root], owners: Sequence[int], suffixes: Sequence[Sequence[int]], writing: Writing
    ) -> None:
        self.model, self.roots, self.owners, self.suffixes, self.writing = model, roots, owners, suffixes, writing
        self.family = family_of(model.config)
        self.penalty = float(model.generation_config.repetition_penalty or 1.0)
        self.device = model.device
        self.check_tokens = CHECK_TOKENS.get(self.device.type, CHECK_TOKENS["cuda"])
        self.owner_N = torch.tensor(owners, device=self.device)
        self.key_values = KeyValues()

    def run(self, step: Lockstep, count: Count) -> list[Continued]:
        """Each row's continuation."""
        lengths = [len(suffix) for suffix in self.suffixes]
        hidden_NH, root_valid_NL = self._read_roots(step, count)
        width = step.most(max(lengths))  # also runs a pass for suffixes that only other processes have
        valid_NL = torch.cat([root_valid_NL, self._valid(lengths, width)], 1)
        self.key_values.buffer(self.owner_N, valid_NL.shape[1] + self.writing.slots)
        if width:
            hidden_NH = self._read_suffixes(hidden_NH, valid_NL, width, step, count)
        return self._write(hidden_NH, valid_NL, step, count)

    def _read_roots(self, step: Lockstep, count: Count) -> tuple[Tensor, Tensor]:
        """The last hidden state [N, H] of each row's root, and the mask [N, L] of root slots with a token. Leaves the roots' keys and values."""
        lengths = [len(root.input_ids) for root in self.roots]
        width = max(lengths)
        valid_QL = self._valid(lengths, width)
        ids_QL = torch.full((len(lengths), width), self.writing.end_id)
        positions_AQL = torch.zeros((self.family.axes, *ids_QL.shape), dtype=torch.long)
        for row, root in enumerate(self.roots):
            ids_QL[row, width - lengths[row] :] = torch.tensor(root.input_ids)
            positions_AQL[:, row, width - lengths[row] :] = torch.arange(lengths[row]) if root.positions_AL is None else root.positions_AL
        hidden_PH, stored = [], []
        for part, counts in in_parts(len(lengths), rows_together(width, width), step):
            key_values = KeyValues()
            last_PH = self._read_part(part, ids_QL, positions_AQL, valid_QL, key_values)
            if counts:
                count(sum(lengths[part]), width * len(lengths[part]))
                hidden_PH.append(last_PH)
                stored.append(key_values)
        self.key_values = KeyValues.joined(stored)
        return torch.cat(hidden_PH)[self.owner_N], valid_QL[self.owner_N]

    def _read_part(self, part: slice, ids_QL: Tensor, positions_AQL: Tensor, valid_QL: Tensor, key_values: KeyValues) -> Tensor:
        """The last hidden states [P, H] of some roots. Its other tensors end with it."""
        embeddings, media_PL, deeper = embed(self.model, ids_QL[part].to(self.device), list(self.roots[part]))
        valid_PL = valid_QL[part]
        width = valid_PL.shape[1]
        mask: Tensor | None = None  # sdpa is causal by itself, and faster so
        if min(len(root.input_ids) for root in self.roots[part]) < width or not self.family.mask_by_layer:
            causal_LL = torch.ones(width, width, dtype=torch.bool, device=self.device).tril()
            mask = self._additive((causal_LL & valid_PL[:, None])[:, None], embeddings.dtype)
        return self._language(embeddings, mask, positions_AQL[:, part].to(self.device), deeper, media_PL, key_values)[:, -1].clone()

    def _read_suffixes(self, hidden_NH: Tensor, valid_NL: Tensor, width: int, step: Lockstep, count: Count) -> Tensor:
        """The last hidden state of root and suffix [N, H]."""
        ids_NL = torch.full((len(self.suffixes), width), self.writing.end_id)
        positions_NL = torch.zeros_like(ids_NL)
        for row, (owner, suffix) in enumerate(zip(self.owners, self.suffixes, strict=True)):
            ids_NL[row, width - len(suffix) :] = torch.tensor(suffix, dtype=torch.long)
            positions_NL[row, width - len(suffix) :] = torch.arange(len(suffix)) + self.roots[owner].next_position
        slots = valid_NL.shape[1]
        causal_LL = torch.ones(width, slots, dtype=torch.bool, device=self.device).tril(slots - width)
        hidden_PH = []
        for part, counts in in_parts(len(ids_NL), rows_together(width, slots), step):
            mask = self._additive((causal_LL & valid_NL[part, None])[:, None], hidden_NH.dtype)
            embeddings = self.model.get_input_embeddings()(ids_NL[part].to(self.device))
            positions_APL = positions_NL[part].to(self.device).expand(self.family.axes, -1, -1)
            hidden_PLH = self._language(embeddings, mask, positions_APL, key_values=self.key_values.part(part))
            if counts:
                hidden_PH.append(hidden_PLH[:, -1].clone())
        self.key_values.used += width
        count(sum(map(len, self.suffixes)), width * len(self.suffixes))
        has_suffix_N = torch.tensor([bool(suffix) for suffix in self.suffixes], device=self.device)
        return torch.where(has_suffix_N[:, None], torch.cat(hidden_PH), hidden_NH)

    def _write(self, hidden_NH: Tensor, valid_NL: Tensor, step: Lockstep, count: Count) -> list[Continued]:
        writing, rows = self.writing, self._rows(hidden_NH, valid_NL)
        written_NL = torch.full((len(self.suffixes), writing.slots), writing.end_id, device=self.device)
        end_NH = torch.zeros_like(hidden_NH)
        tokens, slots = torch.zeros((), dtype=torch.long, device=self.device), 0  # read since the last check
        for number in range(writing.slots):
            if number < writing.max_new_tokens:
                token_B = self._next(rows).masked_fill(rows.ended_B, writing.end_id)
                written_NL[rows.number_B, number] = token_B
            else:
                token_B = torch.full_like(rows.number_B, writing.end_id)
            rows = replace(rows, token_B=token_B)
            if number == writing.slots - 1 and not writing.read_ends:  # the last token needs no pass
                break
            if number % self.check_tokens == self.check_tokens - 1:
                *reads, read = torch.cat([self._reads(rows).long(), tokens[None]]).tolist()
                if slots:
                    count(read, slots)
                tokens, slots = torch.zeros_like(tokens), 0
                if not step.any(any(reads)):
                    break
                if any(reads) and sum(reads) < COMPACT_AT * len(reads):
                    left = torch.tensor([index for index, wanted in enumerate(reads) if wanted], device=self.device)
                    self.key_values.keep(left)
                    rows = rows.select(left)
            tokens, slots = tokens + self._reads(rows).sum(), slots + len(rows.number_B)
            ends_now_B = ~rows.ended_B & (rows.token_B == writing.end_id)
            rows = self._read_token(rows)
            if writing.read_ends:
                end_NH[rows.number_B] = torch.where(ends_now_B[:, None], rows.hidden_BH, end_NH[rows.number_B])
        if slots:
            count(int(tokens), slots)
        return [
            Continued(self._before_end(row), end_H if writing.read_ends else None)
            for row, end_H in zip(written_NL[:, : writing.max_new_tokens].tolist(), end_NH, strict=True)
        ]

    def _rows(self, hidden_NH: Tensor, valid_NL: Tensor) -> _Rows:
        """All rows before their first token."""
        number_N = torch.arange(len(self.suffixes), device=self.device)
        free_NL = torch.ones(len(number_N), self.writing.slots, dtype=torch.bool, device=self.device)
        nexts = [self.roots[owner].next_position + len(suffix) for owner, suffix in zip(self.owners, self.suffixes, strict=True)]
        return _Rows(
            number_B=number_N,
            hidden_BH=hidden_NH,
            token_B=number_N,
            position_B=torch.tensor(nexts, device=self.device),
            mask_B11L=self._additive(torch.cat([valid_NL, free_NL], 1)[:, None, None], hidden_NH.dtype),
            ended_B=torch.zeros_like(number_N, dtype=torch.bool),
            seen_BV=self._seen(),
        )

    def _reads(self, rows: _Rows) -> Tensor:
        """The mask [B] of rows whose token the model still has to read."""
        return ~rows.ended_B if self.writing.read_ends else ~rows.ended_B & (rows.token_B != self.writing.end_id)

    def _read_token(self, rows: _Rows) -> _Rows:
        """The rows after the model has read their tokens."""
        embeddings = self.model.get_input_embeddings()(rows.token_B[:, None])
        mask = rows.mask_B11L[..., : self.key_values.used + 1]
        hidden_B1H = self._language(embeddings, mask, rows.position_B[:, None].expand(self.family.axes, -1, -1))
        self.key_values.used += 1
        if rows.seen_BV is not None:
            rows.seen_BV.scatter_(1, rows.token_B[:, None], True)
        ended_B = rows.ended_B | (rows.token_B == self.writing.end_id)
        return replace(rows, hidden_BH=hidden_B1H[:, -1], position_B=rows.position_B + 1, ended_B=ended_B)

    def _before_end(self, row: list[int]) -> list[int]:
        return row[: row.index(self.writing.end_id)] if self.writing.end_id in row else row

    def _seen(self) -> Tensor | None:
        """The mask [N, V] of tokens in each row's prompt, for a repetition penalty; None without one."""
        if self.penalty == 1.0:
            return None
        seen_NV = torch.zeros((len(self.suffixes), self.model.config.text_config.vocab_size), dtype=torch.bool, device=self.device)
        for row, (owner, suffix) in enumerate(zip(self.owners, self.suffixes, strict=True)):
            seen_NV[row, torch.tensor([*self.roots[owner].input_ids, *suffix], device=self.device)] = True
        return seen_NV

    def _next(self, rows: _Rows) -> Tensor:
        """The next token [B]. A repetition penalty lowers the scores of the tokens in a row's prompt and text, as in transformers and vLLM."""
        logits_BV: Tensor = self.model.lm_head(rows.hidden_BH).float()
        if rows.seen_BV is not None:
            penalized_BV = torch.where(logits_BV < 0, logits_BV * self.penalty, logits_BV / self.penalty)
            logits_BV = torch.where(rows.seen_BV, penalized_BV, logits_BV)
        if self.writing.temperature:
            return torch.multinomial((logits_BV / self.writing.temperature).softmax(-1), 1)[:, 0]
        return logits_BV.argmax(1)

    def _language(
        self,
        embeddings: Tensor,
        mask: Tensor | None,
        positions_AL: Tensor,
        deeper: Sequence[Tensor] = (),
        media: Tensor | None = None,
        key_values: KeyValues | None = None,
    ) -> Tensor:
        positions = positions_AL if self.family.axes > 1 else positions_AL[0]
        return self.family.language(self.model, embeddings, mask, positions, deeper, media, key_values or self.key_values)

    @staticmethod
    def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.where(allowed, torch.zeros((), dtype=dtype, device=allowed.device), torch.finfo(dtype).min)

    def _valid(self, lengths: Sequence[int], width: int) -> Tensor:
        """The mask of slots with a token, for rows of these lengths padded on the left to `width`."""
        length_N = torch.tensor(lengths, device=self.device)
        return torch.arange(width, device=self.device) >= width - length_N[:, None]
