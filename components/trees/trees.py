"""Preference trees: a prompt and its media once, then its responses as branches that do not see each other.

- A token attends to the root of its own tree and to its own branch, causally. Positions restart at the root's length in every branch.
- Several trees are packed into a row up to a token budget; rows are padded to the longest and run as one batch.
- The token before a target predicts it. The root's last token, which all branches share, predicts a branch's first token.
- `mask_R1LL` builds the additive mask on the device in the model's dtype. `components.trees.attention` describes the block mask.
- A padded position attends to itself and the padding before it: no row of the mask is empty.

Shapes: R rows, L tokens a row, T target tokens, K branches, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.families.adapters import Root

PADDING = -1  # tree number of a padded position
FEW_ITEMS = 64  # up to which packing goes item by item


@dataclass(frozen=True)
class Branch:
    """Tokens that follow a root. Its targets, whose log-probs count, are the tokens from `target_from` on."""

    input_ids: tuple[int, ...]
    target_from: int = 0


@dataclass(frozen=True)
class Tree:
    """A root with its branches."""

    root: Root
    branches: tuple[Branch, ...]

    @property
    def tokens(self) -> int:
        """Length of the tree as one sequence."""
        return tree_tokens(len(self.root.input_ids), [len(branch.input_ids) for branch in self.branches])


@dataclass
class TreeBatch:
    """Packed trees on a device. Branch numbers follow the order of `trees` in `build_batch`, independent of the trees' rows."""

    input_ids_RL: Tensor
    position_ids_RL: Tensor  # [A, R, L] where the family has several position axes
    tree_RL: Tensor
    branch_RL: Tensor
    predictor_T: Tensor  # flat index row * L + position of the token that predicts target t
    target_T: Tensor
    branch_T: Tensor  # branch number of target t
    last_K: Tensor  # flat index of each branch's last token
    branches: int
    attended: int  # pairs of tokens of which the second attends to the first
    roots: list[Root]  # in the order of their placeholders in the flattened rows

    def mask_R1LL(self, dtype: torch.dtype) -> Tensor:
        """Additive attention mask: 0 where a token attends, the dtype's lowest value elsewhere. 4 L^2 bytes a row in fp32."""
        # In place, since each of these takes R L^2 bytes.
        allowed_RLL = self.branch_RL[:, :, None] == self.branch_RL[:, None, :]
        allowed_RLL |= self.branch_RL[:, None, :] == 0
        allowed_RLL &= self.tree_RL[:, :, None] == self.tree_RL[:, None, :]
        allowed_RLL.tril_()
        blocked = torch.finfo(dtype).min
        return torch.where(allowed_RLL, torch.zeros((), dtype=dtype, device=allowed_RLL.device), blocked)[:, None]


def tree_tokens(root: int, branches: Sequence[int]) -> int:
    """Length of a tree with these lengths of root and branches."""
    return root + sum(branches)


def tree_pairs(root: int, branches: Sequence[int]) -> int:
    """Token pairs of a tree with these lengths whose second token attends to the first."""
    return root * (root + 1) // 2 + sum(root * tokens + tokens * (tokens + 1) // 2 for tokens in branches)


def pack_rows(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Put items into rows of at most `budget` tokens (first fit, longest first; a longer item gets its own row).

    Returns rows of item indices, the fullest row first. Deterministic: equal lengths keep their order. Raises ValueError for a length below 1.
    """
    if any(length < 1 for length in lengths):
        raise ValueError("an item of a row has at least one token")
    return (_first_fit if len(lengths) <= FEW_ITEMS else _first_fit_by_length)(lengths, budget)


def _first_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """`pack_rows` item by item: quick for a step's items, quadratic for a data set's."""
    rows: list[list[int]] = []
    free: list[int] = []  # of the rows so far; below 0 in the row of a longer item
    for item in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        row = next((number for number, room in enumerate(free) if room >= lengths[item]), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(budget)
        rows[row].append(item)
        free[row] -= lengths[item]
    return [rows[row] for row in sorted(range(len(rows)), key=lambda index: (free[index], index))]


def _first_fit_by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """`pack_rows` with all items of one length in a go: they fill the rows in order, each with as many as it has room for.

    Its time grows with items, and with rows times different lengths, which are no more than the tokens of the longest item.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(sizes[order])) + 1)
    free = np.empty(len(order), dtype=np.int64)
    opened = 0
    rows = np.empty(len(order), dtype=np.int64)  # of each item
    for items in groups:
        length, count = int(sizes[items[0]]), len(items)
        fitting = np.flatnonzero(free[:opened] >= length)
        new = -(-count // max(1, budget // length))  # enough, if no row so far has room
        free[opened : opened + new] = budget
        fitting = np.append(fitting, np.arange(opened, opened + new))
        room = np.maximum(1, free[fitting] // length)
        filled = np.minimum(np.cumsum(room), count)
        taken = np.diff(filled, prepend=0)
        rows[items] = np.repeat(fitting, taken)
        free[fitting] -= taken * length
        opened = max(opened, int(rows[items[-1]]) + 1)
    by_row = np.split(np.arange(len(order)), np.cumsum(np.bincount(rows[order], minlength=opened))[:-1])
    placed = order[np.argsort(rows[order], kind="stable")]
    return [placed[by_row[row]].tolist() for row in np.lexsort((np.arange(opened), free[:opened])).tolist()]


def build_batch(trees: Sequence[Tree], row_tokens: int, device: torch.device | str, pad_id: int) -> TreeBatch:
    """Pack `trees` into rows of at most `row_tokens` and lay out the tensors of a forward pass.

    Raises ValueError for an unreadable tree: no root, no branch, a branch without tokens, or more or fewer positions than root tokens.
    """
    for tree in trees:
        _check(tree)
    rows = pack_rows([tree.tokens for tree in trees], row_tokens)
    length = max(sum(trees[item].tokens for item in row) for row in rows)
    first_branch = [0]
    for tree in trees:
        first_branch.append(first_branch[-1] + len(tree.branches))

    shape = (len(rows), length)
    input_ids = torch.full(shape, pad_id)
    axes = max(1 if tree.root.positions_AL is None else len(tree.root.positions_AL) for tree in trees)
    position_ids = torch.zeros((axes, *shape), dtype=torch.long)
    tree_ids = torch.full(shape, PADDING)
    branch_ids = torch.zeros(shape, dtype=torch.long)
    last = torch.zeros(first_branch[-1], dtype=torch.long)
    predictors: list[Tensor] = []
    targets: list[Tensor] = []
    owners: list[Tensor] = []
    for row, items in enumerate(rows):
        cursor = 0
        for item in items:
            tree = trees[item]
            root_length = len(tree.root.input_ids)
            span = slice(cursor, cursor + tree.tokens)
            input_ids[row, span] = torch.tensor([*tree.root.input_ids, *(t for branch in tree.branches for t in branch.input_ids)])
            tree_ids[row, span] = item
            positions = tree.root.positions_AL
            position_ids[:, row, cursor : cursor + root_length] = torch.arange(root_length) if positions is None else positions
            root_last = row * length + cursor + root_length - 1
            cursor += root_length
            for number, branch in enumerate(tree.branches):
                size = len(branch.input_ids)
                flat = row * length + cursor
                position_ids[:, row, cursor : cursor + size] = torch.arange(tree.root.next_position, tree.root.next_position + size)
                branch_ids[row, cursor : cursor + size] = number + 1
                before = torch.arange(flat - 1, flat + size - 1)
                before[0] = root_last
                predictors.append(before[branch.target_from :])
                targets.append(torch.tensor(branch.input_ids[branch.target_from :], dtype=torch.long))
                owners.append(torch.full((size - branch.target_from,), first_branch[item] + number))
                last[first_branch[item] + number] = flat + size - 1
                cursor += size
    return TreeBatch(
        input_ids_RL=input_ids.to(device),
        position_ids_RL=(position_ids[0] if axes == 1 else position_ids).to(device),
        tree_RL=tree_ids.to(device),
        branch_RL=branch_ids.to(device),
        predictor_T=torch.cat(predictors).to(device),
        target_T=torch.cat(targets).to(device),
        branch_T=torch.cat(owners).to(device),
        last_K=last.to(device),
        branches=first_branch[-1],
        attended=sum(tree_pairs(len(tree.root.input_ids), [len(branch.input_ids) for branch in tree.branches]) for tree in trees),
        roots=[trees[item].root for row in rows for item in row],
    )


def _check(tree: Tree) -> None:
    root = tree.root
    if not root.input_ids or not tree.branches:
        raise ValueError("a tree needs a branch, and a root with tokens, whose last one predicts each branch's first token")
    if root.positions_AL is not None and root.positions_AL.shape[-1] != len(root.input_ids):
        raise ValueError(f"a root of {len(root.input_ids)} tokens has positions for {root.positions_AL.shape[-1]}")
    for branch in tree.branches:
        if not 0 <= branch.target_from <= len(branch.input_ids) or not branch.input_ids:
            raise ValueError(f"a branch of {len(branch.input_ids)} tokens can't have its targets from token {branch.target_from} on")
