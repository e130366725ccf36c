"""What a trained reward model is worth, for `benchmarks.reward_effect`: all measures in percentage points, on the same held-out queries.

- `own`: pairs ordered as ranked, on the model's own critique of each response, the likeliest one. A model without critiques scores alone.
- `given`, `bare`: the same on the critiques of the data, and on none.
- `mean_of_sampled`: the same on the mean score over `SAMPLED` critiques that are sampled at temperature 1.
- `text_wrong`: `own` on the pairs that the text-only table of word counts orders wrong.
- `swapped`: `own` with the picture of another query, whose critiques are written anew. A judge that looks at the picture loses by it.
- `best_of_8`: answers of the base that are right where the model chooses among `ANSWERS` sampled ones; `mean_of_8` is the mean over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from components.checkout import Checkout
from components.config.settings import Settings
from components.evaluation.judge import GroundTruthJudge, read_ground_truth
from components.evaluation.metrics import outcomes_of
from components.evaluation.scores import OwnCritique
from components.evaluation.tasks import with_critiques
from components.evaluation.text_baseline import text_scores
from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.files import digest_bytes, read_json, write_json
from components.generation.generate import generate
from components.preferences.record import Query, read_queries
from components.reward.judging import write_and_score
from components.reward.model import load_reward_model
from components.reward.scoring import Judged, score

QUERIES = 160  # held-out ones with ranks, by hash of id
SAMPLED = 4  # critiques of a response
ANSWERS = 8  # of the base to a question
Key = tuple[str, int]  # query id, response index
Item = tuple[Query, str]  # a query and a response's text


def accuracy(queries: Sequence[Query], scores: Mapping[Key, float]) -> float | None:
    """Share of rank-different pairs that the scores order as ranked, in percent; None without a pair."""
    outcomes = outcomes_of(queries, scores)
    pairs = sum(outcome.pairs for outcome in outcomes)
    return 100 * sum(outcome.correct for outcome in outcomes) / pairs if pairs else None


def accuracy_where_wrong(queries: Sequence[Query], scores: Mapping[Key, float], baseline: Mapping[Key, float]) -> float | None:
    """The same over the pairs that `baseline` does not order as ranked."""
    right = [
        scores[query.id, better] > scores[query.id, worse]
        for query in queries
        for better, worse in query.pairs()
        if not baseline[query.id, better] > baseline[query.id, worse]
    ]
    return 100 * sum(right) / len(right) if right else None


def swapped(queries: Sequence[Query]) -> list[Query]:
    """The queries with one medium, each with that of the next one whose medium is of the same kind and has another content."""
    single = [query for query in queries if len(query.media) == 1]
    partners = []
    for number, query in enumerate(single):
        own = query.media[0]
        others = (single[(number + step) % len(single)].media[0] for step in range(1, len(single)))
        other = next((medium for medium in others if medium.kind == own.kind and medium.digest != own.digest), None)
        if other is not None:
            partners.append(replace(query, media=(other,)))
    return partners


def chosen_share(rewards: Sequence[Sequence[float]], right: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """(share of questions whose answer of the highest reward is right, mean share of right answers), both in percent."""
    best = [verdicts[max(range(len(values)), key=values.__getitem__)] for values, verdicts in zip(rewards, right, strict=True)]
    return 100 * sum(best) / len(best), 100 * math.fsum(sum(verdicts) / len(verdicts) for verdicts in right) / len(right)


@dataclass
class Measured:
    """A reward model and the held-out queries that it is measured on."""

    settings: Settings
    checkout: Checkout
    folder: Path

    def __post_init__(self) -> None:
        torch.set_num_threads(self.settings.critique.threads)
        everything = [query for query in read_queries(self.checkout.queries("heldout")) if query.pairs()]
        self.queries = sorted(everything, key=lambda query: digest_bytes("reward_effect", query.id))[:QUERIES]
        self.reward = load_reward_model(self.folder, self.settings.model.attention)
        self.preprocessor = self._preprocessor(self.folder)

    def measures(self, answers: Path) -> dict[str, float | None]:
        """All measures. `answers` is the file of the base's sampled answers, which is written where it is missing."""
        own = self._judge(self.queries)
        text = text_scores(read_queries(self.checkout.queries("train")), self.queries)
        exchanged = swapped(self.queries)
        best, mean = self._best_of(answers)
        return {
            "own": accuracy(self.queries, own),
            "given": self._on_annotated(),
            "bare": accuracy(self.queries, self._score(self.queries, lambda _query, _index: None)),
            "mean_of_sampled": accuracy(self.queries, self._mean_of_sampled(own)),
            "text_wrong": accuracy_where_wrong(self.queries, own, text),
            "swapped": accuracy(exchanged, self._judge(exchanged)),
            "best_of_8": best,
            "mean_of_8": mean,
        }

    def _preprocessor(self, folder: Path) -> Preprocessor:
        return Preprocessor(folder, self.checkout.preferences, self.settings.model, self.settings.features)

    def _judge(self, queries: Sequence[Query]) -> dict[Key, float]:
        judged = self._critiques([(query, response.text) for query in queries for response in query.responses])
        return dict(zip(_keys(queries), (critique.score for critique in judged), strict=True))

    def _critiques(self, items: Sequence[Item]) -> list[OwnCritique]:
        limits = self.settings.critique
        written = write_and_score(
            self.reward,
            self.preprocessor,
            items,
            instruction=self.settings.reward.instruction,
            max_new_tokens=limits.max_new_tokens,
            batch_size=limits.batch_size,
        )
        return [OwnCritique(*one) for one in written]

    def _score(self, queries: Sequence[Query], critique: Callable[[Query, int], str | None]) -> dict[Key, float]:
        items = [
            Judged(query, response.text, critique(query, index)) for query in queries for index, response in enumerate(query.responses)
        ]
        values = score(self.reward, self.preprocessor, items, instruction=self.settings.reward.instruction)
        return dict(zip(_keys(queries), values, strict=True))

    def _on_annotated(self) -> float | None:
        if not self.reward.writes_critiques:
            return None
        critiqued = with_critiques(self.queries)
        return accuracy(critiqued, self._score(critiqued, lambda query, index: query.responses[index].critique))

    def _mean_of_sampled(self, own: dict[Key, float]) -> dict[Key, float]:
        if not self.reward.writes_critiques:
            return own
        instruction, limits = self.settings.reward.instruction, self.settings.critique
        items = [(query, response.text) for query in self.queries for response in query.responses]
        total = dict.fromkeys(own, 0.0)
        for seed in range(SAMPLED):
            tokens = generate(
                self.reward.model,
                [self.preprocessor.judge_root(query, instruction) for query, _ in items],
                [self.preprocessor.judge_ids(text) for _, text in items],
                end_id=self.preprocessor.end_id,
                temperature=1.0,
                seed=seed,
                max_new_tokens=limits.max_new_tokens,
                batch_size=limits.batch_size,
            )
            texts = [str(self.preprocessor.tokenizer.decode(ids, skip_special_tokens=True)) for ids in tokens]
            for key, value in self._score_on(dict(zip(total, texts, strict=True))).items():
                total[key] += value / SAMPLED
        return total

    def _score_on(self, critiques: Mapping[Key, str]) -> dict[Key, float]:
        return self._score(self.queries, lambda query, index: critiques[query.id, index])

    def _best_of(self, path: Path) -> tuple[float, float]:
        judge = GroundTruthJudge(read_ground_truth(self.checkout.data / "truth/truth.jsonl"))
        queries = [query for query in self.queries if judge.knows(query) and query.safety != "harmful"]
        if not path.is_file():
            write_json(path, self._sample_answers(queries))
        answers: dict[str, list[str]] = read_json(path)
        items = [(query, text) for query in queries for text in answers[query.id]]
        values = [critique.score for critique in self._critiques(items)]
        rewards = [values[start : start + ANSWERS] for start in range(0, len(values), ANSWERS)]
        return chosen_share(rewards, [[bool(judge.judge(query, text).good) for text in answers[query.id]] for query in queries])

    def _sample_answers(self, queries: Sequence[Query]) -> dict[str, list[str]]:
        base = self.checkout.root / self.settings.model.base
        model, preprocessor = load_model(base, attention=self.settings.model.attention).eval(), self._preprocessor(base)
        answers: dict[str, list[str]] = {query.id: [] for query in queries}
        for seed in range(ANSWERS):
            written = generate(
                model,
                [preprocessor.policy_root(query) for query in queries],
                [[] for _ in queries],
                end_id=preprocessor.end_id,
                temperature=1.0,
                seed=seed,
                max_new_tokens=self.settings.evaluate.max_new_tokens,
                batch_size=self.settings.evaluate.batch_size,
            )
            for query, ids in zip(queries, written, strict=True):
                answers[query.id].append(str(preprocessor.tokenizer.decode(ids, skip_special_tokens=True)))
        return answers


def _keys(queries: Sequence[Query]) -> list[Key]:
    return [(query.id, index) for query in queries for index in range(len(query.responses))]
