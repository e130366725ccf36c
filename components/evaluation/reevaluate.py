"""Evaluates one model on today's held-out queries: what a champion needs when the queries, facts or code have changed since its turn.

`python -m components.evaluation.reevaluate policy FOLDER OUT` writes the model's results (components/evaluation/results.py) to OUT, those of
the fresh part beside it (components/evaluation/fresh.py).
Needs the outputs of `validate` and, for a policy, those of `reference` and the base's answers of `evaluate`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from components.checkout import IN_CHECKOUT, Checkout
from components.config.settings import Settings
from components.engine.inference import Launch, run_tasks
from components.evaluation.answers import read_answers
from components.evaluation.chain import load_chain
from components.evaluation.fresh import tables_of
from components.evaluation.results import write_policy_results, write_reward_results
from components.evaluation.stage import ask_policies, ask_reward_model, implicit_rewards
from components.evaluation.tasks import JudgementTask, reward_tasks
from components.evaluation.text_baseline import text_scores
from components.evaluation.wins import asks_reward_model, model_preferences
from components.preferences.record import read_queries
from components.processes.guard import watch_from_environment
from components.processes.slots.taking import slots_taken
from components.stages import INFERENCE_TASKS


def evaluate_policy(settings: Settings, checkout: Checkout, folder: Path, out: Path) -> None:
    """Answers, verdicts and implicit rewards of the policy in `folder`."""
    queries = read_queries(checkout.queries("heldout"))
    policies = {"champion": str(folder.resolve())}
    chain = load_chain(settings, checkout)
    (answered,), log_probs = ask_policies(settings, checkout, policies, chain, {})
    implicit = implicit_rewards(checkout.reference("heldout"), log_probs, mean=settings.alignment.log_probs == "mean")
    rewards = None
    if asks_reward_model(settings, checkout):
        arguments = {"folder": IN_CHECKOUT.reward_model.as_posix(), "answers": list(enumerate(answered.answers))}
        rewards = [score for _, score in ask_reward_model(settings, checkout, arguments, {})[3]]
    text = text_scores(read_queries(checkout.queries("train")), queries)
    answered = replace(answered, rewards=rewards)
    of_base = (checkout.artifacts / "evaluate/answers.parquet", checkout.fresh / "answers.parquet")
    for (table, positions), answers in zip(tables_of(out, queries, settings.evaluate.fresh_share), of_base, strict=False):
        part, one = [queries[i] for i in positions], answered.at(positions)
        preferred = model_preferences(chain, part, read_answers(answers, "base"), one)
        write_policy_results(table, part, one.verdicts, implicit, text, one.rewards, preferred)


def evaluate_reward(settings: Settings, checkout: Checkout, folder: Path, out: Path) -> None:
    """Scores by the reward model in `folder` on its own critiques."""
    queries = read_queries(checkout.queries("heldout"))
    arguments = {"folder": str(folder.resolve()), "own": True}
    (task,) = reward_tasks(settings, checkout, arguments)
    assert isinstance(task, JudgementTask)
    run_tasks([task], Launch(INFERENCE_TASKS["reward_scores"], "evaluate", arguments, "own"), settings, checkout)
    keys = [(query.id, index) for query in queries for index in range(len(query.responses))]
    scores = {key: score for key, (_, score) in zip(keys, task.judgements(), strict=True)}
    for table, positions in tables_of(out, queries, settings.evaluate.fresh_share):
        write_reward_results(table, [queries[i] for i in positions], scores)


def main(kind: str, folder: Path, out: Path) -> None:
    """Evaluate in the current checkout."""
    watch_from_environment()
    checkout = Checkout(Path.cwd())
    settings = checkout.settings()
    torch.set_num_threads(settings.evaluate.threads)
    with slots_taken("evaluate", settings, checkout, partial(print, flush=True)):
        {"policy": evaluate_policy, "reward": evaluate_reward}[kind](settings, checkout, folder, out)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
