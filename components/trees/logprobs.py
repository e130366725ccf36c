"""Log-probs of branches from one pass over packed trees.

- Only target positions go through the LM head, in parts; full logits are never stored. Log-sum-exp is fp32, and backward recomputes each part.
- One pass gives the log-probs of all N responses of a query; every pair's loss follows from these N numbers.
- The same logits give entropy and accuracy of each target, without gradient, on request.
- A head that is one product is read by our own backward, which walks the vocabulary in tiles: 1.2 times the seconds of full logits at 2,048
  targets and a vocabulary of 150,000, and a sixth of their memory. Under ZeRO-3 a call of the head gathers its weight, so the tiles are read
  within one call: each rank gathers once a pass, however many targets it has. Else ranks with fewer targets would leave the others waiting.
- A head whose forward is more than one product is called as a module on chunks of targets, each checkpointed.

Shapes: R rows, L tokens a row, T target tokens, C of them in a chunk, K branches, H hidden size, V vocabulary, U of it in a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from components.families.adapters import family_of
from components.features.embedding import embed
from components.trees.attention import attention_path, to_blocks, tree_block_mask
from components.trees.trees import PADDING, TreeBatch

HEAD_CHUNK = 1024  # target tokens of a chunk, at most
CHUNK_LOGITS = 1 << 25  # logits of a chunk or a tile, at most: 134 MB in fp32
CPU_TILE_LOGITS = 1 << 22  # on a CPU: 17 MB, which fit its caches; tiles of 134 MB took 1.5 times as long
LARGE_VOCABULARY = 1 << 18  # assumed for a head without an attribute for its vocabulary
TILE_WIDTH = 256  # least tokens of a tile: a narrower product is slow


@dataclass(frozen=True)
class TokenScores:
    """Of each target token: its log-prob; without gradient, the prediction's entropy in nats and whether the token is the likeliest."""

    log_prob_T: Tensor
    entropy_T: Tensor
    correct_T: Tensor


class BranchScores(NamedTuple):
    """Of each branch: the sum of its log-probs; without gradient, the means of entropy (nats) and accuracy over its target tokens.

    A tuple, so that DeepSpeed sees the tensors in it.
    """

    log_prob_K: Tensor
    entropy_K: Tensor
    accuracy_K: Tensor


def token_log_probs(head: nn.Module, hidden_TH: Tensor, target_T: Tensor, chunk: int | None = None) -> Tensor:
    """fp32 log-prob of each target token [T] (fp64 for fp64 states). Raises ValueError when `head` has LoRA adapters.

    Memory has at most the logits of `chunk` targets at once; None selects a size by device and vocabulary.
    """
    return _read_head(head, hidden_TH, target_T, chunk, statistics=False)[0]


def token_scores(head: nn.Module, hidden_TH: Tensor, target_T: Tensor, chunk: int | None = None) -> TokenScores:
    """As `token_log_probs`, with entropy and accuracy of each target token; all fp32 [T]."""
    return TokenScores(*_read_head(head, hidden_TH, target_T, chunk, statistics=True))


def chunk_tokens(vocabulary: int) -> int:
    """Targets a chunk: the largest power of two whose logits stay within CHUNK_LOGITS, from 64 to HEAD_CHUNK."""
    return min(HEAD_CHUNK, max(64, 1 << ((CHUNK_LOGITS // vocabulary).bit_length() - 1)))


Three = tuple[Tensor, Tensor, Tensor]


def _read_head(head: nn.Module, hidden_TH: Tensor, target_T: Tensor, chunk: int | None, *, statistics: bool) -> Three:
    if type(head).__module__.startswith("peft.tuners"):
        raise ValueError("the LM head has LoRA adapters, which the chunked log-probs do not support: remove it from the adapters' targets")
    partitioned = _is_partitioned(head)
    if type(head) is nn.Linear and not torch.is_autocast_enabled(hidden_TH.device.type):
        logits = chunk * head.out_features if chunk else _tile_logits(hidden_TH)

        def read(hidden_TH: Tensor) -> Three:
            return _TiledHead.apply(hidden_TH, head.weight, head.bias, target_T, logits, statistics)  # type: ignore[no-any-return]

        return _called_as(head, read, hidden_TH) if partitioned else read(hidden_TH)
    if partitioned:
        chunk = max(1, len(target_T))  # one call of the head on every rank
    size = chunk or chunk_tokens(head.out_features if isinstance(head, nn.Linear) else LARGE_VOCABULARY)
    pieces = []
    for start in range(0, max(1, len(target_T)), size):  # no targets still run the head, for ranks that wait for its gradient
        piece_CH, target_C = hidden_TH[start : start + size], target_T[start : start + size]
        if torch.is_grad_enabled():
            pieces.append(checkpoint(_module_chunk, head, piece_CH, target_C, statistics, use_reentrant=False))
        else:
            pieces.append(_module_chunk(head, piece_CH, target_C, statistics))
    log_prob_T, entropy_T, correct_T = (torch.cat(column) for column in zip(*pieces, strict=True))
    return log_prob_T, entropy_T, correct_T


def _tile_logits(hidden_TH: Tensor) -> int:
    return max(CPU_TILE_LOGITS if hidden_TH.device.type == "cpu" else CHUNK_LOGITS, TILE_WIDTH * len(hidden_TH))


def _is_partitioned(head: nn.Module) -> bool:
    """Whether ZeRO-3 has spread the head over ranks. DeepSpeed marks partitioned weights by a `ds_id`."""
    return any("ds_id" in vars(parameter) for parameter in head.parameters())


def _called_as(head: nn.Module, forward: Callable[[Tensor], Three], hidden_TH: Tensor) -> Three:
    """Call `head` with another forward: DeepSpeed's hooks on the module gather its weight for the call and for its backward."""
    head.forward = forward
    try:
        scores: Three = head(hidden_TH)
    finally:
        del head.forward
    return scores


def _module_chunk(head: nn.Module, hidden_CH: Tensor, target_C: Tensor, statistics: bool) -> Three:
    logits_CV: Tensor = _wide(head(hidden_CH))
    lse_C = logits_CV.logsumexp(1)
    log_prob_C = logits_CV.gather(1, target_C[:, None])[:, 0] - lse_C
    if not statistics:
        return log_prob_C, log_prob_C.detach(), log_prob_C.detach()
    correct_C = (logits_CV.argmax(1) == target_C).to(logits_CV.dtype)
    return log_prob_C, _entropy(logits_CV.detach().clone(), lse_C.detach()), correct_C


def _wide(logits_CV: Tensor) -> Tensor:
    """fp32, or fp64 for an fp64 model."""
    return logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))


def _entropy(logits_CV: Tensor, lse_C: Tensor) -> Tensor:
    """Entropy in nats [C] of the prediction. Overwrites the logits."""
    log_p_CV = logits_CV.sub_(lse_C[:, None])
    return -torch.bmm(log_p_CV.exp()[:, None], log_p_CV[:, :, None])[:, 0, 0]


class _TiledHead(torch.autograd.Function):
    """Log-probs through a head that is one product, with memory for a part of the logits instead of all.

    Both passes walk the vocabulary in tiles of U tokens, each for all targets: they read a row of the weight once and write its gradient once.
    With z = W h + b and p = softmax(z), the gradient of log p(y) in z is onehot(y) - p: backward recomputes a tile of z and turns it into the
    gradient in place. Products are in the weight's dtype, all else in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_TH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_T: Tensor, logits: int, statistics: bool
    ) -> Three:
        log_prob_T = hidden_TH.new_zeros(len(target_T), dtype=torch.promote_types(hidden_TH.dtype, torch.float32))
        lse_T, entropy_T, correct_T, best_T = (torch.full_like(log_prob_T, value) for value in (-torch.inf, 0, 0, -torch.inf))
        for tile in _tiles(weight_VH, target_T, logits):
            logits_TU = _wide(functional.linear(hidden_TH, weight_VH[tile], None if bias_V is None else bias_V[tile]))
            inside_T, index_T1 = _tile_index(target_T, tile)
            picked_T, tile_lse_T = logits_TU.gather(1, index_T1)[:, 0], logits_TU.logsumexp(1)
            log_prob_T = torch.where(inside_T, picked_T, log_prob_T)
            if statistics:
                tile_best_T, tile_correct_T = logits_TU.amax(1), inside_T & (logits_TU.argmax(1) == index_T1[:, 0])
                correct_T = torch.where(tile_best_T > best_T, tile_correct_T.to(correct_T.dtype), correct_T)
                best_T = best_T.maximum(tile_best_T)
                tile_entropy_T = _entropy(logits_TU, tile_lse_T)
                entropy_T = _entropy_of_both(entropy_T, lse_T, tile_entropy_T, tile_lse_T) if tile.start else tile_entropy_T
            lse_T = lse_T.logaddexp(tile_lse_T) if tile.start else tile_lse_T
        ctx.save_for_backward(hidden_TH, weight_VH, bias_V, target_T, lse_T)
        ctx.logits = logits
        ctx.mark_non_differentiable(entropy_T, correct_T)
        return log_prob_T - lse_T, entropy_T, correct_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_T: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TH, weight_VH, bias_V, target_T, lse_T = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden_TH: Tensor | None = None
        grad_weight_VH = torch.empty_like(weight_VH) if wants_weight else None
        grad_bias_V = torch.empty_like(bias_V) if wants_bias else None
        for tile in _tiles(weight_VH, target_T, ctx.logits):
            slope_TU = _wide(functional.linear(hidden_TH, weight_VH[tile], None if bias_V is None else bias_V[tile]))
            inside_T, index_T1 = _tile_index(target_T, tile)
            slope_TU.sub_(lse_T[:, None]).exp_().mul_(-grad_T[:, None])
            slope_TU.scatter_add_(1, index_T1, (grad_T * inside_T)[:, None])
            slope_TU = slope_TU.to(weight_VH.dtype)
            if wants_hidden:
                part_TH = _wide(slope_TU @ weight_VH[tile])
                grad_hidden_TH = part_TH if grad_hidden_TH is None else grad_hidden_TH.add_(part_TH)
            if grad_weight_VH is not None:
                torch.mm(slope_TU.t(), hidden_TH, out=grad_weight_VH[tile])
            if grad_bias_V is not None:
                grad_bias_V[tile] = slope_TU.sum(0)
        return None if grad_hidden_TH is None else grad_hidden_TH.to(hidden_TH.dtype), grad_weight_VH, grad_bias_V, None, None, None


def _tiles(weight_VH: Tensor, target_T: Tensor, logits: int) -> list[slice]:
    """Parts of the vocabulary with at most `logits` logits each, over all targets."""
    vocabulary = len(weight_VH)
    width = max(1, logits // max(1, len(target_T)))
    return [slice(start, min(start + width, vocabulary)) for start in range(0, vocabulary, width)]


def _tile_index(target_T: Tensor, tile: slice) -> tuple[Tensor, Tensor]:
    """The mask of targets in the tile, and their indices in it [T, 1]; the others are clamped, so that no branch waits for the device."""
    return (target_T >= tile.start) & (target_T < tile.stop), target_T.clamp(tile.start, tile.stop - 1)[:, None] - tile.start


def _entropy_of_both(one_T: Tensor, one_lse_T: Tensor, other_T: Tensor, other_lse_T: Tensor) -> Tensor:
    """Entropy over two disjoint parts of the vocabulary from that over each (chain rule of entropy)."""
    lse_T = one_lse_T.logaddexp(other_lse_T)
    return sum(  # type: ignore[return-value]
        (part_lse_T - lse_T).exp() * (part_T + lse_T - part_lse_T) for part_T, part_lse_T in ((one_T, one_lse_T), (other_T, other_lse_T))
    )


def tree_hidden(model: Any, batch: TreeBatch) -> Tensor:
    """Last hidden states of packed trees, flattened [R * L, H]. Raises the errors of `AttentionPath` (ValueError, UserError)."""
    path = attention_path(model)
    path.check_batch(batch.input_ids_RL, batch.position_ids_RL)
    embeddings_RLH, media_RL, deeper = embed(model, batch.input_ids_RL, batch.roots)
    language = family_of(model.config).language
    if not path.flex:
        mask = batch.mask_R1LL(embeddings_RLH.dtype)
        return language(model, embeddings_RLH, mask, batch.position_ids_RL, deeper, media_RL).flatten(0, 1)
    length = embeddings_RLH.shape[1]
    padded_RLH = to_blocks(embeddings_RLH.mT).mT
    blocks = tree_block_mask(to_blocks(batch.tree_RL, PADDING), to_blocks(batch.branch_RL))
    hidden_RLH = language(model, padded_RLH, blocks, to_blocks(batch.position_ids_RL), deeper, to_blocks(media_RL, False))
    return hidden_RLH[:, :length].flatten(0, 1)


def branch_sums(values_T: Tensor, batch: TreeBatch) -> Tensor:
    """Sums [K] over each branch of values of its target tokens [T], in the values' dtype, which is fp32 for log-probs."""
    return torch.zeros(batch.branches, dtype=values_T.dtype, device=values_T.device).index_add(0, batch.branch_T, values_T)


def branch_tokens(batch: TreeBatch) -> Tensor:
    """Number of target tokens of each branch [K]."""
    # A count by bincount would wait for the device, to learn how many bins there are.
    return torch.zeros(batch.branches, dtype=torch.long, device=batch.branch_T.device).index_add(
        0, batch.branch_T, torch.ones_like(batch.branch_T)
    )


class TreeModel(nn.Module):
    """A vision-language model that reads packed trees and returns each branch's summed log-prob [K] in fp32."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TreeBatch, statistics: bool = False) -> Tensor | BranchScores:
        """Log-prob sums of the branches (paper section 4: log pi(y | x) summed over the response's tokens and its end).

        With `statistics`, also the branches' mean entropy and accuracy: the log-probs are the same, but need more passes over the logits.
        """
        hidden_NH = tree_hidden(self.model, batch)
        head, predictors_TH = self.model.lm_head, hidden_NH[batch.predictor_T]
        if not statistics:
            return branch_sums(token_log_probs(head, predictors_TH, batch.target_T), batch)
        tokens = token_scores(head, predictors_TH, batch.target_T)
        count_K = branch_tokens(batch).clamp(min=1)
        entropy_K, accuracy_K = (branch_sums(values_T, batch) / count_K for values_T in (tokens.entropy_T, tokens.correct_T))
        return BranchScores(branch_sums(tokens.log_prob_T, batch), entropy_K, accuracy_K)
