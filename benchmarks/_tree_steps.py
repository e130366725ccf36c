"""One training step on one query by each side of `benchmarks.trees`: our trees, responses apart, pair by pair, and TRL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._models import TRIAL, Shape, Task, build_model, build_processor, build_task, moved_copy
from components.alignment.losses import LossSettings, PairBatch, branch_metrics, pair_loss
from components.families.adapters import family_of
from components.features.embedding import embed
from components.trees.logprobs import branch_sums, token_log_probs, token_scores, tree_hidden
from components.trees.trees import Tree, TreeBatch, build_batch

BETA = 0.1


@dataclass(frozen=True)
class Case:
    """A query's lengths and its model."""

    responses: int
    root_tokens: int
    response_tokens: int
    shape: Shape


# Half of Qwen2-0.5B's width and a twelfth of its depth, with a vocabulary that keeps the proportion of head to layers. Narrow layers make
# attention, in which trees save least, a larger part of a step than in real models.
WIDTHS: dict[str, Any] = {"hidden": 448, "intermediate": 2432, "layers": 2, "heads": 7, "key_value_heads": 1, "vocabulary": 6144}
VISION: dict[str, Any] = {"vision_hidden": 448, "vision_intermediate": 1792, "vision_layers": 1, "vision_heads": 7}
CASES = {
    "k2": Case(2, 840, 60, Shape(**WIDTHS, **VISION, side=20)),
    "k4": Case(4, 840, 60, Shape(**WIDTHS, **VISION, side=20)),
    "k5": Case(5, 1500, 100, Shape(**WIDTHS, **VISION, side=26)),
}
SMALL_CASES = {
    "k2": Case(2, 30, 6, TRIAL),
    "k4": Case(4, 30, 6, TRIAL),
    "k5": Case(5, 40, 8, TRIAL),
}


class Steps:
    """The sides of one case: each computes a query's loss and leaves its gradients in the policy."""

    def __init__(self, case: Case, folder: Path) -> None:
        from benchmarks._trl import TrlSide

        processor = build_processor(case.shape.side)
        self.reference = build_model(case.shape, processor).eval().requires_grad_(False)
        trained = build_model(case.shape, processor)
        trained.load_state_dict(self.reference.state_dict())
        self.policy = moved_copy(trained)
        self.task: Task = build_task(
            case.shape,
            processor,
            self.policy.config,
            responses=case.responses,
            root_tokens=case.root_tokens,
            response_tokens=case.response_tokens,
        )
        self.tree: Tree = self.task.tree
        self.pad_id: int = processor.tokenizer.pad_token_id
        self.trl = TrlSide(self.policy, self.reference, self.task, BETA, folder)
        self._check_tokens()
        self.optimizer = torch.optim.AdamW([p for p in self.policy.parameters() if p.requires_grad], lr=0.0, weight_decay=0.0, fused=True)
        self.stored_K = self.tree_log_probs(self.reference)
        media = self.tree.root.media
        with torch.no_grad():
            outputs = family_of(self.policy.config).vision_tower(self.policy, media)
        cached = tuple(replace(medium, features=output) for medium, output in zip(media, outputs, strict=True))
        self.cached_tree = replace(self.tree, root=replace(self.tree.root, media=cached))
        self.statistics: dict[str, float] = {}  # of the last step of ours

    def tree_log_probs(self, model: Any) -> Tensor:
        """Log-prob sums of all responses from one pass, without gradients."""
        with torch.no_grad():
            return summed(model, build_batch([self.tree], self.tree.tokens, "cpu", self.pad_id))

    def by_tree(self, reference_K: Tensor | None = None, tree: Tree | None = None) -> float:
        """The loss with the query as one tree. Without `reference_K` the reference model runs too."""
        batch = build_batch([tree or self.tree], self.tree.tokens, "cpu", self.pad_id)
        if reference_K is None:
            with torch.no_grad():
                reference_K = summed(self.reference, batch)
        hidden_TH = tree_hidden(self.policy, batch)[batch.predictor_T]
        return self._backward(hidden_TH, batch.target_T, batch.branch_T, reference_K, _pairs(self.task.pairs))

    def by_stored_tree(self) -> float:
        """The loss with the query as one tree and reference log-probs from a store."""
        return self.by_tree(self.stored_K)

    def by_cached_tree(self) -> float:
        """As `by_stored_tree`, with the vision tower's output from a store."""
        return self.by_tree(self.stored_K, self.cached_tree)

    def by_response(self) -> float:
        """The loss with each response once, in a sequence of its own, under plain causal attention."""
        numbers = range(len(self.tree.branches))
        with torch.no_grad():
            reference_K = self.sequence_log_probs(self.reference, numbers)
        hidden_TH, target_T, branch_T = self._sequences(self.policy, numbers)
        return self._backward(hidden_TH, target_T, branch_T, reference_K, _pairs(self.task.pairs))

    def by_pair(self) -> float:
        """The loss with each pair's two sequences in a separate batch, under plain causal attention."""
        total = 0.0
        share = 1 / len(self.task.pairs)
        for pair in self.task.pairs:
            with torch.no_grad():
                reference_2 = self.sequence_log_probs(self.reference, pair)
            hidden_TH, target_T, branch_T = self._sequences(self.policy, pair)
            total += self._backward(hidden_TH, target_T, branch_T, reference_2, _pairs([(0, 1)], share))
        return total

    def _backward(self, hidden_TH: Tensor, target_T: Tensor, branch_T: Tensor, reference_K: Tensor, pairs: PairBatch) -> float:
        """The pairs' loss and its gradients, with the statistics that TRL computes of every step."""
        head = self.policy.lm_head
        tokens = token_scores(head, hidden_TH, target_T)
        tokens_K = torch.bincount(branch_T, minlength=len(reference_K))

        def sums(value_T: Tensor) -> Tensor:
            return torch.zeros(len(reference_K), dtype=value_T.dtype).index_add(0, branch_T, value_T)

        result = pair_loss(sums(tokens.log_prob_T), reference_K, tokens_K, pairs, LossSettings(sft_weight=0.0))
        with torch.no_grad():
            means = {"entropy": tokens.entropy_T, "token_accuracy": tokens.correct_T, "logits": hidden_TH @ head.weight.mean(0)}
            columns = [branch_metrics(name, sums(value_T) / tokens_K, pairs) for name, value_T in means.items()]
        self.statistics = {name: float(value) for metrics in (result.metrics, *columns) for name, value in metrics.items()}
        result.loss.backward()  # type: ignore[no-untyped-call]
        return float(result.loss.detach())

    def by_trl_together(self) -> float:
        """The loss of DPOTrainer with all pairs in one batch."""
        return self.trl.losses_and_gradients(self.trl.together)

    def by_trl_apart(self) -> float:
        """The loss of DPOTrainer with one pair a batch, accumulated."""
        return self.trl.losses_and_gradients(self.trl.apart)

    def sequence_log_probs(self, model: Any, numbers: Sequence[int]) -> Tensor:
        """Log-prob sums of some responses, each read as a separate sequence after its own copy of root and image."""
        hidden_TH, target_T, _ = self._sequences(model, numbers)
        return token_log_probs(model.lm_head, hidden_TH, target_T).view(len(numbers), -1).sum(1)

    def _sequences(self, model: Any, numbers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The hidden states before the responses' tokens [T, H], these tokens [T], and their responses' positions in `numbers` [T]."""
        root = list(self.tree.root.input_ids)
        ids_RL = torch.tensor([[*root, *self.tree.branches[number].input_ids] for number in numbers])
        embeddings_RLH, _, _ = embed(model, ids_RL, [self.tree.root] * len(numbers))
        hidden_RLH = model.model.language_model(inputs_embeds=embeddings_RLH, use_cache=False).last_hidden_state
        target_RT = ids_RL[:, len(root) :]
        branch_T = torch.arange(len(numbers)).repeat_interleave(target_RT.shape[1])
        return hidden_RLH[:, len(root) - 1 : -1].flatten(0, 1), target_RT.flatten(), branch_T

    def step(self, side: Callable[[], float]) -> Callable[[], None]:
        """`side`, followed by the optimizer's step."""

        def run() -> None:
            side()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

        return run

    def gradients(self, side: Callable[[], float]) -> tuple[float, dict[str, Tensor]]:
        """The loss of `side` and a copy of every trained parameter's gradient; clears the gradients."""
        loss = side()
        copies = {name: p.grad.clone() for name, p in self.policy.named_parameters() if p.grad is not None}
        self.optimizer.zero_grad(set_to_none=True)
        return loss, copies

    def _check_tokens(self) -> None:
        """Assert that both sides have the same expanded root and the same sequences."""
        root = list(self.tree.root.input_ids)
        order = [*(winner for winner, _ in self.task.pairs), *(loser for _, loser in self.task.pairs)]
        expected = [[*root, *self.tree.branches[number].input_ids] for number in order]
        assert self.trl.row_ids == expected, "TRL's collator makes other tokens than the tree"


def summed(model: Any, batch: TreeBatch) -> Tensor:
    """Log-prob sums [K] of a batch's branches."""
    hidden_TH = tree_hidden(model, batch)[batch.predictor_T]
    return branch_sums(token_log_probs(model.lm_head, hidden_TH, batch.target_T), batch)


def _pairs(pairs: Sequence[tuple[int, int]], weight: float | None = None) -> PairBatch:
    """Pairs of equal weight with one beta, since TRL has no beta a pair."""
    winners, losers = (torch.tensor(column) for column in zip(*pairs, strict=True))
    even = torch.full((len(pairs),), 1 / len(pairs) if weight is None else weight)
    return PairBatch(winners, losers, torch.full((len(pairs),), BETA), even)


def relative_error(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference between two entries of the gradients, divided by the largest expected entry."""
    assert actual.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((actual[name] - gradient).abs().max()) for name, gradient in expected.items()) / scale
