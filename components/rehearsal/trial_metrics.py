"""What a trial tells of the whole stage: peak memory, rates, time with an interval, disk.

Time splits into a part that grows with the rows and one that does not (start, export):

- a training: tokens of all epochs at the rate of its steps without the first, which warms up; the interval spans the slowest and the fastest
  step. Its second start, which takes no step, measures what does not grow; what is left beside steps (features, own critiques, log-probs of
  the result) grows with the queries in the upper bound, and half as much in the estimate. A checkpoint takes at most a read and an export;
- other stages: their computing time, times the ratio of tokens and times that of responses (queries in `evaluate`). The longest rows are
  over-represented in the sample, so the truth lies between or near; the estimate is the middle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from components.checkout import Checkout
from components.config.optimization import optimization_of
from components.config.settings import Settings
from components.engine.checkpoints import PREFIX
from components.engine.curves import CURVES
from components.rehearsal.peak import PeakMemory
from components.rehearsal.plan import TRAINING, stage_ranks
from components.rehearsal.sample import Sample, Totals
from components.rehearsal.workspace import folder_bytes

RETAINED = 1.03  # an allocator retains something of each batch, and a stage has more of them than a trial: measured 0 to 9 % of the peak


@dataclass(frozen=True)
class TrialMetrics:
    """Of one stage. Bytes of host memory are proportional set sizes, of a rank and of the process that launches them.

    `seconds` are the whole stage's: low, estimate, high. `tokens_per_second` are of all ranks. None where nothing was measured.
    """

    ranks: int
    rank_bytes: int
    launcher_bytes: int
    device_bytes: int | None
    tokens_per_second: float | None
    mfu: float | None
    seconds: tuple[float, float, float]
    disk_bytes: int
    trial_seconds: float


def trial_metrics(
    stage: str, settings: Settings, outcome: dict[str, Any], peak: PeakMemory, made: Checkout, sample: Sample
) -> TrialMetrics:
    """The metrics of a trial that ended with `outcome`."""
    times = outcome["times"]
    trains = stage in TRAINING
    rate = _training_rate(made, stage) if trains else _largest(times, "tokens_per_second")
    seconds = _training_seconds(stage, settings, outcome, made, sample) if trains else _other_seconds(stage, outcome, sample)
    ranks = 1 if stage == "validate" else stage_ranks(settings, stage)
    gpu = settings.stages[stage].gpus > 0  # type: ignore[index]  # `stage` is a stage's name
    used = _largest(times, "peak_memory_gb")
    return TrialMetrics(
        ranks,
        round((peak.rank or peak.own) * RETAINED),
        peak.own if peak.rank else 0,
        round(used * 1e9) if gpu and used is not None else None,
        rate,
        _largest(times, "mfu"),
        seconds,
        _disk(stage, settings, made, sample),
        outcome["seconds"],
    )


def _steps(made: Checkout, stage: str) -> list[dict[str, float]]:
    (curves,) = made.scratch(stage).glob(f"*/{CURVES}")
    return [json.loads(line) for line in curves.read_text(encoding="utf-8").splitlines()]


def _rates(made: Checkout, stage: str) -> list[float]:
    """Tokens a second of each step but the first; of the first where it is the only one."""
    steps = _steps(made, stage)
    return sorted(step["tokens"] / step["seconds"] for step in steps[1:] or steps)


def _training_rate(made: Checkout, stage: str) -> float:
    rates = _rates(made, stage)
    return rates[len(rates) // 2]


def _training_seconds(
    stage: str, settings: Settings, outcome: dict[str, Any], made: Checkout, sample: Sample
) -> tuple[float, float, float]:
    steps, rates, section = _steps(made, stage), _rates(made, stage), optimization_of(settings, stage)
    taken, whole = sample.taken("train"), sample.whole["train"]
    first = [step for step in steps if step["epoch"] == 1]
    tokens = sum(step["tokens"] for step in first) * whole.tokens / taken.tokens * section.epochs
    number = len(first) * whole.queries / taken.queries * section.epochs
    if section.max_steps is not None:
        tokens, number = tokens * min(1.0, section.max_steps / number), min(number, section.max_steps)
    fixed = outcome["resume_seconds"]  # start, read of a checkpoint, export: what a training takes without a step
    training = settings.training
    checkpoints = (
        number / training.checkpoint_steps if training.checkpoint_steps else tokens / rates[0] / (training.checkpoint_seconds or 1)
    )
    written = checkpoints * max(0.0, fixed - outcome["times"]["startup_seconds"])
    growing = max(0.0, outcome["seconds"] - sum(step["seconds"] for step in steps) - fixed)
    growth = whole.queries / taken.queries
    return (
        tokens / rates[-1] + fixed + growing,
        tokens / rates[len(rates) // 2] + fixed + growing * (1 + growth) / 2 + written / 2,
        tokens / rates[0] + fixed + growing * growth + written,
    )


def _other_seconds(stage: str, outcome: dict[str, Any], sample: Sample) -> tuple[float, float, float]:
    times = outcome["times"]
    computed = sum(
        value for name, value in times.items() if name.rpartition(".")[2] in {"compute_seconds", "rows_seconds", "suites_seconds"}
    )
    fixed = max(0.0, outcome["seconds"] - computed)
    splits = ["heldout"] if stage == "evaluate" else ["train", "heldout"]
    whole, taken = _sum(sample.whole[split] for split in splits), _sum(sample.taken(split) for split in splits)
    by_count = whole.queries / taken.queries if stage in ("evaluate", "validate") else whole.responses / max(1, taken.responses)
    low, high = sorted((by_count, whole.tokens / taken.tokens))
    return fixed + computed * low, fixed + computed * (low + high) / 2, fixed + computed * high


def _sum(totals: Any) -> Totals:
    columns = zip(*((one.queries, one.responses, one.tokens, one.media) for one in totals), strict=True)
    return Totals(*(sum(column) for column in columns))


def _disk(stage: str, settings: Settings, made: Checkout, sample: Sample) -> int:
    """Bytes that the whole stage leaves: checkpoints kept, and one being written; the model; features of all media with the first training."""
    total = folder_bytes(made.artifact(stage))
    if stage in TRAINING:
        checkpoints = [folder_bytes(path) for path in made.scratch(stage).glob(f"*/{PREFIX}*")]
        total += max(checkpoints, default=0) * (settings.training.keep_checkpoints + 1)
    if stage == "reward" and settings.features.cache:
        whole, taken = sample.whole, (sample.taken("train"), sample.taken("heldout"))
        media = sum(one.media for one in taken)
        features = folder_bytes(made.cache("features"))
        total += round(min(features * sum(one.media for one in whole.values()) / media if media else 0, settings.features.max_gb * 1e9))
    return total


def _largest(times: dict[str, float], name: str) -> float | None:
    values = [value for key, value in times.items() if key.rpartition(".")[2] == name]
    return max(values, default=None)
