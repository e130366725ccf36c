"""Stage `evaluate`: the aligned policy against the base, and the reward model against the ranks, on held-out queries.

Reads  artifacts/validate/heldout/queries.parquet, artifacts/critique/heldout.parquet, artifacts/reference/heldout.parquet,
       artifacts/validate/train/queries.parquet (for the text-only baseline), artifacts/reward/model, artifacts/align/model, the base model,
       data/truth, judges/sheets.
Writes artifacts/evaluate/answers.parquet (every answer with its verdict), scores.parquet (every response's scores), results/ (per-query
       outcomes of base, policy and reward model, by which models are compared), samples/ (a page and JSONL of answers side by side) and the
       metrics that reports/summary.json is made of. fresh/ alone has answers and outcomes of the part that `evaluate.fresh_share` reserves.

Without facts (data/truth) or reference answers, what needs them is null, is named in one sentence, and the rest goes on. A reward model
that was trained without critiques is scored without any: what needs them is null.
Alone: `mmalign stage evaluate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from components.alignment.log_probs import LogProb, LogProbTask
from components.checkout import IN_CHECKOUT, Checkout
from components.config.settings import Settings
from components.engine.inference import Launch, run_tasks
from components.engine.inference_task import InferenceTask
from components.engine.recorder import NullRecorder, Recorder
from components.engine.result import StageResult
from components.evaluation import judge_prompts as prompts
from components.evaluation.answers import Answered, judge_answers, write_answers
from components.evaluation.chain import Chain, load_chain
from components.evaluation.corrected_metrics import corrected_metrics
from components.evaluation.error_sheets import Sheets
from components.evaluation.fresh import split_fresh
from components.evaluation.metrics import (
    Metrics,
    balanced_accuracy,
    policy_metrics,
    preference_metrics,
    reward_metrics,
    variant_metrics,
    win_metrics,
)
from components.evaluation.parts import part_metrics
from components.evaluation.results import load_sheets, write_context, write_policy_results, write_reward_results
from components.evaluation.samples import ShownCritique, choose, write_samples
from components.evaluation.scores import Key, critique_verdicts, read_own, variants, variants_uncritiqued, write_scores
from components.evaluation.tasks import (
    AnswerTask,
    JudgementTask,
    ScoreTask,
    policy_tasks,
    reward_tasks,
)
from components.evaluation.text_baseline import text_scores
from components.evaluation.verdict import MODEL
from components.evaluation.wins import asks_reward_model, model_preferences, reward_win_metrics
from components.families.digests import model_digest
from components.preferences.record import Query, read_queries
from components.reward.judging import CritiqueScore
from components.stages import INFERENCE_TASKS
from components.statistics import Intervals

OF_CRITIQUES = ("reward.acc_gt_critique", "reward.critique_verdict_accuracy", "reward.unread_verdicts")


def run(settings: Settings, checkout: Checkout, recorder: Recorder = NullRecorder()) -> StageResult:  # noqa: B008 -- it has no state
    """Answer, judge, score and sum up; see the module."""
    torch.set_num_threads(settings.evaluate.threads)
    artifacts, aligned_path = checkout.artifacts, checkout.policy
    every = read_queries(checkout.queries("heldout"))
    reported, fresh = split_fresh(every, settings.evaluate.fresh_share)
    queries = [every[i] for i in reported]
    judge = load_chain(settings, checkout)
    intervals = Intervals(settings.evaluate.confidence)
    result = StageResult(
        metrics={},
        digests={**judge_digests(settings, checkout), "model.aligned": model_digest(aligned_path)},
    )
    metrics = result.metrics

    policies = {"base": settings.model.base.as_posix(), "aligned": IN_CHECKOUT.policy.as_posix()}
    (base, aligned), log_probs = ask_policies(settings, checkout, policies, judge, result.times)
    preferences = model_preferences(judge, every, base, aligned)
    base, aligned = replace(base, preferred=[None if one is None else 0.5 for one in preferences]), replace(aligned, preferred=preferences)
    whole = [base, aligned]
    base, aligned = (one.at(reported) for one in whole)
    for answered in (base, aligned):
        metrics.update(policy_metrics(f"policy.{answered.policy}", queries, answered.verdicts, answered.answers, intervals))
    metrics.update(correct_for_errors(settings, checkout, queries, (base, aligned)))
    judgeable = [judge.knows(query) for query in queries]
    metrics.update(win_metrics(queries, judgeable, base.verdicts, aligned.verdicts, intervals, aligned.preferred))
    implicit = implicit_rewards(artifacts / "reference/heldout.parquet", log_probs, mean=settings.alignment.log_probs == "mean")
    metrics.update(preference_metrics(queries, implicit, intervals))
    results = checkout.results
    text = text_scores(read_queries(checkout.queries("train")), every)
    write_context(results / "context.json", settings, checkout)

    own = read_own(artifacts / "critique/heldout.parquet", every)
    own_scores = {key: critique.score for key, critique in own.items()}
    critiqued = any(critique.text is not None for critique in own.values())
    metrics.update(reward_metrics(queries, own_scores, intervals))
    chosen = choose(queries, base, aligned, settings.evaluate.samples)
    compares = asks_reward_model(settings, checkout)
    scored = range(len(every)) if compares else [reported[i] for i in chosen]
    arguments = {
        "folder": IN_CHECKOUT.reward_model.as_posix(),
        "answers": [(i, policy.answers[i]) for policy in whole for i in scored],
    }
    blank, on_given, bare, shown = ask_reward_model(settings, checkout, arguments, result.times)
    halves = {"base": dict(zip(scored, shown, strict=False)), "aligned": dict(zip(scored, shown[len(scored) :], strict=True))}
    if compares:
        whole = [replace(one, rewards=[halves[one.policy][i][1] for i in scored]) for one in whole]
        base, aligned = (one.at(reported) for one in whole)
        reward_win_metrics(metrics, queries, base.rewards or [], aligned.rewards or [], intervals)
    for folder, answers, positions in (
        (results, artifacts / "evaluate/answers.parquet", reported),
        (checkout.fresh, checkout.fresh / "answers.parquet", fresh),
    ):
        part, (old, new) = [every[i] for i in positions], (one.at(positions) for one in whole)
        write_answers(answers, part, [old, new])
        write_policy_results(folder / "base.parquet", part, old.verdicts, None, rewards=old.rewards, preferred=old.preferred)
        write_policy_results(folder / "aligned.parquet", part, new.verdicts, implicit, text, new.rewards, new.preferred)
        write_reward_results(folder / "reward.parquet", part, own_scores)
    scores = variants(every, blank, on_given, bare) if critiqued else variants_uncritiqued(every, blank, own_scores)
    judgements = {name: [ShownCritique(*half[reported[i]]) for i in chosen] for name, half in halves.items()}
    scores["text_only"] = text
    for name, values in scores.items():
        metrics.update(variant_metrics(name, queries, values, intervals))
    metrics.update(part_metrics(queries, [base, aligned], own_scores, scores["text_only"], intervals))
    verdicts = critique_verdicts(queries, own, judge)
    metrics["reward.critique_verdict_accuracy"] = balanced_accuracy(*verdicts) if critiqued else None
    metrics["reward.unread_verdicts"] = sum(verdict is None for verdict in verdicts[0]) if critiqued else None
    write_scores(artifacts / "evaluate/scores.parquet", queries, own, scores, verdicts)

    samples = artifacts / "evaluate/samples"
    write_samples(samples, checkout.preferences, queries, chosen, [base, aligned], judgements, settings.model.background)
    recorder.artifact(artifacts / "evaluate/samples")
    recorder.artifact(artifacts / "evaluate/answers.parquet")
    report_missing(metrics, settings, critiqued=critiqued)
    return result


def ask_policies(
    settings: Settings, checkout: Checkout, policies: dict[str, str], judge: Chain, times: dict[str, float]
) -> tuple[list[Answered], dict[Key, LogProb]]:
    """Each policy's judged answers, and the log-probs of the recorded responses under the one that is not the base."""
    tasks = policy_tasks(settings, checkout, policies)
    report = run_tasks(tasks, Launch(INFERENCE_TASKS["policy_answers"], "evaluate", policies, "policies"), settings, checkout)
    times.update({f"policies.{name}": value for name, value in report.times.items()} | served_times(tasks))
    answers = iter(task for task in tasks if isinstance(task, AnswerTask))
    answered = [judge_answers(name, task.queries, task.results(), judge) for name, task in zip(policies, answers, strict=True)]
    (scored,) = (task for task in tasks if isinstance(task, LogProbTask))
    recorded = {(q.id, n): value for q, values in zip(scored.queries, scored.log_probs(), strict=True) for n, value in enumerate(values)}
    return answered, recorded


def correct_for_errors(settings: Settings, checkout: Checkout, queries: Sequence[Query], policies: Sequence[Answered]) -> Metrics:
    """The policies' metrics corrected for their judges' errors; why one can't be had is printed once."""
    sheets, metrics, reasons = load_sheets(settings, checkout), Metrics(), set[str]()
    for one in policies:
        prefix, intervals = f"policy.{one.policy}", Intervals(settings.evaluate.confidence)
        corrected, missing = corrected_metrics(prefix, queries, one.verdicts, sheets.error, intervals)
        metrics.update(corrected)
        reasons |= missing
    for reason in sorted(reasons):
        print(f"evaluate: no corrected metric: {reason}")
    return metrics


def judge_digests(settings: Settings, checkout: Checkout) -> dict[str, str]:
    """Digests of the judges' error sheets, and of the prompts and model of the model judge where it is in the chain."""
    digests = {"judge": " ".join(settings.evaluate.judges), "judge.sheets": Sheets(checkout.judge_sheets).digest(settings.evaluate.judges)}
    if MODEL in settings.evaluate.judges:
        digests |= {"judge.prompts": prompts.DIGEST, "judge.model": settings.endpoint.judge.model}
    return digests


def served_times(tasks: Sequence[InferenceTask]) -> dict[str, float]:
    """What servers wrote of the tasks' texts, for the stage's record."""
    times: dict[str, float] = {}
    for task in tasks:
        if isinstance(task, AnswerTask | JudgementTask) and task.served is not None:
            times |= task.served.times(task.label.replace(" ", "_"))
    return times


RewardOutcome = tuple[list[CritiqueScore], list[float], list[float], list[CritiqueScore]]


def ask_reward_model(settings: Settings, checkout: Checkout, arguments: dict[str, Any], times: dict[str, float]) -> RewardOutcome:
    """The reward model on the recorded responses over blanked media, on given critiques and on none, and on the policies' answers.

    The latter is shown to people; it decides nothing.
    """
    tasks = reward_tasks(settings, checkout, arguments)
    report = run_tasks(tasks, Launch(INFERENCE_TASKS["reward_scores"], "evaluate", arguments, "reward"), settings, checkout)
    times.update({f"reward.{name}": value for name, value in report.times.items()} | served_times(tasks))
    blank, on_given, bare, shown = tasks
    assert isinstance(blank, JudgementTask)
    assert isinstance(on_given, ScoreTask)
    assert isinstance(bare, ScoreTask)
    assert isinstance(shown, JudgementTask)
    return blank.judgements(), on_given.scores(), bare.scores(), shown.judgements()


def implicit_rewards(reference: Path, log_probs: dict[Key, tuple[float, int]], *, mean: bool) -> dict[Key, float]:
    """log p - log p_ref of each response, summed over its tokens or averaged, as alignment was set to count them (paper section 4)."""
    rows = pq.read_table(reference, columns=["id", "response", "log_prob"]).to_pylist()
    recorded = {(row["id"], row["response"]): row["log_prob"] for row in rows}
    return {key: (value - recorded[key]) / (tokens if mean else 1) for key, (value, tokens) in log_probs.items()}


def report_missing(metrics: Metrics, settings: Settings, *, critiqued: bool = True) -> None:
    """Name the metrics that can't be had, and the cure, in one sentence; those of critiques only where the reward model writes any."""
    missing = sorted(
        key
        for key, value in metrics.items()
        if value is None
        and not key.endswith(("_low", "_high", "_corrected"))
        and not any(part in key for part in ("mean_words", "judged_share"))
        and (critiqued or key not in OF_CRITIQUES)
    )
    if not critiqued:
        print("evaluate: the reward model was trained without critiques: it scores responses alone")
    if missing:
        with_ground_truth = "ground_truth" in settings.evaluate.judges
        source = f"facts in {IN_CHECKOUT.ground_truth}" if with_ground_truth else "reference answers in the held-out rows"
        print(f"evaluate: without {source}, or without held-out cases of their kind, these metrics are null: {', '.join(missing)}")
