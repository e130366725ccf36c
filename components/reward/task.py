"""Training of the reward model, as a task of the engine (paper section 3; mixed mode as `reward.critique_source` says).

- annotated: every response is scored on its annotated critique, which is also learned; the paper's recipe.
- mixed: from the second epoch on, a drawn share of the queries is scored on critiques that the model itself has just written (nothing is
  learned of those). Otherwise a small model's score learns to trust perfect critiques and is lost on its own.
- none: the score head reads the end of the response itself, and no critique is learned or written.
- Else a response without an annotated critique is scored on an empty one, which is not learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.checkout import IN_CHECKOUT, Checkout
from components.config.settings import Settings
from components.engine.task import EpochContext, Step, TrainingTask
from components.errors import StageFault, UserError
from components.families.loading import load_trainable
from components.families.processing import Preprocessor
from components.families.token_table import open_tokens, recorded
from components.features.cache import attach_features
from components.files import digest_file, read_json
from components.generation.critiques import write_critiques
from components.preferences.expansions import read_expanded_table
from components.preferences.query_table import open_queries
from components.preferences.record import Query
from components.reward.calibration import is_calibration
from components.reward.critique_source import with_source
from components.reward.losses import Comparisons, StepCounts, reward_loss
from components.reward.model import Judgement, new_reward_model
from components.reward.own_critiques import critiques_file, merge_part_files, own_queries, write_part_files
from components.reward.scoring import judge_branch
from components.trees.planning import plan_epoch
from components.trees.trees import Branch, Tree, TreeBatch, build_batch


@dataclass
class RewardBatch(TreeBatch):
    """Trees with the comparisons among their branches and the step's global counts."""

    comparisons: Comparisons
    counts: StepCounts


def _expanded(settings: Settings, checkout: Checkout) -> Path | None:
    """The table of expanded critiques, where those are what the model learns. Raises UserError where there is none."""
    if settings.reward.critique_source != "expanded":
        return None
    table = checkout.expanded
    if not table.is_file() or not read_expanded_table(table):
        raise UserError(
            f"reward.critique_source is expanded, but {IN_CHECKOUT.expanded} holds no expansion of a training query: run "
            "`mmalign data expand`, then validate"
        )
    return table


class RewardTask(TrainingTask):
    """The reward model with its queries, steps and loss."""

    def __init__(self, settings: Settings, checkout: Checkout) -> None:
        self.settings = settings = with_source(settings, checkout)
        self.base = checkout.root / settings.model.base
        self.preprocessor = Preprocessor(self.base, checkout.preferences, settings.model, settings.features)
        every = open_queries(checkout, "train", _expanded(settings, checkout))
        share = settings.reward.calibration_share
        self.rows = np.array([row for row, query in enumerate(every) if not is_calibration(query.id, share)], dtype=np.int64)
        self.queries = every.select(self.rows)
        source = settings.reward.critique_source
        assert source != "auto", "with_source chooses"
        self._uncritiqued = source == "none"
        counts = [(len(q.pairs()), len(q.ties()), 0 if self._uncritiqued else sum(map(bool, recorded(q)))) for q in self.queries]
        self._counts_Q3 = np.array(counts, dtype=np.int32).reshape(-1, 3)  # of pairs, ties and critiques
        if not self._counts_Q3[:, 0].any():
            raise UserError(
                "no training query has two responses of different rank, so the reward model has nothing to learn from: check final_ranking"
            )
        if not self._uncritiqued and not self._counts_Q3[:, 2].any():
            raise UserError(
                "all critiques belong to queries that are left out for calibration, so the reward model has none to learn: lower "
                "reward.calibration_share, or set reward.critique_source to none"
            )
        attach_features(self.preprocessor, self.base, self.queries, settings, checkout)
        self.model = new_reward_model(load_trainable(self.base, settings.model, settings.training), settings.training.seed, source)
        self.epochs = settings.reward.epochs
        self._own: dict[str, list[str]] = {}
        self.tokens = open_tokens(checkout, self.preprocessor, every, settings.reward.instruction)
        between = len(self.preprocessor.judge_ids(""))
        self._lengths = (self.tokens.response_tokens() if self._uncritiqued else self.tokens.judge_tokens(between))[self.rows]

    def epoch_plan(self, epoch: int) -> list[Step]:
        """The epoch's steps. Lengths are those with annotated critiques: they only balance the ranks."""
        training = self.settings.training
        plan = plan_epoch(
            self._lengths.tolist(),
            seed=training.seed,
            epoch=epoch,
            queries_per_step=self.settings.reward.queries_per_step,
            ranks=training.ranks,
            row_tokens=training.row_tokens,
            batch_rows=training.batch_rows,
        )
        own = set(self._chosen(epoch))
        counted = [(step, self._counts(step, own)) for step in plan]
        return [Step([[(micro, counts) for micro in rank] for rank in step]) for step, counts in counted]

    def begin_epoch(self, epoch: int, context: EpochContext) -> None:
        """Write this epoch's own critiques, or find them again; the checkpoints of the epoch name their file and digest.

        Raises StageFault when a checkpoint names critiques that are no longer there: the weights that wrote them are gone.
        """
        chosen = self._chosen(epoch)
        self._own = {}
        if not chosen:
            return
        path = critiques_file(context.scratch, epoch)
        named = context.extra.get("critiques", {})
        if named.get("epoch") == epoch:
            if not path.is_file() or digest_file(path) != named["sha256"]:
                raise StageFault(f"{path} is not what the checkpoint was trained on: remove {context.scratch} and run the stage again")
        else:
            self._write_own(epoch, chosen, context)
        self._own = read_json(path)
        context.extra["critiques"] = {"epoch": epoch, "file": path.relative_to(context.scratch).as_posix(), "sha256": digest_file(path)}

    def _write_critiques(self, items: Sequence[tuple[Query, str]]) -> list[str]:
        instruction, critique = self.settings.reward.instruction, self.settings.critique
        return write_critiques(
            self.model.model,
            self.preprocessor,
            items,
            instruction=instruction,
            max_new_tokens=critique.max_new_tokens,
            batch_size=critique.batch_size,
        )

    def _write_own(self, epoch: int, chosen: list[int], context: EpochContext) -> None:
        with context.whole_weights():  # ranks write unequal shares
            write_part_files(self._write_critiques, self.queries, chosen, epoch, context)
        context.barrier()
        if context.rank == 0:
            merge_part_files(context.scratch, epoch, len(chosen))
        context.barrier()

    def batch(self, micro: tuple[list[int], StepCounts]) -> dict[str, Any]:
        """Trees of a micro-batch's queries on the device. An empty micro-batch runs the first query with nothing to learn."""
        indices, counts = micro
        trees = []
        pairs: list[tuple[int, int]] = []
        ties: list[tuple[int, int]] = []
        learned: list[int] = []
        offset = 0
        for index in indices or [0]:
            query = self.queries[index]
            trees.append(self._tree(index, query, self._own.get(query.id), learn=bool(indices)))
            if indices:
                pairs += [(offset + winner, offset + loser) for winner, loser in query.pairs()]
                ties += [(offset + a, offset + b) for a, b in query.ties()]
            learned += [offset + number for number, branch in enumerate(trees[-1].branches) if branch.target_from < len(branch.input_ids)]
            offset += len(query.responses)
        device = self.model.model.device
        pair_P2, tie_S2 = (torch.tensor(rows, dtype=torch.long, device=device).reshape(-1, 2) for rows in (pairs, ties))
        comparisons = Comparisons(pair_P2, tie_S2, torch.tensor(learned, dtype=torch.long, device=device))
        trees_batch = build_batch(trees, self.settings.training.row_tokens, device, self.preprocessor.end_id)
        return {"batch": RewardBatch(**vars(trees_batch), comparisons=comparisons, counts=counts)}

    def loss(self, outputs: Judgement, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's part of the step's loss. Without critiques there is no metric of theirs."""
        reward = self.settings.reward
        prepared: RewardBatch = batch["batch"]
        total, metrics = reward_loss(
            outputs, prepared.comparisons, prepared.counts, tie_weight=reward.tie_weight, critique_weight=reward.critique_weight
        )
        if self._uncritiqued:
            del metrics["loss/critique"]
        return total, metrics

    def export(self, folder: Path) -> None:
        """Write the reward model."""
        self.model.save(folder, self.base)

    def _chosen(self, epoch: int) -> list[int]:
        if self.settings.reward.critique_source != "mixed":
            return []
        return own_queries(len(self.queries), self.settings.reward.own_share, self.settings.training.seed, epoch)

    def _counts(self, step: list[list[list[int]]], own: set[int]) -> StepCounts:
        """`own` are the queries of which no critique is learned."""
        indices = [query for rank in step for micro in rank for query in micro]
        pairs, ties, _ = self._counts_Q3[indices].sum(axis=0).tolist()
        _, _, learned = self._counts_Q3[[index for index in indices if index not in own]].sum(axis=0).tolist()
        return StepCounts(pairs, ties, learned)

    def _tree(self, index: int, query: Query, own: list[str] | None, *, learn: bool) -> Tree:
        """A query's tree without critiques, on the model's `own` ones, of which nothing is learned, or on the annotated ones."""
        first = int(self.tokens.first[self.rows[index]])
        if self._uncritiqued:
            responses = [self.tokens.responses[first + number] for number in range(len(query.responses))]
            branches = [Branch(ids, len(ids)) for ids in responses]
        elif own is not None:
            texts = zip(query.responses, own, strict=True)
            branches = [judge_branch(self.preprocessor, response.text, critique, learn=False) for response, critique in texts]
        else:
            between = self.preprocessor.judge_ids("")
            branches = []
            for number, critique in enumerate(recorded(query), start=first):
                before = (*self.tokens.responses[number][:-1], *between)  # without the end of a response that no critique follows
                ids = before + self.tokens.critiques[number]
                branches.append(Branch(ids, len(before) if learn and critique else len(ids)))
        return Tree(self.preprocessor.judge_root(query, self.settings.reward.instruction), tuple(branches))
