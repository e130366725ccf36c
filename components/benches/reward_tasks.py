"""How a reward model scores a benchmark's answers, as tasks of inference: the ones by which evaluation scores held-out answers.

Keys are those of the stage `evaluate`, so that a benchmark that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.closures import code_digest
from components.config.settings import Settings
from components.critique.task import critique_context, critique_writer
from components.engine.inference import Launch, run_tasks
from components.engine.models import OneModel
from components.evaluation.tasks import JudgementTask, ScoreTask, blank_identity, with_critiques
from components.families.processing import Preprocessor
from components.features.cache import attach_features
from components.files import digest_bytes
from components.preferences.record import Query, read_queries
from components.reward.recorded_source import critique_source_of
from components.stages import INFERENCE_TASKS
from components.storage.content_cache import ContentCache

Scores = dict[tuple[int, int], float]  # by the positions of query and answer
OWN, BLANK, ANNOTATED, BARE = "own", "blank_image", "given_critique", "no_critique"


@dataclass(frozen=True)
class Work:
    """What the ranks need to build the same tasks: the model's folder, the table of queries, the media's folder."""

    folder: Path
    queries: Path
    media: Path

    def arguments(self) -> dict[str, str]:
        """As JSON."""
        return {name: str(path) for name, path in vars(self).items()}


def build(settings: Settings, checkout: Checkout, arguments: Mapping[str, str]) -> list[JudgementTask | ScoreTask]:
    """Judgements on the model's own critiques, judgements over blanked media, and scores on the data's critiques and on none.

    A model that was trained without critiques has no scores of the last two kinds: its own judgements are without one.
    """
    work = Work(**{name: Path(path) for name, path in arguments.items()})
    queries = read_queries(work.queries)
    preprocessor = Preprocessor(work.folder, work.media, settings.model, settings.features)
    attach_features(preprocessor, work.folder, queries, settings, checkout, ranks=settings.evaluate.ranks)
    context = digest_bytes(critique_context(settings, work.folder), str(settings.evaluate.threads), code_digest("evaluate"))
    shared: dict[str, Any] = {
        "store": ContentCache(checkout, "evaluate"),
        "preprocessor": preprocessor,
        "models": OneModel(settings),
        "folder": work.folder,
        "settings": settings,
    }
    rows = [(query, response.text) for query in queries for response in query.responses]

    def judging(label: str, kind: str, *, blank: bool) -> JudgementTask:
        contents = [blank_identity(preprocessor, settings, query) if blank else query.content for query, _ in rows]
        keys = [digest_bytes(kind, context, *content, text) for content, (_, text) in zip(contents, rows, strict=True)]
        served = critique_writer(preprocessor, work.folder, settings, checkout, blank=blank)
        return JudgementTask(label=label, unit="response", keys=keys, rows=rows, blank=blank, served=served, **shared)

    def scoring(label: str, judged: list[tuple[Query, Sequence[str]]]) -> ScoreTask:
        keys = [digest_bytes("score", context, *q.content, *(r.text for r in q.responses), *texts) for q, texts in judged]
        return ScoreTask(label=label, unit="query", keys=keys, rows=judged, **shared)

    tasks: list[JudgementTask | ScoreTask] = [
        judging("critiques", "own", blank=False),
        judging("critiques over blanked media", "blank", blank=True),
    ]
    if critique_source_of(work.folder) != "none":
        tasks += [
            scoring(
                "scores on the data's critiques",
                [(query, [r.critique or "" for r in query.responses]) for query in with_critiques(queries)],
            ),
            scoring("scores without critiques", [(query, [""] * len(query.responses)) for query in queries]),
        ]
    return tasks


def score_all(settings: Settings, checkout: Checkout, work: Work) -> dict[str, Scores]:
    """Every answer's score by way of scoring. The data's critiques score the queries alone whose answers all have one."""
    arguments = work.arguments()
    tasks = build(settings, checkout, arguments)
    run_tasks(tasks, Launch(INFERENCE_TASKS["reward_bench"], "evaluate", arguments, "bench"), settings, checkout)
    queries = read_queries(work.queries)
    every = [(number, index) for number, query in enumerate(queries) for index in range(len(query.responses))]
    critiqued = {query.id for query in with_critiques(queries)}
    own, blank = (
        dict(zip(every, (score for _, score in task.judgements()), strict=True)) for task in tasks if isinstance(task, JudgementTask)
    )
    scores: dict[str, Scores] = {OWN: own, BLANK: blank, ANNOTATED: {}, BARE: own}
    if len(tasks) > 2:
        annotated, bare_scores = (task.scores() for task in tasks if isinstance(task, ScoreTask))
        scores[ANNOTATED] = dict(zip([key for key in every if queries[key[0]].id in critiqued], annotated, strict=True))
        scores[BARE] = dict(zip(every, bare_scores, strict=True))
    return scores
