"""Stage `evaluate`: the aligned policy against the base, and the reward model against people, on held-out queries.

Reads  artifacts/validate/heldout/queries.parquet, artifacts/critique/heldout.parquet, artifacts/reference/heldout.parquet,
       artifacts/reward/model, artifacts/align/model, the base model, data/truth.
Writes artifacts/evaluate/answers.parquet (every answer with its verdict), scores.parquet (every response's scores), results/ (per-query
       outcomes of base, policy and reward model, by which models are compared), samples/ (a page and JSONL of answers side by side) and the
       metrics that reports/summary.json is made of.

Without facts (data/truth) or reference answers, what needs them is null, is named in one sentence, and the rest goes on.
Alone: `mmalign stage evaluate`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from components.config import Settings
from components.critique.writing import write_critiques
from components.evaluation.answers import Answered, answer_queries, write_answers
from components.evaluation.judge import TRUTH_FILE, load_judge
from components.evaluation.metrics import (
    Bootstrap,
    Figures,
    balanced_accuracy,
    policy_figures,
    preference_figures,
    reward_figures,
    variant_figures,
    win_figures,
)
from components.evaluation.plots import plot_accuracy
from components.evaluation.results import RESULTS, context_of, write_policy_results, write_reward_results
from components.evaluation.samples import Opinion, choose, write_samples
from components.evaluation.scores import Key, critique_verdicts, read_own, variants, write_scores
from components.files import write_json
from components.preferences.record import Query, read_queries
from components.reward.model import RewardModel, load_reward_model
from components.reward.scoring import Judged, score
from components.tracking.result import StageResult
from components.vlm.digests import model_digest
from components.vlm.loading import load_model
from components.vlm.processing import Preprocessor
from components.vlm.scoring import response_log_probs

MEDIA = Path("data/preferences")


def run(settings: Settings, root: Path) -> StageResult:
    """Answer, judge, score and sum up; see the module."""
    torch.set_num_threads(settings.evaluate.threads)
    artifacts, base_path, aligned_path = root / "artifacts", root / settings.model.base, root / "artifacts/align/model"
    queries = read_queries(artifacts / "validate/heldout/queries.parquet")
    judge = load_judge(settings.evaluate, root)
    bootstrap = Bootstrap(settings.evaluate.bootstrap_samples, settings.evaluate.confidence)
    preprocessor = Preprocessor(base_path, root / MEDIA, settings.model, settings.features)
    result = StageResult(metrics={}, params={"judge": settings.evaluate.judge, "model.aligned": model_digest(aligned_path)})
    figures, times = result.metrics, result.times

    policies: list[Answered] = []
    for policy, path in (("base", base_path), ("aligned", aligned_path)):
        with timed(times, f"answers_{policy}_seconds"), progress_bar(f"answers of the {policy} policy") as progress:
            model = load_model(path, attention=settings.model.attention)
            policies.append(answer_queries(policy, model, preprocessor, queries, judge, settings.evaluate, progress))
        figures.update(policy_figures(f"policy.{policy}", queries, policies[-1].verdicts, policies[-1].answers, bootstrap))
    base, aligned = policies
    figures.update(win_figures([judge.knows(query) for query in queries], base.verdicts, aligned.verdicts, bootstrap))
    write_answers(artifacts / "evaluate/answers.parquet", queries, policies)

    with timed(times, "log_probs_seconds"):
        # the loop above ends with the aligned policy's model
        found = response_log_probs(model, preprocessor, queries, settings.training.row_tokens)
    implicit = implicit_rewards(artifacts / "reference/heldout.parquet", found, mean=settings.alignment.log_probs == "mean")
    figures.update(preference_figures(queries, implicit, bootstrap))
    del model
    results = root / RESULTS
    write_policy_results(results / "base.parquet", queries, base.verdicts, None)
    write_policy_results(results / "aligned.parquet", queries, aligned.verdicts, implicit)
    write_json(results / "context.json", {"context": context_of(settings, root)})

    reward = load_reward_model(artifacts / "reward/model", settings.model.attention)
    own = read_own(artifacts / "critique/heldout.parquet", queries)
    own_scores = {key: critique.score for key, critique in own.items()}
    figures.update(reward_figures(queries, own_scores, bootstrap))
    write_reward_results(results / "reward.parquet", queries, own_scores)
    with timed(times, "scores_seconds"), progress_bar("critiques over blanked media") as progress:
        scores = variants(reward, preprocessor, queries, settings, progress)
    for name, values in scores.items():
        figures.update(variant_figures(name, queries, values, bootstrap))
    verdicts = critique_verdicts(queries, own, judge)
    figures["reward.critique_verdict_accuracy"] = balanced_accuracy(*verdicts)
    figures["reward.unread_verdicts"] = sum(verdict is None for verdict in verdicts[0])
    write_scores(artifacts / "evaluate/scores.parquet", queries, own, scores, verdicts)

    with timed(times, "samples_seconds"):
        chosen = choose(queries, base, aligned, settings.evaluate.samples)
        opinions = {answered.policy: opinions_on(answered, chosen, queries, reward, preprocessor, settings) for answered in policies}
        write_samples(artifacts / "evaluate/samples", root / MEDIA, queries, chosen, policies, opinions)
        plot = root / ".mmalign/scratch/evaluate/plots/accuracy.png"
        plot_accuracy(plot, figures)
    result.artifacts = [plot, artifacts / "evaluate/samples", artifacts / "evaluate/answers.parquet"]
    say_what_is_missing(figures, settings)
    return result


def implicit_rewards(reference: Path, found: dict[Key, tuple[float, int]], *, mean: bool) -> dict[Key, float]:
    """log p - log p_ref of each response, summed over its tokens or averaged, as alignment was set to count them (paper section 4)."""
    rows = pq.read_table(reference, columns=["id", "response", "log_prob"]).to_pylist()
    recorded = {(row["id"], row["response"]): row["log_prob"] for row in rows}
    return {key: (value - recorded[key]) / (tokens if mean else 1) for key, (value, tokens) in found.items()}


def opinions_on(
    answered: Answered, chosen: Sequence[int], queries: Sequence[Query], reward: RewardModel, preprocessor: Preprocessor, settings: Settings
) -> list[Opinion]:
    """The reward model's critique and score of a policy's answers to the chosen queries. Shown to people; decides nothing."""
    items = [(queries[index], answered.answers[index]) for index in chosen]
    instruction = settings.reward.instruction
    critiques = write_critiques(
        reward.model,
        preprocessor,
        items,
        instruction=instruction,
        max_new_tokens=settings.critique.max_new_tokens,
        batch_size=settings.critique.batch_size,
    )
    judged = [Judged(query, answer, critique) for (query, answer), critique in zip(items, critiques, strict=True)]
    return [
        Opinion(text, value) for text, value in zip(critiques, score(reward, preprocessor, judged, instruction=instruction), strict=True)
    ]


def say_what_is_missing(figures: Figures, settings: Settings) -> None:
    """Name the figures that can't be had, and the cure, in one sentence."""
    missing = sorted(
        key for key, value in figures.items() if value is None and not key.endswith(("_low", "_high")) and "mean_words" not in key
    )
    if missing:
        source = f"facts in {TRUTH_FILE}" if settings.evaluate.judge == "truth" else "reference answers in the held-out rows"
        print(f"evaluate: without {source}, or without held-out cases of their kind, these figures are null: {', '.join(missing)}")


@contextmanager
def timed(times: dict[str, float], name: str) -> Iterator[None]:
    """Note the seconds that the block took."""
    started = time.monotonic()
    yield
    times[name] = time.monotonic() - started


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is moved by calls with (done, total)."""
    with tqdm(desc=what, mininterval=1) as bar:

        def move(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield move
