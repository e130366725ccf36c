"""Log-probs of recorded responses under a frozen model, for the reference store, the pair table and the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from components.families.processing import Preprocessor
from components.preferences.record import Query
from components.trees.logprobs import TreeModel, branch_tokens
from components.trees.planning import plan_batches
from components.trees.trees import Branch, Tree, build_batch, tree_tokens

Count = Callable[..., None]  # gets the tokens of every pass and the slots of its batch, and where they are counted its targets and pairs
SCORING_ROWS = 16  # packed rows in one forward pass without gradients, at most
PASS_SLOTS = (
    1 << 15
)  # slots of such a pass, at most, beyond one row: more make no device faster, and their activations would take its memory


def policy_tree(preprocessor: Preprocessor, query: Query, *, blank: bool = False) -> Tree:
    """A query with all its responses as branches; `blank` has gray media of the same size in place of its own."""
    return Tree(
        preprocessor.policy_root(query, blank=blank), tuple(Branch(tuple(preprocessor.response_ids(r.text))) for r in query.responses)
    )


def policy_tokens(preprocessor: Preprocessor, query: Query) -> int:
    """The length of `policy_tree`, without its pixels."""
    return tree_tokens(preprocessor.policy_length(query), [len(preprocessor.response_ids(r.text)) for r in query.responses])


def plan_scoring(tokens: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Batches of tree indices. They depend only on the lengths: the same trees run together, even if some of them are stored."""
    rows = max(1, min(SCORING_ROWS, PASS_SLOTS // row_tokens))
    return plan_batches(range(len(tokens)), tokens, row_tokens=row_tokens, batch_rows=rows)


@torch.no_grad()
def score_batches(
    model: Any,
    trees: Sequence[Tree],
    batches: Sequence[Sequence[int]],
    row_tokens: int,
    pad_id: int,
    count: Count = lambda *_: None,
) -> Iterator[tuple[Sequence[int], list[list[tuple[float, int]]]]]:
    """For each batch, its tree indices and each tree's (log-prob sum, tokens) a branch."""
    reader = TreeModel(model).eval()
    for batch_indices in batches:
        chosen = [trees[index] for index in batch_indices]
        batch = build_batch(chosen, row_tokens, model.device, pad_id)
        sums, tokens = reader(batch).tolist(), branch_tokens(batch).tolist()
        count(sum(tree.tokens for tree in chosen), batch.input_ids_RL.numel(), len(batch.target_T), batch.attended)
        flat = iter(zip(sums, tokens, strict=True))
        yield batch_indices, [[next(flat) for _ in tree.branches] for tree in chosen]
