"""MM-DPO on preference trees, as a task of the engine (paper section 4).

One forward pass a query gives the log-probs of all its responses; the losses of all its pairs follow from them. Reference log-probs come
from the store, so no second model is held. Betas and weights are known before training, but for the schedule `beta_dpo`, whose beta of a step
follows from a pass over that step without gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from components.alignment.betas import beta_dpo_beta, running_margin
from components.alignment.contrasts import Contrasts, best_responses
from components.alignment.diagnosis import CollapseWatch
from components.alignment.losses import LossSettings, PairBatch, SftBatch, branch_metrics, implicit_margin, pair_loss
from components.alignment.pairs import PairTable
from components.alignment.prepared_pairs import check_complete, prepared_pairs
from components.alignment.step_metrics import Metrics, as_metrics, step_metrics
from components.checkout import IN_CHECKOUT, Checkout
from components.config.settings import Settings
from components.engine import partitions
from components.engine.ranks import policy_autocast
from components.engine.task import EpochContext, Step, TrainingTask
from components.errors import UserError
from components.families.loading import load_trainable, save_trained
from components.families.processing import Preprocessor
from components.families.token_table import open_tokens
from components.features.cache import attach_features
from components.preferences.query_table import open_queries
from components.preferences.record import Query
from components.trees.logprobs import BranchScores, TreeModel, branch_tokens
from components.trees.planning import plan_epoch
from components.trees.scoring import score_batches
from components.trees.trees import Branch, Tree, TreeBatch, build_batch

if TYPE_CHECKING:
    from components.config.alignment import AlignmentSettings

PROBE_QUERIES = 4  # whose reference log-probs are computed again before training
# Nats for a response of 50 tokens, in proportion for longer ones. On the bundled base fp32 sums differ by 2e-5 between batch shapes, bf16 ones
# by 0.03. An aligned model's differ from its base's by 15 (median).
PROBE_TOLERANCE = {"fp32": 1e-3, "bf16": 0.5}
RUNNING_MARGIN = "running_margin"  # what every checkpoint carries under beta_dpo


@dataclass(frozen=True)
class Micro:
    """Queries of a micro-batch, the step's global counts of pairs and of queries that have some, and the step's metrics.

    The metrics are reported by the micro-batch that `leads`, one of the step's.
    """

    queries: tuple[int, ...]
    pairs: int
    queries_with_pairs: int
    metrics: Metrics
    leads: bool


@dataclass
class AlignmentBatch(TreeBatch):
    """Trees with their pairs and the reference log-prob sums of their branches [K], fp32."""

    pairs: PairBatch
    reference_K: Tensor
    metrics: Metrics
    leads: bool


class AlignmentTask(TrainingTask):
    """The policy with its pairs, reference log-probs, steps and loss."""

    def __init__(self, settings: Settings, checkout: Checkout) -> None:
        self.settings = settings
        self.base = checkout.root / settings.model.base
        self.preprocessor = Preprocessor(self.base, checkout.preferences, settings.model, settings.features)
        self.queries = open_queries(checkout, "train")
        self.training = prepared_pairs(settings, checkout, self.queries)
        self.pairs: PairTable = self.training.pairs
        self.tokens = open_tokens(checkout, self.preprocessor, self.queries, settings.reward.instruction)
        self.contrasts = Contrasts(self.preprocessor, self.tokens, self.training.blank_K) if settings.alignment.image_weight else None
        check_complete(self.training, self.queries, self.tokens.first, contrasted=self.contrasts is not None)
        # A query whose responses all tie has no pair to learn from.
        self.order = np.unique(self.pairs.query)
        attach_features(self.preprocessor, self.base, self.queries.select(self.order), settings, checkout)
        self.model = TreeModel(load_trainable(self.base, settings.model, settings.training))
        self.epochs = settings.alignment.epochs
        self.collapse = CollapseWatch()
        self.step_beta: Metrics | None = None  # of the present step under beta_dpo
        self._check_reference()

    def epoch_plan(self, epoch: int) -> list[Step]:
        """The epoch's steps, with the global counts that the means divide by."""
        training = self.settings.training
        plan = plan_epoch(
            self._lengths(),
            seed=training.seed,
            epoch=epoch,
            queries_per_step=self.settings.alignment.queries_per_step,
            ranks=training.ranks,
            row_tokens=training.row_tokens,
            batch_rows=training.batch_rows,
        )
        return [self._step([[self.order[micro].tolist() for micro in rank] for rank in step]) for step in plan]

    def begin_epoch(self, epoch: int, context: EpochContext) -> None:
        """Nothing is prepared between epochs."""

    def begin_step(
        self,
        step: int,  # noqa: ARG002
        prepared: Iterator[dict[str, Any]],
        forward: Callable[[dict[str, Any]], Any],
        context: EpochContext,
    ) -> None:
        """Under `beta_dpo`, the step's beta: from the mean implicit margin over all ranks' micro-batches, before any of them is trained on.

        The running margin goes into every checkpoint. Ranks add up the same numbers in the same order, so beta is the same on each.
        """
        alignment = self.settings.alignment
        if alignment.beta_schedule != "beta_dpo":
            return
        mine = sum(self._implicit_margin(forward({**batch, "statistics": False}), batch["batch"]) for batch in prepared)
        margin = float(sum(context.gather(mine)))
        before: float | None = context.extra.get(RUNNING_MARGIN)
        compared = margin if before is None else before
        beta = beta_dpo_beta(margin, compared, alignment.beta, alignment.beta_weight)
        context.extra[RUNNING_MARGIN] = running_margin(before, margin, alignment.beta_momentum)
        names = ("beta/min", "beta/mean", "beta/max")
        self.step_beta = {**dict.fromkeys(names, beta), "beta/implicit_margin": margin, "beta/running_margin": compared}

    def batch(self, micro: Micro) -> dict[str, Any]:
        """Trees, pairs, betas and reference log-probs of a micro-batch on the device; all floats stay fp32."""
        indices = micro.queries or (int(self.order[0]),)
        device = self.model.model.device
        queries = {index: self.queries[index] for index in indices}
        trees = [self._tree(index, query) for index, query in queries.items()]
        reference = [value for index in indices for value in self._reference(index)[0]]
        pairs = self._pairs_of(micro, queries, device)
        if self.contrasts is not None:
            added = self.contrasts.of(queries, {index: self._query_weight(micro, index) for index in queries})
            trees, reference = trees + added.trees, reference + added.reference
            pairs = replace(pairs, image=added.batch(device))
        packed = build_batch(trees, self.settings.training.row_tokens, device, self.preprocessor.end_id)
        return {
            "batch": AlignmentBatch(
                **vars(packed),
                pairs=pairs,
                reference_K=torch.tensor(reference, device=device),
                metrics=micro.metrics,
                leads=micro.leads,
            ),
            "statistics": True,
        }

    def loss(self, outputs: Tensor | BranchScores, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's part of the step's loss; `outputs` are log-prob sums [K], bare or with entropy and accuracy."""
        alignment: AlignmentSettings = self.settings.alignment
        prepared: AlignmentBatch = batch["batch"]
        pairs, step_values = prepared.pairs, prepared.metrics
        if alignment.beta_schedule == "beta_dpo":
            if self.step_beta is None:
                raise ValueError("the schedule beta_dpo needs begin_step ahead of every step: without it beta would stay at beta0")
            pairs = replace(pairs, beta_P=torch.full_like(pairs.beta_P, self.step_beta["beta/mean"]))
            step_values = {**step_values, **self.step_beta}
        result = pair_loss(
            outputs.log_prob_K if isinstance(outputs, BranchScores) else outputs,
            prepared.reference_K,
            branch_tokens(prepared),
            pairs,
            LossSettings(
                alignment.sft_weight,
                alignment.label_smoothing,
                alignment.log_probs == "mean",
                alignment.loss_type,
                alignment.preference_weight,
                alignment.image_weight,
                alignment.beta,
            ),
        )
        metrics = {**result.metrics, **as_metrics(step_values, prepared.leads, result.loss.device)}
        if isinstance(outputs, BranchScores):
            metrics |= branch_metrics("entropy", outputs.entropy_K, pairs) | branch_metrics("token_accuracy", outputs.accuracy_K, pairs)
        return result.loss, metrics

    def check_metrics(self, step: int, sums: dict[str, float]) -> None:
        """Stop a policy that collapses. Raises StageFault."""
        self.collapse.see(step, sums)

    def export(self, folder: Path) -> None:
        """Write the policy."""
        save_trained(self.model.model, folder, self.base)

    def _step(self, plan: list[list[list[int]]]) -> Step:
        indices = [index for rank in plan for micro in rank for index in micro]
        rows = [row for index in indices for row in self.pairs.rows(index)]
        metrics = step_metrics(self.pairs, rows, self.settings.alignment)
        return Step(
            [
                [
                    Micro(tuple(micro), len(rows), len(indices), metrics, leads=rank == position == 0)
                    for position, micro in enumerate(micros)
                ]
                for rank, micros in enumerate(plan)
            ]
        )

    def _tree(self, index: int, query: Query) -> Tree:
        """`policy_tree` of a query, with the tokens of its responses from the table."""
        numbers = range(self.tokens.first[index], self.tokens.first[index + 1])
        return Tree(self.preprocessor.policy_root(query), tuple(Branch(self.tokens.responses[number]) for number in numbers))

    def _lengths(self) -> list[int]:
        """Tokens that each query of `order` adds to a step."""
        lengths: list[int] = self.tokens.policy_tokens()[self.order].tolist()
        if self.contrasts is None:
            return lengths
        return [
            length + self.contrasts.length(index, self.queries[index]) for index, length in zip(self.order.tolist(), lengths, strict=True)
        ]

    def _reference(self, index: int) -> tuple[list[float], list[int]]:
        """Log-prob sums and tokens of a query's responses under the base model."""
        numbers = slice(self.tokens.first[index], self.tokens.first[index + 1])
        return self.training.log_prob_K[numbers].tolist(), self.training.tokens_K[numbers].tolist()

    def _pairs_of(self, micro: Micro, queries: Mapping[int, Query], device: torch.device) -> PairBatch:
        alignment = self.settings.alignment
        winners: list[int] = []
        losers: list[int] = []
        betas: list[float] = []
        weights: list[float] = []
        emphases: list[float] = []
        best: list[int] = []
        best_weights: list[float] = []
        offset = 0
        for index, query in queries.items():
            rows = self.pairs.rows(index)
            share = self._weight(micro, index) if micro.queries else 0.0
            for row in rows:
                winners.append(offset + int(self.pairs.winner[row]))
                losers.append(offset + int(self.pairs.loser[row]))
                betas.append(float(self.pairs.beta[row]))
                weights.append(share)
                emphases.append(float(self.pairs.weight[row]))
            first = best_responses(query)
            best += [offset + number for number in first]
            best_weights += [self._query_weight(micro, index) / len(first)] * len(first)
            offset += len(query.responses)
        return PairBatch(
            torch.tensor(winners, device=device),
            torch.tensor(losers, device=device),
            torch.tensor(betas, device=device),
            torch.tensor(weights, device=device),
            emphasis_P=torch.tensor(emphases, device=device) if alignment.beta_schedule == "madpo" else None,
            sft=SftBatch(torch.tensor(best, device=device), torch.tensor(best_weights, device=device))
            if alignment.sft_per == "query"
            else None,
        )

    def _implicit_margin(self, outputs: Tensor, prepared: AlignmentBatch) -> float:
        mean = self.settings.alignment.log_probs == "mean"
        return implicit_margin(outputs, prepared.reference_K, branch_tokens(prepared), prepared.pairs, mean_log_probs=mean)

    def _query_weight(self, micro: Micro, index: int) -> float:
        """What the pairs of a query count together in the step's mean; its SFT and image terms count as much. 0 where a rank fills a gap."""
        return self._weight(micro, index) * len(self.pairs.rows(index)) if micro.queries else 0.0

    def _weight(self, micro: Micro, index: int) -> float:
        """A pair's share of the step's mean, for the pairs of a query."""
        if self.settings.alignment.normalize == "pair":
            return 1 / micro.pairs
        return 1 / (micro.queries_with_pairs * len(self.pairs.rows(index)))

    def _check_reference(self) -> None:
        """Compute a few reference log-probs again: the store must be of this model. Raises UserError when it is not."""
        probe, tolerance = self.order[:PROBE_QUERIES].tolist(), PROBE_TOLERANCE[self.settings.training.precision]
        trees = [self._tree(index, self.queries[index]) for index in probe]
        batches = [list(range(len(trees)))]
        autocast = policy_autocast(self.settings.training)
        with partitions.whole(self.model.model), torch.autocast(self.model.model.device.type, autocast, enabled=autocast is not None):
            scored = list(score_batches(self.model.model, trees, batches, self.settings.training.row_tokens, self.preprocessor.end_id))
        for _, results in scored:
            for index, computed in zip(probe, results, strict=True):
                for (log_prob, tokens), recorded, recorded_tokens in zip(computed, *self._reference(index), strict=True):
                    if tokens != recorded_tokens or abs(log_prob - recorded) > tolerance * max(1, tokens / 50):
                        raise UserError(
                            f"{IN_CHECKOUT.reference('train')} holds {recorded:.4f} for a response of query '{self.queries[index].id}', "
                            f"but {self.settings.model.base} gives {log_prob:.4f}: run the reference stage again with this model"
                        )
