"""Evaluates one model on today's held-out queries: what a champion needs when the queries, facts or code have changed since its turn.

`python -m components.evaluation.again policy FOLDER OUT` writes the model's results (components/evaluation/results.py) to OUT.
Needs the outputs of `validate` and, for a policy, of `reference`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from components.config import Settings, load_settings
from components.critique.stage import judge_together
from components.evaluation.answers import answer_queries
from components.evaluation.judge import load_judge
from components.evaluation.results import write_policy_results, write_reward_results
from components.evaluation.stage import MEDIA, implicit_rewards, progress_bar
from components.guard import watch_from_environment
from components.preferences.record import read_queries
from components.reward.model import load_reward_model
from components.vlm.loading import load_model
from components.vlm.processing import Preprocessor
from components.vlm.scoring import response_log_probs


def evaluate_policy(settings: Settings, root: Path, folder: Path, out: Path) -> None:
    """Answers, verdicts and implicit rewards of the policy in `folder`."""
    queries = read_queries(root / "artifacts/validate/heldout/queries.parquet")
    preprocessor = Preprocessor(root / settings.model.base, root / MEDIA, settings.model, settings.features)
    model = load_model(folder, attention=settings.model.attention)
    with progress_bar("answers of an earlier policy") as progress:
        answered = answer_queries(
            "champion", model, preprocessor, queries, load_judge(settings.evaluate, root), settings.evaluate, progress
        )
    found = response_log_probs(model, preprocessor, queries, settings.training.row_tokens)
    implicit = implicit_rewards(root / "artifacts/reference/heldout.parquet", found, mean=settings.alignment.log_probs == "mean")
    write_policy_results(out, queries, answered.verdicts, implicit)


def evaluate_reward(settings: Settings, root: Path, folder: Path, out: Path) -> None:
    """Scores by the reward model in `folder` on its own critiques."""
    queries = read_queries(root / "artifacts/validate/heldout/queries.parquet")
    preprocessor = Preprocessor(folder, root / MEDIA, settings.model, settings.features)
    reward = load_reward_model(folder, settings.model.attention)
    with progress_bar("critiques of an earlier reward model") as progress:
        opinions = judge_together(reward, preprocessor, queries, settings, progress)
    scores = {(query.id, index): score for query, found in zip(queries, opinions, strict=True) for index, (_, score) in enumerate(found)}
    write_reward_results(out, queries, scores)


def main(kind: str, folder: Path, out: Path) -> None:
    """Evaluate in the current checkout."""
    watch_from_environment()
    root = Path.cwd()
    settings = load_settings(root / "params.yaml")
    torch.set_num_threads(settings.evaluate.threads)
    {"policy": evaluate_policy, "reward": evaluate_reward}[kind](settings, root, folder, out)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
