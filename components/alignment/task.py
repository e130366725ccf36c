"""MM-DPO on preference trees, as a task of the engine (paper section 4).

One forward pass a query gives the log-probs of all its responses; the losses of all its pairs follow from them. Reference log-probs come
from the store, so no second model is held.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.alignment.losses import PairBatch, pair_loss
from components.alignment.pairs import PairTable, build_pairs, read_scores
from components.alignment.reference_table import LogProb, read_log_probs
from components.config import AlignmentSettings, Settings
from components.errors import UserError
from components.preferences.record import Query, read_queries
from components.training.task import EpochContext, Step
from components.vlm.feature_cache import attach_features
from components.vlm.loading import load_trainable, save_trained
from components.vlm.logprobs import TreeModel, branch_tokens
from components.vlm.planning import plan_epoch
from components.vlm.processing import Preprocessor
from components.vlm.scoring import policy_tree, score_batches
from components.vlm.trees import Tree, TreeBatch, build_batch

PROBE_QUERIES = 4  # whose reference log-probs are computed again before training
PROBE_TOLERANCE = 1e-3  # nats; sums of some 50 tokens in fp32 differ by less between batch shapes


@dataclass(frozen=True)
class Micro:
    """Queries of a micro-batch, and the step's global counts of pairs and of queries that have some."""

    queries: tuple[int, ...]
    pairs: int
    queries_with_pairs: int


@dataclass
class AlignmentBatch(TreeBatch):
    """Trees with their pairs and the reference log-prob sums of their branches [K], fp32."""

    pairs: PairBatch
    reference_K: Tensor


class AlignmentTask:
    """The policy with its pairs, reference log-probs, steps and loss."""

    def __init__(self, settings: Settings, root: Path) -> None:
        self.settings = settings
        self.base = root / settings.model.base
        self.preprocessor = Preprocessor(self.base, root / "data/preferences", settings.model, settings.features)
        every = read_queries(root / "artifacts/validate/train/queries.parquet")
        scores = read_scores(root / "artifacts/critique/train.parquet")
        self.reference = read_log_probs(root / "artifacts/reference/train.parquet")
        self.pairs: PairTable = build_pairs(every, scores, settings.alignment, settings.reward.calibration_share)
        self.rows = self.pairs.of_query()
        # A query whose responses all tie has no pair to learn from.
        self.order = sorted(self.rows)
        self.queries: list[Query] = every
        attach_features(self.preprocessor, self.base, [every[index] for index in self.order], settings, root)
        self.model = TreeModel(load_trainable(self.base, settings.model, settings.training))
        self.epochs = settings.alignment.epochs
        self.trees: dict[int, Tree] = {index: policy_tree(self.preprocessor, every[index]) for index in self.order}
        self._check_reference()

    def epoch_plan(self, epoch: int) -> list[Step]:
        """The epoch's steps, with the global counts that the means divide by."""
        training = self.settings.training
        plan = plan_epoch(
            [self.trees[index].tokens for index in self.order],
            seed=training.seed,
            epoch=epoch,
            queries_per_step=self.settings.alignment.queries_per_step,
            ranks=training.ranks,
            row_tokens=training.row_tokens,
            batch_rows=training.batch_rows,
        )
        steps = []
        for step in plan:
            indices = [self.order[position] for rank in step for micro in rank for position in micro]
            pairs = sum(len(self.rows[index]) for index in indices)
            steps.append(Step([[Micro(tuple(self.order[p] for p in micro), pairs, len(indices)) for micro in rank] for rank in step]))
        return steps

    def begin_epoch(self, epoch: int, context: EpochContext) -> None:
        """Nothing is prepared between epochs."""

    def batch(self, micro: Micro) -> dict[str, Any]:
        """Trees, pairs, betas and reference log-probs of a micro-batch on the device; all floats stay fp32."""
        indices = micro.queries or (self.order[0],)
        device = self.model.model.device
        trees = build_batch([self.trees[index] for index in indices], self.settings.training.row_tokens, device, self.preprocessor.end_id)
        winners: list[int] = []
        losers: list[int] = []
        betas: list[float] = []
        weights: list[float] = []
        reference: list[float] = []
        for index in indices:
            offset = len(reference)
            for row in self.rows[index]:
                winners.append(offset + int(self.pairs.winner[row]))
                losers.append(offset + int(self.pairs.loser[row]))
                betas.append(float(self.pairs.beta[row]))
                weights.append(self._weight(micro, index) if micro.queries else 0.0)
            query = self.queries[index]
            reference += [self.reference[query.id, number][0] for number in range(len(query.responses))]
        pairs = PairBatch(*(torch.tensor(column, device=device) for column in (winners, losers, betas, weights)))
        return {"batch": AlignmentBatch(**vars(trees), pairs=pairs, reference_K=torch.tensor(reference, device=device))}

    def loss(self, outputs: Tensor, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's part of the step's loss; `outputs` are log-prob sums [K]."""
        alignment: AlignmentSettings = self.settings.alignment
        prepared: AlignmentBatch = batch["batch"]
        result = pair_loss(
            outputs,
            prepared.reference_K,
            branch_tokens(prepared),
            prepared.pairs,
            sft_weight=alignment.sft_weight,
            label_smoothing=alignment.label_smoothing,
            mean_log_probs=alignment.log_probs == "mean",
        )
        return result.loss, result.metrics

    def export(self, folder: Path) -> None:
        """Write the policy."""
        save_trained(self.model.model, folder, self.base)

    def _weight(self, micro: Micro, index: int) -> float:
        if self.settings.alignment.normalise == "pair":
            return 1 / micro.pairs
        return 1 / (micro.queries_with_pairs * len(self.rows[index]))

    def _check_reference(self) -> None:
        """Compute a few reference log-probs again: the store must be of this model. Raises UserError when it is not."""
        probe = self.order[:PROBE_QUERIES]
        trees = [self.trees[index] for index in probe]
        batches = [list(range(len(trees)))]
        for _, results in score_batches(self.model.model, trees, batches, self.settings.training.row_tokens, self.preprocessor.end_id):
            for index, found in zip(probe, results, strict=True):
                stored: list[LogProb] = [self.reference[self.queries[index].id, number] for number in range(len(found))]
                for (log_prob, tokens), (kept, kept_tokens) in zip(found, stored, strict=True):
                    if tokens != kept_tokens or abs(log_prob - kept) > PROBE_TOLERANCE * max(1, tokens / 50):
                        raise UserError(
                            f"artifacts/reference/train.parquet holds {kept:.4f} for a response of query '{self.queries[index].id}', "
                            f"but {self.settings.model.base} gives {log_prob:.4f}: run the reference stage again with this model"
                        )


def build(settings: Settings, root: Path) -> AlignmentTask:
    """The engine's factory."""
    return AlignmentTask(settings, root)
