"""Critiques and scores of all responses, as a task of inference (paper section 3); scores alone by a model without critiques.

A query's responses are written and scored together, in batches of about `critique.batch_size` responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.closures import code_digest
from components.config.settings import Settings
from components.endpoints.writer import ServedWriter, client_for, judgement_writer
from components.engine.inference_task import InferenceTask, Work
from components.engine.models import OneModel
from components.engine.ranks import Ranks, inference_dtype
from components.errors import UserError
from components.families.digests import HEAD_FILE, model_digest, processor_digest
from components.families.processing import Preprocessor
from components.features.cache import attach_features
from components.files import digest_bytes
from components.generation.continuation import Lockstep, SingleProcess
from components.generation.decoding import SharedLimits
from components.preferences.record import Query, read_queries
from components.reward.judging import CritiqueScore, write_and_score
from components.reward.model import RewardModel, open_reward_model
from components.reward.recorded_source import critique_source_of
from components.reward.served import score_served
from components.storage.content_cache import ContentCache

SPLITS = ("train", "heldout")
NOTHING_TO_SERVE = (
    "critique.engine is endpoint, but the reward model is trained without critiques (reward.critique_source), so a server has none to write: "
    "set critique.engine to local"
)


@dataclass
class CritiqueTask(InferenceTask):
    """(critique, score) of every response of every query."""

    queries: Sequence[Query]
    preprocessor: Preprocessor
    models: OneModel
    folder: Path
    settings: Settings
    served: ServedWriter[tuple[Query, str]] | None = None  # with critique.engine endpoint

    def prepare(self, items: Sequence[int]) -> None:
        """Have the server write the critiques, where one does."""
        if self.served is not None:
            self.served.ask(_rows([self.queries[item] for item in items]), self.label)

    def plan(self) -> list[list[int]]:
        """Queries of like length together, about `critique.batch_size` responses a batch."""
        return plan_parts(self.preprocessor, self.queries, self.settings)

    def size(self, item: int) -> int:
        """Responses of a query."""
        return len(self.queries[item].responses)

    def compute(self, items: Sequence[int], ranks: Ranks) -> list[list[CritiqueScore]]:
        """Write, then score."""
        reward = self.models.open(self.folder, ranks, open_reward_model)
        queries = [self.queries[item] for item in items]
        return judge_together(reward, self.preprocessor, queries, self.settings, ranks, self.work, self.served)

    def operations(self) -> float:
        """Of the model's passes."""
        return self.models.operations(self.work)

    def judgements(self) -> list[list[CritiqueScore]]:
        """What was computed, query by query."""
        return [[(text, float(value)) for text, value in row] for row in self.results()]


def build(settings: Settings, checkout: Checkout, arguments: Any = None) -> list[CritiqueTask]:
    """A task for each split. Both use one preprocessor, one model and one cache."""
    assert arguments is None
    folder = checkout.reward_model
    preprocessor = Preprocessor(folder, checkout.preferences, settings.model, settings.features)
    queries = {split: read_queries(checkout.queries(split)) for split in SPLITS}
    every = [query for split in SPLITS for query in queries[split]]
    attach_features(preprocessor, folder, every, settings, checkout, ranks=settings.critique.ranks)
    models, cache = OneModel(settings), ContentCache(checkout, "critiques")
    context = digest_bytes(critique_context(settings, folder), code_digest("critique"))
    writers = {split: critique_writer(preprocessor, folder, settings, checkout) for split in SPLITS}
    return [
        CritiqueTask(
            label=f"critiques, {split}",
            unit="response",
            keys=[query_key(query, context) for query in queries[split]],
            store=cache,
            queries=queries[split],
            preprocessor=preprocessor,
            models=models,
            folder=folder,
            settings=settings,
            served=writers[split],
        )
        for split in SPLITS
    ]


def plan_parts(preprocessor: Preprocessor, queries: Sequence[Query], settings: Settings) -> list[list[int]]:
    """Query indices in parts of about `critique.batch_size` responses, like lengths together; from the queries alone."""
    lengths = [preprocessor.judge_length(query, settings.reward.instruction) for query in queries]
    parts: list[list[int]] = [[]]
    size = 0
    for index in sorted(range(len(queries)), key=lambda item: (-lengths[item], item)):
        if size and size + len(queries[index].responses) > settings.critique.batch_size:
            parts.append([])
            size = 0
        parts[-1].append(index)
        size += len(queries[index].responses)
    return parts


def judge_together(
    reward: RewardModel,
    preprocessor: Preprocessor,
    queries: Sequence[Query],
    settings: Settings,
    step: Lockstep | None = None,
    work: Work | None = None,
    served: ServedWriter[tuple[Query, str]] | None = None,
) -> list[list[CritiqueScore]]:
    """(critique, score) of every response of `queries`; what `served` has no text of is written and scored in one go."""
    items = _rows(queries)
    limits: SharedLimits = {
        "max_new_tokens": settings.critique.max_new_tokens,
        "batch_size": settings.critique.batch_size,
        "step": step or SingleProcess(),
        "count": (work or Work()).add,
    }
    instruction = settings.reward.instruction
    if served is None:
        judgements = write_and_score(reward, preprocessor, items, instruction=instruction, **limits)
    else:
        judgements = score_served(reward, preprocessor, items, served.texts(items), instruction=instruction, **limits)
    flat = iter(judgements)
    return [[next(flat) for _ in query.responses] for query in queries]


def critique_writer(
    preprocessor: Preprocessor, folder: Path, settings: Settings, checkout: Checkout, *, blank: bool = False
) -> ServedWriter[tuple[Query, str]] | None:
    """The server's writer of critiques for the reward model in `folder`; None with `critique.engine` local.

    A server holds today's reward model: for another one, such as a champion that is judged once more, critiques are written here.
    Raises UserError where that model writes none.
    """
    if settings.critique.engine == "local" or folder.resolve() != checkout.reward_model.resolve():
        return None
    if critique_source_of(folder) == "none":
        raise UserError(NOTHING_TO_SERVE)
    weights = model_digest(folder)
    client = client_for("reward", weights, settings.endpoint, checkout)
    return judgement_writer(preprocessor, weights, client, settings.reward.instruction, settings.critique.max_new_tokens, blank=blank)


def _rows(queries: Sequence[Query]) -> list[tuple[Query, str]]:
    return [(query, response.text) for query in queries for response in query.responses]


def critique_context(settings: Settings, folder: Path) -> str:
    """Digest of what opinions depend on beside query and code: model, processor, instruction, settings, but not how many ranks share them."""
    return digest_bytes(
        model_digest(folder),
        processor_digest(folder),
        (folder / HEAD_FILE).read_bytes(),
        settings.reward.instruction,
        settings.critique.model_dump_json(include={"max_new_tokens", "batch_size", "threads"}),
        str(settings.model.max_frames),
        settings.model.background,
        str(inference_dtype(settings)),
        *(() if settings.critique.engine == "local" else ("endpoint", settings.endpoint.reward.model)),
    )


def query_key(query: Query, context: str) -> str:
    """Key of a query's opinions: conversation, media bytes, responses, and `context` (model, processor, instruction, settings, code)."""
    return digest_bytes(context, *query.content, *(r.text for r in query.responses))
