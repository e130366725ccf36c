"""Log-probs of recorded responses under a frozen model, as a task of inference: one pass over a query's tree gives those of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from components.config.settings import Settings
from components.engine.inference_task import InferenceTask
from components.engine.models import OneModel, open_in_fp32, open_policy
from components.engine.ranks import Ranks, inference_dtype, policy_autocast
from components.families.processing import Preprocessor
from components.preferences.record import Query
from components.trees.scoring import plan_scoring, policy_tokens, policy_tree, score_batches

LogProb = tuple[float, int]  # sum over the response's tokens and its end, number of tokens


@dataclass
class LogProbTask(InferenceTask):
    """(log-prob sum, tokens) of every response of every query under the model in `folder`; `blank` shows it gray media of the same size."""

    queries: Sequence[Query]
    preprocessor: Preprocessor
    models: OneModel
    folder: Path
    settings: Settings
    blank: bool = False

    def plan(self) -> list[list[int]]:
        """Batches of packed rows, the fullest first."""
        return plan_scoring([policy_tokens(self.preprocessor, query) for query in self.queries], self.settings.training.row_tokens)

    def compute(self, items: Sequence[int], ranks: Ranks) -> list[list[LogProb]]:
        """One forward pass, as training makes it."""
        autocast = policy_autocast(self.settings.training)
        model = self.models.open(self.folder, ranks, open_policy if autocast is None else open_in_fp32)
        trees = [policy_tree(self.preprocessor, self.queries[item], blank=self.blank) for item in items]
        row_tokens, pad_id = self.settings.training.row_tokens, self.preprocessor.end_id
        with torch.autocast(model.device.type, autocast, enabled=autocast is not None):
            ((_, values),) = score_batches(model, trees, [range(len(trees))], row_tokens, pad_id, self.work.add)
        return values

    def operations(self) -> float:
        """Of the model's passes."""
        return self.models.operations(self.work)

    def log_probs(self) -> list[list[LogProb]]:
        """What was computed, query by query."""
        return [[(float(p), int(tokens)) for p, tokens in values] for values in self.results()]


def computed_in(settings: Settings) -> str:
    """The dtype of the weights, and of autocast where training has it, as keys of log-probs name them."""
    autocast = policy_autocast(settings.training)
    dtypes = [inference_dtype(settings)] if autocast is None else [torch.float32, autocast]
    return " under ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
