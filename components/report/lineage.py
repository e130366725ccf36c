"""The inputs of a run, the status of each stage, and the times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.checkout import IN_CHECKOUT
from components.report.record import Record, lookup, reached
from components.report.wording import duration
from components.stages import STAGE_NAMES

STATUS_WORDS = {"ran": "ran", "skipped": "up to date", "restored": "restored", "failed": "failed", "not_reached": "not reached"}


@dataclass(frozen=True)
class StageRow:
    """A stage of the run; `share` is its part of the longest stage's time, `training` the time spent in steps."""

    name: str
    status: str
    words: str
    seconds: str
    share: float
    training: str
    run_id: str | None


@dataclass(frozen=True)
class Output:
    """An out of a stage, with DVC's hash."""

    stage: str
    path: str
    md5: str
    size: str


@dataclass(frozen=True)
class Lineage:
    """Stages, inputs (name, value) and DVC's hashes of all outs."""

    stages: list[StageRow]
    total: str
    inputs: list[tuple[str, str]]
    outputs: list[Output]


def read_lineage(record: Record) -> Lineage:
    """The lineage of the run."""
    seconds = {stage: float(lookup(record.summary, "stages", stage, "seconds") or 0) for stage in STAGE_NAMES}
    longest = max(seconds.values()) or 1.0
    stages = []
    for stage in STAGE_NAMES:
        status = str(lookup(record.summary, "stages", stage, "status") or "not_reached")
        training = lookup(record.run(stage), "times", "training_seconds") if status == "ran" else None
        stages.append(
            StageRow(
                stage,
                status,
                STATUS_WORDS.get(status, status),
                duration(seconds[stage]),
                seconds[stage] / longest,
                duration(training),
                lookup(record.summary, "stages", stage, "mlflow_run_id"),
            )
        )
    return Lineage(stages, duration(lookup(record.summary, "seconds")), _inputs(record), _outputs(record))


def _inputs(record: Record) -> list[tuple[str, str]]:
    summary, runs = record.summary, [record.run(stage) for stage in reached(record)]
    dirty = any(run.get("dirty") for run in runs)
    inputs: list[tuple[str, Any]] = [
        ("run in MLflow", summary.get("mlflow_run_id")),
        ("git commit", summary.get("git_sha") and f"{summary['git_sha']}{', with uncommitted changes' if dirty else ''}"),
        ("data, DVC", lookup(summary, "data", "version")),
        ("base model, DVC", _base(record)),
    ]
    inputs += [
        (name, run.get("digests", {}).get(f"model:{IN_CHECKOUT.artifact(stage, 'model').as_posix()}"))
        for stage, name in (("reward", "reward model, sha256"), ("align", "aligned policy, sha256"))
        for run in (record.run(stage),)
    ]
    for model in ("mm-reward", "mm-policy"):
        entry = lookup(summary, "registry", model)
        if entry and lookup(entry, "version") is not None:
            aliases = ", ".join(map(str, lookup(entry, "aliases") or ())) or "no alias"
            inputs.append((f"{model}, registered", f"version {entry['version']} ({aliases})"))
    pythons = sorted({str(run["python"]) for run in runs if run.get("python")})
    locks = sorted({str(run["lock_sha256"]) for run in runs if run.get("lock_sha256")})
    inputs += [("Python", ", ".join(pythons)), ("requirements.txt, sha256", ", ".join(locks))]
    return [(name, str(value)) for name, value in inputs if value]


def _base(record: Record) -> str | None:
    path = record.lock_params("align").get("model.base")
    deps = lookup(record.lock, "stages", "align", "deps") or []
    return next((f"{dep['md5']} ({path})" for dep in deps if dep.get("path") == path and "md5" in dep), None)


def _outputs(record: Record) -> list[Output]:
    return [
        Output(stage, str(out["path"]), str(out["md5"]), _size(out.get("size")))
        for stage in reached(record)
        for out in lookup(record.lock, "stages", stage, "outs") or []
        if "md5" in out
    ]


def _size(count: int | None) -> str:
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError
