"""Stage `critique`: the reward model writes a critique of every response and then scores it (paper section 3, inference).

Reads  artifacts/validate/{train,heldout}/queries.parquet, artifacts/reward/model.
Writes artifacts/critique/{train,heldout}.parquet: id, response (index in models_output, from 0), critique, score.

Each part of the work is kept in .mmalign/cache/critiques.sqlite as it is done, under a key of everything that it depends on: a killed
stage goes on where it was, with the same parts and so the same bits. Alone: `mmalign stage critique`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from components.config import Settings
from components.critique.writing import write_critiques
from components.files import digest_bytes
from components.preferences.record import Query, read_queries
from components.reward.model import HEAD_FILE, RewardModel, load_reward_model
from components.reward.scoring import Judged, score
from components.storage.content_cache import ContentCache
from components.tracking.result import StageResult
from components.vlm.digests import model_digest, processor_digest
from components.vlm.generation import Progress
from components.vlm.processing import Preprocessor

Opinion = tuple[str, float]  # critique and score of a response


def run(settings: Settings, root: Path) -> StageResult:
    """Write critiques and scores for all responses of both splits."""
    torch.set_num_threads(settings.critique.threads)
    folder = root / "artifacts/reward/model"
    reward = load_reward_model(folder, settings.model.attention)
    preprocessor = Preprocessor(folder, root / "data/preferences", settings.model, settings.features)
    context = digest_bytes(
        model_digest(folder),
        processor_digest(folder),
        (folder / HEAD_FILE).read_bytes(),
        settings.reward.instruction,
        settings.critique.model_dump_json(),
        str(settings.model.max_frames),
    )
    result = StageResult(metrics={})
    with ContentCache(root, "critiques") as cache:
        for split in ("train", "heldout"):
            queries = read_queries(root / f"artifacts/validate/{split}/queries.parquet")
            opinions = judge_queries(reward, preprocessor, queries, cache, context, settings, split, result.times)
            write_opinions(root / f"artifacts/critique/{split}.parquet", queries, opinions)
            scores = np.array([value for query in opinions for _, value in query])
            correct = [o[w][1] > o[l][1] for q, o in zip(queries, opinions, strict=True) for w, l in q.pairs()]  # noqa: E741 - loser
            result.metrics[f"{split}.responses"] = len(scores)
            result.metrics[f"{split}.score_mean"] = float(scores.mean()) if len(scores) else None
            result.metrics[f"{split}.score_std"] = float(scores.std()) if len(scores) else None
            result.metrics[f"{split}.pair_accuracy"] = float(np.mean(correct)) if correct else None
            lengths = [len(text.split()) for query in opinions for text, _ in query]
            result.metrics[f"{split}.critique_words"] = float(np.mean(lengths)) if lengths else None
    return result


def judge_queries(
    reward: RewardModel,
    preprocessor: Preprocessor,
    queries: Sequence[Query],
    cache: ContentCache,
    context: str,
    settings: Settings,
    split: str,
    times: dict[str, float],
) -> list[list[Opinion]]:
    """(critique, score) of every response of every query, from the cache or fresh."""
    keys = [query_key(query, context) for query in queries]
    known = cache.find(keys)
    started = time.monotonic()
    parts = plan_parts(preprocessor, queries, settings)
    todo = [[index for index in part if keys[index] not in known] for part in parts]
    total = sum(len(queries[index].responses) for part in todo for index in part)
    if known and total:
        print(f"critique: {len(known)} of {len(queries)} {split} queries are kept from before", flush=True)
    with tqdm(total=total, desc=f"critiques, {split}", unit="response", mininterval=1) as bar:
        for part in filter(None, todo):
            fresh = judge_together(reward, preprocessor, [queries[index] for index in part], settings)
            cache.store({keys[index]: opinions for index, opinions in zip(part, fresh, strict=True)})
            known.update({keys[index]: opinions for index, opinions in zip(part, fresh, strict=True)})
            bar.update(sum(len(opinions) for opinions in fresh))
    times[f"{split}.seconds"] = time.monotonic() - started
    times[f"{split}.responses_computed"] = total
    return [[(text, float(value)) for text, value in known[key]] for key in keys]


def plan_parts(preprocessor: Preprocessor, queries: Sequence[Query], settings: Settings) -> list[list[int]]:
    """Query indices in parts of about `critique.batch_size` responses, like lengths together; from the queries alone."""
    lengths = [len(preprocessor.judge_root(query, settings.reward.instruction).input_ids) for query in queries]
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
    reward: RewardModel, preprocessor: Preprocessor, queries: Sequence[Query], settings: Settings, progress: Progress | None = None
) -> list[list[Opinion]]:
    """(critique, score) of every response of `queries`, written and scored in one go."""
    items = [(query, response.text) for query in queries for response in query.responses]
    texts = write_critiques(
        reward.model,
        preprocessor,
        items,
        instruction=settings.reward.instruction,
        max_new_tokens=settings.critique.max_new_tokens,
        batch_size=settings.critique.batch_size,
        progress=progress,
    )
    judged = [Judged(query, response, text) for (query, response), text in zip(items, texts, strict=True)]
    flat = iter(zip(texts, score(reward, preprocessor, judged, instruction=settings.reward.instruction), strict=True))
    return [[next(flat) for _ in query.responses] for query in queries]


def query_key(query: Query, context: str) -> str:
    """Key of a query's opinions: prompt, media bytes, responses, and `context` (model, processor, instruction, settings)."""
    return digest_bytes(context, query.prompt, query.media_kind or "", query.media_digest or "", *(r.text for r in query.responses))


def write_opinions(path: Path, queries: Sequence[Query], opinions: Sequence[Sequence[Opinion]]) -> None:
    """Write one row a response."""
    rows = [
        {"id": query.id, "response": number, "critique": text, "score": value}
        for query, values in zip(queries, opinions, strict=True)
        for number, (text, value) in enumerate(values)
    ]
    schema = pa.schema([("id", pa.string()), ("response", pa.int32()), ("critique", pa.string()), ("score", pa.float64())])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
