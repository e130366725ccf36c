"""Who judged a metric, and how often that judge errs by its sheet (`mmalign judge calibrate`).

`read_judgements` counts and reads at the end of a run, for `judges` in reports/summary.json; a later change of the sheets changes no record. The
page and the terminal read it from there.

The answers' table names who decided whether an answer is good. Descriptions are read by the ground truth and by the model judge alone, so the
judge of one that the ground truth did not decide is the model. Degenerate answers are told by one rule for all judges, in the sheet of `rules`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.evaluation.error_sheets import Sheets, judge_key
from components.evaluation.verdict import GROUND_TRUTH, MODEL, REWARD_MODEL, RULES
from components.files import read_json
from components.report.estimates import Estimate
from components.report.summary import JUDGED
from components.report.wording import count

Row = Mapping[str, Any]
NAMES = {GROUND_TRUTH: "ground truth", RULES: "rules", MODEL: "model judge", REWARD_MODEL: "reward model", "": "no single judge"}
COLUMNS = ("category", "right", "safe", "refused", "hallucinated", "degenerate", "judge")
TASKS = {  # of the error sheets
    "conversation": "right",
    "unsafe_rate": "safe",
    "over_refusal_rate": "refused",
    "hallucination_rate": "hallucinated",
    "degenerate_rate": "degenerate",
    "accuracy": None,  # of all kinds
    "win_rate": None,
}
QUESTIONS = {
    "conversation": "is the answer right",
    "unsafe_rate": "is the answer safe",
    "over_refusal_rate": "is it a refusal",
    "hallucination_rate": "does it state something false",
    "degenerate_rate": "is it degenerate",
    "accuracy": "is it good: right, or safe",
}


def good(row: Row) -> bool | None:
    """Whether an answer is good: safe for harmful requests, right for all others."""
    outcome: bool | None = row["right"] if row["safe"] is None else row["safe"]
    return outcome


def _float(value: bool | None) -> float | None:
    return None if value is None else float(value)


OUTCOMES: dict[str, Callable[[Row], float | None]] = {  # of a row of answers.parquet
    "conversation": lambda row: _float(row["right"]) if row["category"] in {"long", "short"} else None,
    "unsafe_rate": lambda row: None if row["safe"] is None else 1.0 - row["safe"],
    "over_refusal_rate": lambda row: _float(row["refused"]) if row["safe"] is None else None,
    "hallucination_rate": lambda row: _float(row["hallucinated"]),
    "degenerate_rate": lambda row: _float(row["degenerate"]),
    "accuracy": lambda row: _float(good(row)),
}


def read_judgements(checkout: Checkout) -> dict[str, list[dict[str, Any]]]:
    """Metric to its judges: the answers of both policies that each decided, and its error; empty where the table can't be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = checkout.artifact("evaluate", "answers.parquet")
    if not path.is_file():
        return {}
    try:
        rows: list[Row] = pq.read_table(path, columns=list(COLUMNS)).to_pylist()
        metrics, run = (_read(path.parent / name) for name in ("metrics.json", "run.json"))
    except (pa.ArrowInvalid, OSError, ValueError):
        return {}
    models = {MODEL: str((run.get("digests") or {}).get("judge.model", ""))}
    judges = {name: _judges(name, rows, checkout.judge_sheets, models) for name in OUTCOMES}
    judges["win_rate"] = judges["accuracy"]
    if metrics.get("policy.win_rate_by_reward_model"):
        judges["win_rate"] = [_reward_model(metrics)]
    return judges


def _read(path: Path) -> Mapping[str, Any]:
    values: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    return values


def _judges(name: str, rows: list[Row], sheets: Path, models: Mapping[str, str]) -> list[dict[str, Any]]:
    counts = Counter(_judge_of(name, row) for row in rows if OUTCOMES[name](row) is not None)
    return [{"judge": judge, "answers": answers, **_error(judge, name, sheets, models)} for judge, answers in counts.most_common()]


def _judge_of(name: str, row: Row) -> str:
    if name == "degenerate_rate":
        return RULES
    if name == "hallucination_rate" and row["judge"] != GROUND_TRUTH:
        return MODEL
    return row["judge"] or ""


def _error(judge: str, name: str, folder: Path, models: Mapping[str, str]) -> dict[str, Any]:
    """Agreement, sensitivity and specificity of a judge on a metric's question, the number of labels, and why one is missing."""
    path, task = folder / f"{judge}.json", TASKS[name]
    sheet = _read(path) if judge else {}
    current = sheet and sheet.get("key") == judge_key(judge, models.get(judge, ""))
    groups = (sheet if task is None else sheet.get("tasks", {}).get(task, {})) if current else {}
    shares = {key: groups.get("overall", {}).get(key) for key in ("agreement", "sensitivity", "specificity")}
    missing = Sheets(folder, models).error(judge, task) if task is not None and judge else None  # type: ignore[arg-type]
    if not judge:
        missing = "the table of answers names no judge of these"
    elif task is None and shares["agreement"] is None:
        missing = (
            f"judge '{judge}' has no error sheet of its present code: run `mmalign judge calibrate --judge {judge} --labels FILE --save`"
        )
    return {
        **{key: None if share is None else {end: share[end] for end in ("value", "low", "high")} for key, share in shares.items()},
        "labels": None if shares["agreement"] is None else shares["agreement"]["n"],
        "missing": missing if isinstance(missing, str) else None,
    }


def _reward_model(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The reward model as a judge of two answers: its error is its ACC on held-out pairs, and the policy was trained on its scores."""
    acc = {end or "value": metrics.get(f"reward.acc{'_' if end else ''}{end}") for end in ("", "low", "high")}
    agreement = None if acc["value"] is None else acc
    empty = {"sensitivity": None, "specificity": None, "missing": None}
    return {
        "judge": REWARD_MODEL,
        "answers": metrics.get("policy.compared_reward_model"),
        "agreement": agreement,
        "labels": metrics.get("reward.pairs"),
        **empty,
    }


@dataclass(frozen=True)
class JudgedBy:
    """A judge of a metric, for people; `missing` says why its error is not measured."""

    name: str
    question: str
    answers: int | None
    agreement: Estimate
    sensitivity: Estimate
    specificity: Estimate
    labels: int | None
    missing: str | None

    @property
    def error(self) -> str:
        """The known error in a few words."""
        if self.agreement.value is None:
            return "error not measured"
        ends = "" if self.agreement.low is None else f" ({self.agreement.interval})"
        of = "held-out pairs of ranked responses" if self.name == NAMES[REWARD_MODEL] else "labels"
        return f"agrees with {self.agreement.text} %{ends} of {count(self.labels)} {of}"


def judges_of(summary: Mapping[str, Any], name: str) -> list[JudgedBy]:
    """The judges of a metric by a run's summary; none where it records none."""
    recorded = summary.get("judges")
    entries = recorded.get(name) if isinstance(recorded, Mapping) else None
    return [
        JudgedBy(
            NAMES.get(str(entry.get("judge")), str(entry.get("judge"))),
            QUESTIONS.get(name, ""),
            entry.get("answers"),
            _estimate(entry.get("agreement")),
            _estimate(entry.get("sensitivity")),
            _estimate(entry.get("specificity")),
            entry.get("labels"),
            entry.get("missing"),
        )
        for entry in entries or ()
    ]


def judge_table(summary: Mapping[str, Any]) -> list[JudgedBy]:
    """Every judge on every question of the run."""
    return [judge for name in JUDGED if name in QUESTIONS and name != "accuracy" for judge in judges_of(summary, name)]


def _estimate(share: Mapping[str, Any] | None) -> Estimate:
    return Estimate(None) if share is None else Estimate.shared(share.get("value"), share.get("low"), share.get("high"))
