"""Plans before training which queries a rank reads in which micro-batch; all ranks compute the same plan.

- The plan balances a step's tokens over ranks. Every rank gets the same number of micro-batches. A rank without more queries gets an empty
  one, which runs with weight 0, so that no rank waits for another for ever.
- The plan repeats and drops no query: a last step with fewer queries than ranks joins the step before.
- The step with the longest row comes first, and of those within the budget the one with most tokens, so that training runs out of memory at
  once or never.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.errors import UserError
from components.trees.trees import pack_rows

Micros = list[list[list[int]]]  # [rank][micro-batch][query index]


def plan_epoch(
    tokens: Sequence[int], *, seed: int, epoch: int, queries_per_step: int, ranks: int, row_tokens: int, batch_rows: int
) -> list[Micros]:
    """Steps of one epoch over all queries, in an order drawn from (seed, epoch). `tokens` holds each query's length as a tree."""
    if len(tokens) < ranks:
        raise UserError(f"{len(tokens)} training queries can't be shared by training.ranks={ranks}: lower training.ranks")
    order = np.random.default_rng((seed, epoch)).permutation(len(tokens)).tolist()
    steps = [order[start : start + queries_per_step] for start in range(0, len(order), queries_per_step)]
    if len(steps) > 1 and len(steps[-1]) < ranks:
        steps[-2].extend(steps.pop())
    heaviest = max(
        range(len(steps)),
        key=lambda step: (max(row_tokens, *(tokens[query] for query in steps[step])), sum(tokens[query] for query in steps[step]), -step),
    )
    steps.insert(0, steps.pop(heaviest))
    return [plan_step(step, tokens, ranks=ranks, row_tokens=row_tokens, batch_rows=batch_rows) for step in steps]


def plan_step(queries: Sequence[int], tokens: Sequence[int], *, ranks: int, row_tokens: int, batch_rows: int) -> Micros:
    """Distribute one step's queries over ranks, and cut each rank's share into micro-batches of at most `batch_rows` rows."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for position, query in enumerate(sorted(queries, key=lambda item: (-tokens[item], item))):
        # The first `ranks` queries go to one rank each, so that every rank has work.
        rank = position if position < ranks else loads.index(min(loads))
        shares[rank].append(query)
        loads[rank] += tokens[query]
    micros = [plan_batches(share, tokens, row_tokens=row_tokens, batch_rows=batch_rows) for share in shares]
    most = max(len(rank) for rank in micros)
    return [[*rank, *([[]] * (most - len(rank)))] for rank in micros]


def plan_batches(queries: Sequence[int], tokens: Sequence[int], *, row_tokens: int, batch_rows: int) -> list[list[int]]:
    """Pack queries into rows and rows into batches; return the query indices of each batch, the longest rows first.

    A query longer than `row_tokens` has its own row. Its batch, padded to that row, has at most the slots of `batch_rows` rows of
    `row_tokens`.
    """
    rows = pack_rows([tokens[query] for query in queries], row_tokens)
    batches: list[list[int]] = []
    start = 0
    while start < len(rows):
        longest = sum(tokens[queries[item]] for item in rows[start])
        end = start + (batch_rows if longest <= row_tokens else max(1, batch_rows * row_tokens // longest))
        batches.append([queries[item] for row in rows[start:end] for item in row])
        start = end
    return batches
