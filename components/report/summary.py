"""reports/summary.json, the contract for scripts (`schema: 1`): it always has every key; a metric that was not computed is null.

Metrics come from the stages' metrics.json, whose flat names are the paths in the summary (`policy.aligned.accuracy.mcq`). Metrics of a stage
whose outs belong to an earlier run are null, so that a failed run never shows that run's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.files import read_json
from components.stages import STAGE_NAMES

StageStatus = Literal["ran", "skipped", "restored", "failed", "not_reached"]
RunStatus = Literal["running", "ok", "failed", "cancelled"]
Number = float | int | None

CATEGORIES = ("mcq", "long", "short", "safety", "video")
LEAKAGE = ("leaked_queries", "leaked_share", "near_duplicates", "shared_wordings")
DATA = ("queries", "heldout_queries", "responses", "pairs", "ties", "quarantined", *LEAKAGE)
ENDS = ("", "_low", "_high")  # of a metric with its interval
ACC = (*(f"{name}{end}" for name in ("acc", "acc_plus", "acc_text_only") for end in ENDS), "pairs", "queries")
REWARD = (*ACC, "acc_no_critique", "acc_gt_critique", "acc_blank_image", "critique_verdict_accuracy")
POLICY = ("conversation", "unsafe_rate", "over_refusal_rate", "hallucination_rate", "degenerate_rate")
CORRECTED = POLICY[:4]  # those that depend on a judge with an error sheet
POLICY_METRICS = (*(f"{name}{end}" for name in POLICY for end in ENDS), *(f"{name}_corrected{end}" for name in CORRECTED for end in ENDS))
JUDGED = (*POLICY, "accuracy", "win_rate")  # metrics whose judges `judges` names
COUNTS = ("conversation", "harmful", "harmless", "descriptions", "answers", *CATEGORIES)
COMPARED = (*(f"{name}{end}" for name in ("win_rate", "preference_accuracy") for end in ENDS), "win_rate_by_reward_model")
BETA = ("min", "mean", "max", "share_at_cap", "share_at_floor")
PARTS = "part."  # opens the names of a part's metrics
MODELS = ("mm-reward", "mm-policy")
FINISHED: frozenset[StageStatus] = frozenset({"ran", "skipped", "restored"})


@dataclass
class StageRecord:
    """The end of a stage in a run. `seconds` is 0 unless it ran."""

    status: StageStatus = "not_reached"
    seconds: float = 0.0


@dataclass
class RunRecord:
    """The end of a run, without its metrics."""

    status: RunStatus
    stages: dict[str, StageRecord]
    seconds: float = 0.0
    data_version: str | None = None
    mlflow_run_id: str | None = None
    git_sha: str | None = None
    failed_stage: str | None = None
    log: str | None = None
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)  # `gate` and `registry`, once the gate has judged


def summarize(run: RunRecord, artifacts: Path, judges: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The summary of a run from its record, its stages' files under `artifacts`, and the judges of its metrics."""
    stages = {name: run.stages.get(name, StageRecord()) for name in STAGE_NAMES}
    finished = {name for name, record in stages.items() if record.status in FINISHED}
    validated, aligned, evaluated = (_metrics(artifacts, name) if name in finished else {} for name in ("validate", "align", "evaluate"))
    summary: dict[str, Any] = {
        "schema": 1,
        "status": run.status,
        "stages": {
            name: {
                "status": record.status,
                "seconds": round(record.seconds, 1),
                "mlflow_run_id": _run_id(artifacts, name) if name in finished else None,
            }
            for name, record in stages.items()
        },
        "data": {**_section(validated, "", DATA), "version": run.data_version},
        "reward": {
            "critique_source": _critique_source(artifacts) if "reward" in finished else None,
            **_section(evaluated, "reward.", REWARD),
        },
        "policy": {
            **{
                model: {
                    **_section(evaluated, f"policy.{model}.", POLICY_METRICS),
                    "judged_share": _section(evaluated, f"policy.{model}.judged_share.", CORRECTED),
                    "accuracy": _section(evaluated, f"policy.{model}.accuracy.", CATEGORIES),
                    "counts": _section(evaluated, f"policy.{model}.counts.", COUNTS),
                }
                for model in ("base", "aligned")
            },
            **_section(evaluated, "policy.", COMPARED),
        },
        "judges": {name: (judges or {}).get(name, []) if evaluated else [] for name in JUDGED},
        "parts": {name: _part(evaluated, f"{PARTS}{name}.") for name in part_names(evaluated)},
        "beta": _section(aligned, "beta.", BETA),
        "gate": {
            "promoted": False,
            **{name: {"verdict": None, "reasons": [], "rules": []} for name in MODELS},
            **run.verdicts.get("gate", {}),
        },
        "registry": {**{name: {"version": None, "aliases": [], "digest": None} for name in MODELS}, **run.verdicts.get("registry", {})},
        "seconds": round(run.seconds, 1),
        "mlflow_run_id": run.mlflow_run_id,
        "git_sha": run.git_sha,
    }
    if run.status in {"failed", "cancelled"}:
        summary |= {"failed_stage": run.failed_stage, "log": run.log}
    return summary


def stages_since(summary: Mapping[str, Any], written: float, artifacts: Path) -> list[str]:
    """The stages whose results under `artifacts` are newer than the summary, which was written at `written` (seconds since the epoch).

    `dvc exp run` and `dvc repro` run stages without a summary.
    """
    newer: list[str] = []
    for name in STAGE_NAMES:
        path, summarized = artifacts / name / "run.json", summary["stages"][name]["mlflow_run_id"]
        if path.is_file() and _run_id(artifacts, name) != summarized and (summarized is not None or path.stat().st_mtime > written):
            newer.append(name)
    return newer


def not_judged(error: Exception | str) -> dict[str, dict[str, Any]]:
    """The verdicts of a run whose models were not judged, with the reason."""
    return {"gate": {name: {"verdict": None, "reasons": [str(error)], "rules": []} for name in MODELS}}


def _metrics(artifacts: Path, stage: str) -> Mapping[str, Number]:
    path = artifacts / stage / "metrics.json"
    values: Mapping[str, Number] = read_json(path) if path.is_file() else {}
    return values


def _run_id(artifacts: Path, stage: str) -> str | None:
    path = artifacts / stage / "run.json"
    return read_json(path).get("mlflow_run_id") if path.is_file() else None


def _critique_source(artifacts: Path) -> str | None:
    """What the reward model was trained on, as its stage chose."""
    path = artifacts / "reward" / "run.json"
    chosen: str | None = read_json(path).get("digests", {}).get("critique_source") if path.is_file() else None
    return chosen


def part_names(evaluated: Mapping[str, Number]) -> list[str]:
    """Names of the held-out parts that the evaluation reports apart (components/evaluation/parts.py)."""
    return sorted({key.split(".")[1] for key in evaluated if key.startswith(PARTS)})


def _part(evaluated: Mapping[str, Number], prefix: str) -> dict[str, Any]:
    policies = {
        model: {
            **_section(evaluated, f"{prefix}policy.{model}.", tuple(f"{name}{end}" for name in POLICY for end in ENDS)),
            "counts": _section(evaluated, f"{prefix}policy.{model}.counts.", COUNTS),
        }
        for model in ("base", "aligned")
    }
    return {"policy": policies, "reward": _section(evaluated, f"{prefix}reward.", ACC)}


def _section(values: Mapping[str, Number], prefix: str, names: tuple[str, ...]) -> dict[str, Number]:
    return {name: values.get(prefix + name) for name in names}
