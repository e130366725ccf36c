"""Log-probs of branches from one pass over packed trees.

- Only target positions meet the LM head, in chunks; full logits are never stored. Log-sum-exp is fp32, and each chunk is computed again
  in backward.
- The head is called as a module inside the forward of the module that owns it, so that a sharding engine can gather its weight.
- One pass gives the log-probs of all N responses of a query; every pair's loss follows from these N numbers.

Shapes: R rows, L tokens a row, T target tokens, K branches, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.vlm.families import family_of
from components.vlm.features import embed
from components.vlm.trees import TreeBatch

HEAD_CHUNK = 1024  # target tokens that meet the LM head at once


def token_log_probs(head: nn.Module, hidden_TH: Tensor, target_T: Tensor, chunk: int = HEAD_CHUNK) -> Tensor:
    """fp32 log-prob of each target token [T]."""
    pieces = []
    for start in range(0, max(1, len(target_T)), chunk):  # no targets still run the head, for ranks that wait for its gradient
        piece_CH, target_C = hidden_TH[start : start + chunk], target_T[start : start + chunk]
        if torch.is_grad_enabled():
            pieces.append(checkpoint(_chunk_log_probs, head, piece_CH, target_C, use_reentrant=False))
        else:
            pieces.append(_chunk_log_probs(head, piece_CH, target_C))
    return torch.cat(pieces)


def _chunk_log_probs(head: nn.Module, hidden_CH: Tensor, target_C: Tensor) -> Tensor:
    logits_CV: Tensor = head(hidden_CH).float()
    return logits_CV.gather(1, target_C[:, None])[:, 0] - logits_CV.logsumexp(1)


def tree_hidden(model: Any, batch: TreeBatch) -> Tensor:
    """Last hidden states of packed trees, flattened [R * L, H]. Refuses attention that would misread the mask (ValueError)."""
    attention = model.config.text_config._attn_implementation  # noqa: SLF001 - transformers keeps the choice nowhere public
    if attention != "sdpa":
        raise ValueError(f"preference trees need sdpa attention, not '{attention}': load the model with attn_implementation='sdpa'")
    embeddings_RLH, media_RL, deeper = embed(model, batch.input_ids_RL, batch.roots)
    mask = batch.mask_R1LL(embeddings_RLH.dtype)
    hidden_RLH = family_of(model.config).language(model, embeddings_RLH, mask, batch.position_ids_RL, deeper, media_RL)
    return hidden_RLH.flatten(0, 1)


def branch_sums(values_T: Tensor, batch: TreeBatch) -> Tensor:
    """Sum of a value a target token over each branch [K], in fp32."""
    return torch.zeros(batch.branches, dtype=values_T.dtype, device=values_T.device).index_add(0, batch.branch_T, values_T)


def branch_tokens(batch: TreeBatch) -> Tensor:
    """Number of target tokens of each branch [K]."""
    return torch.bincount(batch.branch_T, minlength=batch.branches)


class TreeModel(nn.Module):
    """A vision-language model that reads packed trees and returns each branch's summed log-prob [K] in fp32."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TreeBatch) -> Tensor:
        """Log-prob sums of the branches (paper section 4: log pi(y | x) summed over the response's tokens and its end)."""
        hidden_NH = tree_hidden(self.model, batch)
        return branch_sums(token_log_probs(self.model.lm_head, hidden_NH[batch.predictor_T], batch.target_T), batch)
