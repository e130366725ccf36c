"""The result of a run in one sentence, with its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.checkout import Checkout
from components.files import read_json
from components.report.gate import decisive
from components.report.record import Record, lookup
from components.report.wording import capitalized, cut, duration, without_escapes

Tone = Literal["good", "bad", "warn", "plain"]
MODELS = {"mm-policy": "the aligned policy", "mm-reward": "the reward model"}
VERDICT_WORDS: dict[str, tuple[Tone, str]] = {
    "promoted": ("good", "promoted"),
    "refused": ("warn", "refused"),
    "nothing_new": ("plain", "nothing new"),
}
LOG_LINES = 25
LOG_BYTES = 200_000  # read from a log's end


@dataclass(frozen=True)
class ModelVerdict:
    """The gate's verdict on one model, and its version in the registry."""

    model: str
    tone: Tone
    word: str
    registered: str | None
    reasons: list[str]  # those that decided, where the verdict records its rules
    others: int = 0  # reasons that the table of rules has


@dataclass(frozen=True)
class Verdict:
    """The sentence at the top of the page; a failed run has its cause, its log's path and the log's last lines."""

    tone: Tone
    sentence: str
    models: list[ModelVerdict]
    cause: str | None = None
    log: str | None = None
    log_end: str | None = None


def read_verdict(record: Record) -> Verdict:
    """The result of a run."""
    summary = record.summary
    status, took = summary.get("status"), duration(summary.get("seconds"))
    after = f" after {took}" if took else ""
    models = [verdict for model in MODELS if (verdict := _model(summary, model)) is not None]
    if status == "ok":
        return Verdict(*_decided(summary), models)
    if status == "running":
        return Verdict("warn", "The run has not ended: this page shows its results so far.", models)
    stage = summary.get("failed_stage")
    if status == "cancelled":
        where = f" in stage {stage}" if stage else ""
        return Verdict("warn", f"The run was cancelled{where}{after}; the next run continues from there.", models, *_failure(record))
    sentence = f"Stage {stage} failed{after}: this run produced no model." if stage else f"The run failed{after}."
    if stage == "evaluate":
        sentence = f"Stage {stage} failed{after}: the model of this run is not judged."
    return Verdict("bad", sentence, models, *_failure(record))


def _decided(summary: Mapping[str, Any]) -> tuple[Tone, str]:
    """Tone and sentence of a run that ended well."""
    verdict = lookup(summary, "gate", "mm-policy", "verdict")
    version = lookup(summary, "registry", "mm-policy", "version")
    champion = lookup(summary, "gate", "mm-policy", "champion", "version")
    named = f"mm-policy version {version}" if version is not None else "the aligned policy"
    if verdict == "promoted":
        moved = lookup(summary, "gate", "promoted") is not False
        return "good", f"Promoted: {named} is the new champion." if moved else f"{capitalized(named)} passed the gate."
    if verdict == "refused":
        stays = f"version {champion} stays champion" if champion is not None else "the champion does not change"
        return "warn", f"Refused: {named} is not promoted, and {stays}."
    if verdict == "nothing_new":
        return "plain", f"Nothing new to promote: {named} has its verdict already."
    if lookup(summary, "gate", "mm-policy", "reasons"):
        return "warn", "The run succeeded, but its models were not judged."
    return "plain", "The run succeeded; no gate has judged its models."


def _model(summary: Mapping[str, Any], model: str) -> ModelVerdict | None:
    verdict = lookup(summary, "gate", model, "verdict")
    version, aliases = (lookup(summary, "registry", model, key) for key in ("version", "aliases"))
    reasons, others = decisive(lookup(summary, "gate", model))
    if verdict is None and version is None and not reasons:
        return None
    tone, word = VERDICT_WORDS.get(str(verdict), ("plain", "not judged" if verdict is None else str(verdict)))
    names = f" ({', '.join(map(str, aliases))})" if aliases else ""
    return ModelVerdict(model, tone, word, None if version is None else f"version {version}{names}", reasons, others)


def _failure(record: Record) -> tuple[str | None, str | None, str | None]:
    """A stage's mistake, the log's path, and the log's last lines."""
    stage, log = record.summary.get("failed_stage"), record.summary.get("log")
    noted = record.checkout.attempts / f"{stage}.json"
    cause = None
    if isinstance(stage, str) and "/" not in stage and noted.is_file():
        try:
            cause = lookup(read_json(noted), "mistake")
        except (ValueError, OSError):
            pass  # a kill during the write left no cause
    return (
        cause if cause is None else str(cause),
        None if log is None else str(log),
        None if log is None else _end(record.checkout, str(log)),
    )


def _end(checkout: Checkout, log: str) -> str | None:
    """The last lines of a log inside the checkout."""
    path = (checkout.root / log).resolve()
    if not path.is_relative_to(checkout.root.resolve()) or not path.is_file():
        return None
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - LOG_BYTES))
        text = without_escapes(stream.read().decode("utf-8", "replace"))
    return "\n".join(cut(line, 400) for line in text.rstrip().split("\n")[-LOG_LINES:])
