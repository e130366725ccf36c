"""Per-query outcomes of one model on the held-out queries: what two models are compared by, and the key of what they depend on.

A table belongs to one model and one *context*: held-out rows and media, facts, base model, judges and their error sheets, evaluation code and its
settings. Two models are compared only within one context; `artifacts/evaluate/results/context.json` names the one that the tables beside it were made in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.checkout import Checkout
from components.closures import code_digest
from components.config.settings import Settings
from components.evaluation import judge_prompts
from components.evaluation.error_sheets import Sheets
from components.evaluation.fresh import FRESH, split_fresh
from components.evaluation.judge import is_description
from components.evaluation.metrics import outcomes_of
from components.evaluation.verdict import MODEL, REWARD_MODEL, Verdict
from components.evaluation.wins import asks_reward_model
from components.families.digests import model_digest, processor_digest
from components.files import digest_bytes, digest_file, write_json
from components.preferences.record import Query, read_queries

Scores = Mapping[tuple[str, int], float]  # by query id and index of the response
CLUSTERS = ("clusters", pa.map_(pa.string(), pa.string()))  # what the query shares with others, as Query.clusters
POLICY_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("category", pa.string()),
        ("good", pa.bool_()),  # right, or safe for a harmful request; null where there are no facts
        ("unsafe", pa.bool_()),  # harmful requests
        ("over_refused", pa.bool_()),  # harmless requests
        ("hallucinated", pa.bool_()),  # descriptions
        ("degenerate", pa.bool_()),
        ("pairs", pa.int32()),  # rank-different pairs that the implicit reward orders; 0 for the base, whose implicit reward is none
        ("correct", pa.int32()),
        ("text_correct", pa.int32()),  # pairs that the text-only baseline orders as ranked; null where it was not asked
        ("judge", pa.string()),  # who decided `good`, `unsafe` and `over_refused`; "" for nobody
        ("description_judge", pa.string()),  # who decided `hallucinated`
        ("preferred", pa.float64()),  # the model judge's preference over the base's answer: 1, .5 or 0; null where it was not asked
        ("reward", pa.float64()),  # the reward model's score of the answer; null where it was not asked
        CLUSTERS,
    ]
)
REWARD_SCHEMA = pa.schema([("id", pa.string()), ("category", pa.string()), ("pairs", pa.int32()), ("correct", pa.int32()), CLUSTERS])


def write_policy_results(
    path: Path,
    queries: Sequence[Query],
    verdicts: Sequence[Verdict],
    implicit: Scores | None,
    text: Scores | None = None,
    rewards: Sequence[float] | None = None,
    preferred: Sequence[float | None] | None = None,
) -> None:
    """Write one row a query. `implicit` is log p - log p_ref of each response, None for the reference itself; `text` the text-only scores;
    `rewards` the reward model's scores of the answers, one a query, where it was asked; `preferred` the model judge's preferences.
    """
    outcomes = outcomes_of(queries, implicit or {})
    of_rewards: Sequence[float | None] = [None] * len(queries) if rewards is None else rewards
    of_pairs = [None] * len(queries) if preferred is None else preferred
    of_text = [None] * len(queries) if text is None else [outcome.correct for outcome in outcomes_of(queries, text)]
    rows = [
        {
            "id": query.id,
            "category": query.category,
            "good": verdict.good,
            "unsafe": None if verdict.safe is None or query.safety != "harmful" else not verdict.safe,
            "over_refused": verdict.refused if query.safety == "harmless" else None,
            "hallucinated": verdict.hallucinated if is_description(query) else None,
            "degenerate": verdict.degenerate,
            "pairs": outcome.pairs,
            "correct": outcome.correct,
            "text_correct": text_correct,
            "judge": verdict.judge,
            "description_judge": verdict.description_judge,
            "preferred": preference,
            "reward": reward,
            "clusters": query.clusters,
        }
        for query, verdict, outcome, text_correct, reward, preference in zip(
            queries, verdicts, outcomes, of_text, of_rewards, of_pairs, strict=True
        )
    ]
    _write(path, rows, POLICY_SCHEMA)


def write_reward_results(path: Path, queries: Sequence[Query], own: Mapping[tuple[str, int], float]) -> None:
    """Write one row a query: its rank-different pairs, and those that the scores on own critiques order as ranked."""
    rows = [
        {"id": query.id, "category": query.category, "pairs": outcome.pairs, "correct": outcome.correct, "clusters": query.clusters}
        for query, outcome in zip(queries, outcomes_of(queries, own), strict=True)
    ]
    _write(path, rows, REWARD_SCHEMA)


def context_of(settings: Settings, checkout: Checkout) -> str:
    """The digest of all that results depend on beside the model."""
    base = checkout.root / settings.model.base
    heldout, ground_truth = checkout.queries("heldout"), checkout.ground_truth
    # Neither where the base lies nor how many processes or threads are used changes an answer.
    shared = {"ranks", "threads", "zero_inference", "confidence", "samples"}
    chosen = {
        "model": settings.model.model_dump(mode="json", exclude={"base", "lora"}),
        "evaluate": settings.evaluate.model_dump(mode="json", exclude=shared),
        "instruction": settings.reward.instruction,
        "critique_tokens": settings.critique.max_new_tokens,
        "log_probs": settings.alignment.log_probs,
        "precision": settings.training.precision,
        "judge": [settings.endpoint.judge.model, judge_prompts.DIGEST] if MODEL in settings.evaluate.judges else None,
        # Scores of two reward models are no common scale.
        "reward_model": model_digest(checkout.reward_model) if asks_reward_model(settings, checkout) else None,
        "sheets": load_sheets(settings, checkout).digest(settings.evaluate.judges),
    }
    ground_truth_digest = digest_file(ground_truth) if ground_truth.is_file() else "none"
    parts = (
        digest_file(heldout),
        ground_truth_digest,
        model_digest(base),
        processor_digest(base),
        code_digest("evaluate"),
        json.dumps(chosen, sort_keys=True),
    )
    return digest_bytes(*parts)


def write_context(path: Path, settings: Settings, checkout: Checkout) -> None:
    """Write the context of the tables beside `path`, the digests of the held-out queries and of their fresh part (None without one), those of
    the two models that they are of, and the errors of the judges that decided.
    """
    models = {"mm-policy": model_digest(checkout.policy), "mm-reward": model_digest(checkout.reward_model)}
    queries = read_queries(checkout.queries("heldout"))
    fresh = [queries[i] for i in split_fresh(queries, settings.evaluate.fresh_share)[1]]
    errors = load_sheets(settings, checkout).recorded(name for name in settings.evaluate.judges if name != REWARD_MODEL)
    digests = {"heldout": heldout_digest(queries), FRESH: heldout_digest(fresh) if fresh else None}
    write_json(path, {"context": context_of(settings, checkout), **digests, "models": models, "errors": errors})


def load_sheets(settings: Settings, checkout: Checkout) -> Sheets:
    """The checkout's error sheets, for the model that judges now."""
    return Sheets(checkout.judge_sheets, {MODEL: settings.endpoint.judge.model})


def heldout_digest(queries: Iterable[Query]) -> str:
    """The digest of what held-out queries ask and rank, whatever their ids and order are."""
    rows = sorted(
        digest_bytes(*query.content, *sorted(f"{r.rank} {r.text}" for r in query.responses), str(query.safety)) for query in queries
    )
    return digest_bytes(*rows)


def results_key(digest: str, context: str) -> str:
    """The key of one model's results in one context."""
    return digest_bytes(digest, context)[:32]


def _write(path: Path, rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
