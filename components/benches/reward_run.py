"""Runs a benchmark of reward models: `mmalign bench reward`.

Reads  the benchmark's file with its media, a reward model, artifacts/validate/train/queries.parquet (for the text-only baseline).
Writes reports/bench/NAME-DIGEST.json with the result and a table with one row a question beside it, both the same for the same inputs: no time
       stands in them. Each batch of answers is kept in .mmalign/cache/evaluate.sqlite as it is scored, so a stopped run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.benches.record import DIGEST_CHARACTERS, record_result
from components.benches.reward_bench import Reader, read_rows, require_rows
from components.benches.reward_rows import FORMATS, BenchFormat
from components.benches.reward_scores import baselines, rows_of, summary
from components.benches.reward_tasks import OWN, Work, score_all
from components.benches.rows import write_rows
from components.checkout import IN_CHECKOUT, Checkout
from components.config.settings import Settings
from components.errors import UserError
from components.families.digests import HEAD_FILE, is_checkpoint, model_digest
from components.families.processing import Preprocessor
from components.files import digest_bytes, digest_file, read_json, write_json
from components.preferences.record import read_queries, write_queries
from components.reward.recorded_source import critique_source_of
from components.statistics import Intervals
from components.validation.lengths import LengthCheck

SHOWN = 3  # refused rows that are printed


@dataclass(frozen=True)
class RewardRequest:
    """What to score: the benchmark's file or folder, its format, the folder of its media (None: beside the rows), the reward model."""

    data: Path
    format: str
    media: Path | None = None
    model: Path | None = None


def bench_reward(settings: Settings, checkout: Checkout, request: RewardRequest, log: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
    """Score, write and record; returns the result's file and the result. Raises UserError."""
    folder = request.model or checkout.reward_model
    name = _checked(request, folder)
    rows, refused, media = read_rows(request.data, name, request.media)
    library = checkout.bench / "media"
    library.mkdir(parents=True, exist_ok=True)
    lengths = LengthCheck(
        Preprocessor(folder, library, settings.model, settings.features), settings.reward.instruction, settings.model.max_length
    )
    bench = Reader(checkout, settings, media, library, lengths).read(rows, refused)
    require_rows(bench, request.data)
    for refusal in bench.refused[:SHOWN]:
        log(f"bench reward: row {refusal.row} is left out: {refusal.reason}")
    if len(bench.refused) > SHOWN:
        log(f"bench reward: {len(bench.refused)} rows are left out; the result names all")
    digest = model_digest(folder)
    queries = (
        checkout.bench / "queries" / f"{digest_bytes(*(part for query in bench.queries for part in query.content), name)[:32]}.parquet"
    )
    write_queries(queries, bench.queries)
    scores = score_all(settings, checkout, Work(folder, queries, library))
    training = checkout.queries("train")
    if not training.is_file():
        log(f"bench reward: text_only is null without {IN_CHECKOUT.queries('train')}: run `mmalign run --only validate`, then this again")
    scores |= baselines(bench, read_queries(training) if training.is_file() else None)
    result = {
        "benchmark": {"name": request.data.stem, "format": name, "digest": _data_digest(request.data)},
        "model": {"digest": digest, "critiques": critique_source_of(folder) or "unknown"},
        **summary(bench, scores, Intervals(settings.evaluate.confidence)),
    }
    target = checkout.bench_results / f"{request.data.stem}-{digest[:DIGEST_CHARACTERS]}.json"
    table = target.with_suffix(".parquet")
    fresh = not target.is_file() or read_json(target) != result
    write_rows(table, rows_of(bench, scores[OWN]))
    write_json(target, result)
    if fresh:
        record_result(checkout, request.data.stem, ("mm-reward", digest), result, [target, table])
    return target, result


def _checked(request: RewardRequest, folder: Path) -> BenchFormat:
    if not is_checkpoint(folder) or not (folder / HEAD_FILE).is_file():
        raise UserError(f"{folder} holds no reward model: train one with `mmalign run --only reward`, or name another folder with --model")
    name = next((name for name in FORMATS if name == request.format), None)
    if name is None:
        raise UserError(f"--format {request.format!a} is none of {', '.join(FORMATS)}")
    return name


def _data_digest(path: Path) -> str:
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    return digest_bytes(*(part for item in files for part in (item.relative_to(path.parent).as_posix(), digest_file(item))))
