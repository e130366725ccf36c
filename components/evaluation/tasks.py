"""What evaluation computes with models, as tasks of inference: answers and log-probs of policies, judgements and scores of the reward model.

Results are kept in .mmalign/cache/evaluate.sqlite under keys of model, query, settings and code, so that a killed evaluation goes on where it
was. `policy_tasks` and `reward_tasks` are what the ranks build from their arguments; the stage runs the first, judges the answers, and runs
the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from components.alignment.log_probs import LogProbTask, computed_in
from components.checkout import Checkout
from components.closures import code_digest
from components.config.settings import Settings
from components.critique.task import critique_context, critique_writer
from components.endpoints.writer import ServedWriter, answer_writer, client_for
from components.engine.inference_task import InferenceTask
from components.engine.models import OneModel, open_policy
from components.engine.ranks import Ranks, inference_dtype
from components.families.adapters import Root
from components.families.digests import model_digest, processor_digest
from components.families.processing import Preprocessor
from components.features.cache import attach_features
from components.files import digest_bytes
from components.generation.decoding import SharedLimits, decode
from components.preferences.record import Query, read_queries
from components.reward.judging import CritiqueScore, write_and_score
from components.reward.model import open_reward_model
from components.reward.recorded_source import critique_source_of
from components.reward.scoring import SCORING_ROW_TOKENS, SCORING_ROWS, Judged, judge_branch, score
from components.reward.served import score_served
from components.storage.content_cache import ContentCache
from components.trees.planning import plan_batches
from components.trees.trees import tree_tokens

SERVED_POLICIES = ("base", "aligned")  # those with a server in section `endpoint`


@dataclass
class _ModelTask(InferenceTask):
    """What all tasks of evaluation hold."""

    preprocessor: Preprocessor
    models: OneModel
    folder: Path
    settings: Settings

    def operations(self) -> float:
        """Of the model's passes."""
        return self.models.operations(self.work)


@dataclass
class AnswerTask(_ModelTask):
    """[answer, whether it ended before its last token] of a policy to every query, greedily."""

    queries: Sequence[Query]
    served: ServedWriter[Query] | None = None  # with evaluate.engine endpoint

    def prepare(self, items: Sequence[int]) -> None:
        """Have the server write the answers, where one does."""
        if self.served is not None:
            self.served.ask([self.queries[item] for item in items], self.label)

    def plan(self) -> list[list[int]]:
        """`evaluate.batch_size` queries a batch, the longest prompts first."""
        return _longest_first([self.preprocessor.policy_length(query) for query in self.queries], self.settings.evaluate.batch_size)

    def compute(self, items: Sequence[int], ranks: Ranks) -> list[tuple[str, bool]]:
        """Write the answers of a batch; those that a server wrote are there."""
        queries = [self.queries[item] for item in items]
        texts = [None] * len(items) if self.served is None else self.served.texts(queries)
        answers = [(text.text, text.ended) if text is not None else None for text in texts]
        missing = [number for number, answer in enumerate(answers) if answer is None]
        if ranks.any(bool(missing)):  # ranks in lockstep write as soon as one of them has to
            written = iter(self._write([items[number] for number in missing or [0]], ranks))
            answers = [answer or next(written) for answer in answers]
        return [answer for answer in answers if answer is not None]

    def _write(self, items: Sequence[int], ranks: Ranks) -> list[tuple[str, bool]]:
        limit = self.settings.evaluate.max_new_tokens
        tokens = decode(
            self.models.open(self.folder, ranks, open_policy),
            [self.preprocessor.policy_root(self.queries[item]) for item in items],
            [[] for _ in items],
            max_new_tokens=limit,
            batch_size=self.settings.evaluate.batch_size,
            end_id=self.preprocessor.end_id,
            step=ranks,
            count=self.work.add,
        )
        return [(str(self.preprocessor.tokenizer.decode(ids, skip_special_tokens=True)), len(ids) < limit) for ids in tokens]


@dataclass
class JudgementTask(_ModelTask):
    """(critique, score) by the reward model of every (query, response); `blank` judges over grey media of the same size.

    A model that was trained without critiques scores alone.
    """

    rows: Sequence[tuple[Query, str]]
    blank: bool = False
    served: ServedWriter[tuple[Query, str]] | None = None  # with critique.engine endpoint

    def prepare(self, items: Sequence[int]) -> None:
        """Have the server write the critiques, where one does."""
        if self.served is not None:
            self.served.ask([self.rows[item] for item in items], self.label)

    def plan(self) -> list[list[int]]:
        """`critique.batch_size` different responses a batch, those of one root together, the longest roots first."""
        distinct = list({key: item for item, key in reversed(list(enumerate(self.keys)))}.values())
        roots = {item: self._outline(self.rows[item][0]).input_ids for item in sorted(distinct)}
        first: dict[tuple[int, ...], int] = {}
        positions = {item: first.setdefault(root, item) for item, root in roots.items()}
        order = sorted(roots, key=lambda item: (-len(roots[item]), positions[item], item))
        size = self.settings.critique.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def compute(self, items: Sequence[int], ranks: Ranks) -> list[CritiqueScore]:
        """Write a batch's critiques and score on them."""
        reward, rows = self.models.open(self.folder, ranks, open_reward_model), [self.rows[item] for item in items]
        limits: SharedLimits = {
            "max_new_tokens": self.settings.critique.max_new_tokens,
            "batch_size": self.settings.critique.batch_size,
            "step": ranks,
            "count": self.work.add,
        }
        instruction = self.settings.reward.instruction
        if self.served is None:
            return write_and_score(reward, self.preprocessor, rows, instruction=instruction, blank=self.blank, **limits)
        texts = self.served.texts(rows)
        return score_served(reward, self.preprocessor, rows, texts, instruction=instruction, blank=self.blank, **limits)

    def judgements(self) -> list[CritiqueScore]:
        """What was computed, row by row."""
        return [(text, float(value)) for text, value in self.results()]

    def _outline(self, query: Query) -> Root:
        return self.preprocessor.judge_outline(query, self.settings.reward.instruction, blank=self.blank)


@dataclass
class ScoreTask(_ModelTask):
    """The reward model's scores of every response of every query, on critiques that are given (one a response)."""

    rows: Sequence[tuple[Query, Sequence[str]]]

    def plan(self) -> list[list[int]]:
        """Batches of packed rows, the fullest first."""
        lengths = []
        for query, critiques in self.rows:
            branches = [
                len(judge_branch(self.preprocessor, response.text, critique, learn=False).input_ids)
                for response, critique in zip(query.responses, critiques, strict=True)
            ]
            root = self.preprocessor.judge_length(query, self.settings.reward.instruction)
            lengths.append(tree_tokens(root, branches))
        return plan_batches(range(len(lengths)), lengths, row_tokens=SCORING_ROW_TOKENS, batch_rows=SCORING_ROWS)

    def compute(self, items: Sequence[int], ranks: Ranks) -> list[list[float]]:
        """One forward pass."""
        judged = [
            Judged(query, response.text, critique)
            for query, critiques in (self.rows[item] for item in items)
            for response, critique in zip(query.responses, critiques, strict=True)
        ]
        reward = self.models.open(self.folder, ranks, open_reward_model)
        instruction = self.settings.reward.instruction
        flat = iter(score(reward, self.preprocessor, judged, instruction=instruction, step=ranks, count=self.work.add))
        return [[next(flat) for _ in self.rows[item][0].responses] for item in items]

    def scores(self) -> list[float]:
        """What was computed, response by response."""
        return [float(value) for values in self.results() for value in values]


def policy_tasks(settings: Settings, checkout: Checkout, arguments: dict[str, str]) -> list[AnswerTask | LogProbTask]:
    """For each policy of `arguments` (name to folder): its answers to the held-out queries, and the log-probs of their responses.

    The base's log-probs are in the reference table: for the policy "base" there is no such task.
    """
    queries = read_queries(checkout.queries("heldout"))
    base = checkout.root / settings.model.base
    preprocessor = Preprocessor(base, checkout.preferences, settings.model, settings.features)
    attach_features(preprocessor, base, queries, settings, checkout, ranks=settings.evaluate.ranks)
    models, cache, code = OneModel(settings), ContentCache(checkout, "evaluate"), code_digest("evaluate")
    tasks: list[AnswerTask | LogProbTask] = []
    for name, path in arguments.items():
        folder = checkout.root / path
        shared: dict[str, Any] = {
            "store": cache,
            "queries": queries,
            "preprocessor": preprocessor,
            "models": models,
            "folder": folder,
            "settings": settings,
        }
        reading = str(settings.model.max_frames), settings.model.background
        context = digest_bytes(model_digest(folder), processor_digest(base), *reading, str(inference_dtype(settings)), code)
        answering = settings.evaluate.model_dump_json(include={"max_new_tokens", "batch_size", "threads"})
        served = _answer_writer(name, folder, preprocessor, settings, checkout)
        writing = () if served is None else ("endpoint", served.client.server.model)
        keys = [digest_bytes("answer", context, answering, *writing, *query.content) for query in queries]
        tasks.append(AnswerTask(label=f"answers of the {name} policy", unit="query", keys=keys, served=served, **shared))
        if name != "base":
            lengths = f"{settings.training.row_tokens} {settings.evaluate.threads} {computed_in(settings)}"
            keys = [digest_bytes("log-probs", context, lengths, *query.content, *(r.text for r in query.responses)) for query in queries]
            tasks.append(LogProbTask(label=f"log-probs under the {name} policy", unit="query", keys=keys, **shared))
    return tasks


def reward_tasks(settings: Settings, checkout: Checkout, arguments: dict[str, Any]) -> list[JudgementTask | ScoreTask]:
    """What the reward model in `arguments["folder"]` says of the held-out responses.

    `arguments["own"]`: its judgements of all responses, and nothing else. Without it: over blanked media, scores on given critiques, scores
    without one, and judgements of `arguments["answers"]`, rows of (query index, answer). A model that was trained without critiques is not
    asked for the scores: its own judgements are without one, and given ones it can't read.
    """
    queries = read_queries(checkout.queries("heldout"))
    folder = checkout.root / arguments["folder"]
    preprocessor = Preprocessor(folder, checkout.preferences, settings.model, settings.features)
    attach_features(preprocessor, folder, queries, settings, checkout, ranks=settings.evaluate.ranks)
    context = digest_bytes(critique_context(settings, folder), str(settings.evaluate.threads), code_digest("evaluate"))
    shared: dict[str, Any] = {
        "store": ContentCache(checkout, "evaluate"),
        "preprocessor": preprocessor,
        "models": OneModel(settings),
        "folder": folder,
        "settings": settings,
    }
    rows = [(query, response.text) for query in queries for response in query.responses]
    served = critique_writer(preprocessor, folder, settings, checkout)
    if arguments.get("own"):
        keys = [digest_bytes("own", context, *query.content, text) for query, text in rows]
        return [JudgementTask(label="critiques", unit="response", keys=keys, rows=rows, served=served, **shared)]
    blank = [digest_bytes("blank", context, *blank_identity(preprocessor, settings, query), text) for query, text in rows]
    critiqued = critique_source_of(folder) != "none"
    on_given = [(query, [response.critique or "" for response in query.responses]) for query in with_critiques(queries) if critiqued]
    bare = [(query, [""] * len(query.responses)) for query in queries if critiqued]
    answers = [(queries[index], str(answer)) for index, answer in arguments["answers"]]
    return [
        JudgementTask(
            label="critiques over blanked media",
            unit="response",
            keys=blank,
            rows=rows,
            blank=True,
            served=critique_writer(preprocessor, folder, settings, checkout, blank=True),
            **shared,
        ),
        *(
            ScoreTask(
                label=f"scores {name}",
                unit="query",
                keys=[digest_bytes("score", context, *q.content, *(r.text for r in q.responses), *texts) for q, texts in judged],
                rows=judged,
                **shared,
            )
            for name, judged in (("on given critiques", on_given), ("without critiques", bare))
        ),
        JudgementTask(
            label="critiques of answers",
            unit="answer",
            keys=[digest_bytes("own", context, *query.content, answer) for query, answer in answers],
            rows=answers,
            served=served,
            **shared,
        ),
    ]


def _answer_writer(
    name: str, folder: Path, preprocessor: Preprocessor, settings: Settings, checkout: Checkout
) -> ServedWriter[Query] | None:
    """The server's writer of a policy's answers; None with `evaluate.engine` local, and for a policy that no server holds: a champion."""
    if settings.evaluate.engine == "local" or name not in SERVED_POLICIES:
        return None
    weights = model_digest(folder)
    client = client_for(name, weights, settings.endpoint, checkout)
    return answer_writer(preprocessor, weights, client, settings.evaluate.max_new_tokens)


def with_critiques(queries: Sequence[Query]) -> list[Query]:
    """The queries whose responses all have a given critique."""
    return [query for query in queries if all(response.critique for response in query.responses)]


def blank_identity(preprocessor: Preprocessor, settings: Settings, query: Query) -> tuple[str, ...]:
    """What a judge reads of a query over blanked media. Blanking makes inputs alike (one question, one size): they are judged once."""
    root = preprocessor.judge_outline(query, settings.reward.instruction, blank=True)
    # Small tensors say sizes and grids; of pixels the shape is enough, since all are grey.
    media = [
        f"{name}{tuple(tensor.shape)}{tensor.flatten().tolist() if tensor.dtype == torch.int64 else ''}"
        for medium in root.media
        for name, tensor in sorted(medium.tensors.items())
    ]
    return str(root.input_ids), *media


def _longest_first(lengths: Sequence[int], size: int) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lambda item: (-lengths[item], item))
    return [order[start : start + size] for start in range(0, len(order), size)]
