"""Stage `reference`: each response's log-prob under the base model, once, before alignment.

Reads  artifacts/validate/{train,heldout}/queries.parquet and the base model.
Writes artifacts/reference/{train,heldout}.parquet: id, response, log_prob (sum over the response's tokens and its end, fp32), tokens.

Values are kept in .mmalign/cache/reference.sqlite under a key of everything that they depend on, so that 100 new rows cost 100 rows.
Alone: `mmalign stage reference`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from components.alignment.reference_table import LogProb, write_log_probs
from components.config import Settings
from components.files import digest_bytes
from components.preferences.record import Query, read_queries
from components.storage.content_cache import ContentCache
from components.tracking.result import StageResult
from components.vlm.digests import model_digest, processor_digest
from components.vlm.loading import load_model
from components.vlm.processing import Preprocessor
from components.vlm.scoring import plan_scoring, policy_tree, score_batches


def run(settings: Settings, root: Path) -> StageResult:
    """Compute, or take from the cache, the reference log-probs of all responses of both splits."""
    torch.set_num_threads(settings.reference.threads)
    base = root / settings.model.base
    preprocessor = Preprocessor(base, root / "data/preferences", settings.model, settings.features)
    model = load_model(base, attention=settings.model.attention)
    context = digest_bytes(
        model_digest(base), processor_digest(base), str(model.dtype), str(settings.model.max_frames), str(settings.training.row_tokens)
    )
    result = StageResult(metrics={}, params={"reference.model_digest": model_digest(base)})
    with ContentCache(root, "reference") as cache:
        for split in ("train", "heldout"):
            queries = read_queries(root / f"artifacts/validate/{split}/queries.parquet")
            found = reference_log_probs(model, preprocessor, queries, cache, context, settings.training.row_tokens, result.times)
            write_log_probs(root / f"artifacts/reference/{split}.parquet", queries, found)
            values = [value for query in found for value in query]
            result.metrics[f"{split}.responses"] = len(values)
            result.metrics[f"{split}.tokens"] = sum(tokens for _, tokens in values)
            result.metrics[f"{split}.log_prob_a_token"] = sum(p for p, _ in values) / max(1, sum(tokens for _, tokens in values))
    return result


def reference_log_probs(
    model: Any,
    preprocessor: Preprocessor,
    queries: list[Query],
    cache: ContentCache,
    context: str,
    row_tokens: int,
    times: dict[str, float],
) -> list[list[LogProb]]:
    """(log-prob sum, tokens) of every response of every query. Batches are planned over all queries, so a resumed run computes the same."""
    keys = [query_key(query, context) for query in queries]
    known = cache.find(keys)
    trees = [policy_tree(preprocessor, query) for query in queries]
    missing = [[i for i in batch if keys[i] not in known] for batch in plan_scoring(trees, row_tokens)]
    todo = [batch for batch in missing if batch]
    started = time.monotonic()
    total = sum(len(batch) for batch in todo)
    with tqdm(total=total, desc="reference log-probs", unit="query", mininterval=1) as bar:
        for indices, results in score_batches(model, trees, todo, row_tokens, preprocessor.end_id):
            fresh = {keys[index]: result for index, result in zip(indices, results, strict=True)}
            cache.store(fresh)
            known.update(fresh)
            bar.update(len(indices))
    times["queries_computed"] = times.get("queries_computed", 0) + total
    times["queries_cached"] = times.get("queries_cached", 0) + len(queries) - total
    times["scoring_seconds"] = times.get("scoring_seconds", 0) + time.monotonic() - started
    return [[(float(p), int(tokens)) for p, tokens in known[key]] for key in keys]


def query_key(query: Query, context: str) -> str:
    """Key of a query's log-probs: the prompt, the media's bytes, the responses, and `context` (model, processor, dtype, lengths)."""
    return digest_bytes(context, query.prompt, query.media_kind or "", query.media_digest or "", *(r.text for r in query.responses))
