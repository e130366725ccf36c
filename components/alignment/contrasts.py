"""The image term's second tree of a query: its best responses under gray media of the same size (conditional term of mDPO, arXiv 2406.11839)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from components.alignment.betas import Array
from components.alignment.losses import ImageBatch
from components.families.processing import Preprocessor
from components.families.token_table import TokenTable
from components.preferences.record import Query
from components.trees.trees import Branch, Tree, tree_tokens


def best_responses(query: Query) -> list[int]:
    """Indices of a query's responses of the best rank."""
    best = min(response.rank for response in query.responses)
    return [number for number, response in enumerate(query.responses) if response.rank == best]


@dataclass
class Added:
    """What the image term adds to a micro-batch.

    `trees` follow those of the queries, and `reference` their log-prob sums. `responses`, `blanks` and `weights` are those of `ImageBatch`.
    """

    trees: list[Tree] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    responses: list[int] = field(default_factory=list)
    blanks: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def batch(self, device: torch.device) -> ImageBatch:
        """As tensors, which may be empty."""
        return ImageBatch(
            torch.tensor(self.responses, dtype=torch.long, device=device),
            torch.tensor(self.blanks, dtype=torch.long, device=device),
            torch.tensor(self.weights, dtype=torch.float32, device=device),
        )


class Contrasts:
    """Makes the second trees. `blank_K` are log-prob sums of the table's K responses under the base model and gray media."""

    def __init__(self, preprocessor: Preprocessor, tokens: TokenTable, blank_K: Array) -> None:
        self._preprocessor = preprocessor
        self._tokens = tokens
        self._blank_K = blank_K

    def length(self, index: int, query: Query) -> int:
        """Tokens of a query's second tree; 0 without media."""
        if not query.media:
            return 0
        return tree_tokens(
            int(self._tokens.policy_Q[index]), [len(self._tokens.responses[number]) for number in self._numbers(index, query)]
        )

    def of(self, queries: Mapping[int, Query], weights: Mapping[int, float]) -> Added:
        """The second trees of those of a micro-batch's queries that have media. `weights` are the queries' shares of the step's mean."""
        added = Added()
        after = sum(len(query.responses) for query in queries.values())
        offset = 0
        for index, query in queries.items():
            if query.media:
                best, numbers = best_responses(query), self._numbers(index, query)
                branches = tuple(Branch(self._tokens.responses[number]) for number in numbers)
                added.trees.append(Tree(self._preprocessor.policy_root(query, blank=True), branches))
                added.reference += self._blank_K[numbers].tolist()
                added.blanks += range(after + len(added.blanks), after + len(added.blanks) + len(best))
                added.responses += [offset + number for number in best]
                added.weights += [weights[index] / len(best)] * len(best)
            offset += len(query.responses)
        return added

    def _numbers(self, index: int, query: Query) -> list[int]:
        """Positions of a query's best responses among the table's."""
        first = int(self._tokens.first[index])
        return [first + number for number in best_responses(query)]
