"""Stage `validate`: turns untrusted rows into tables that the other stages can trust.

Reads   data/preferences/data.jsonl, heldout.jsonl (or splits a part off), the media they name, expanded.jsonl where there is one, the base's
        tokenizer and processor
Does    refuses bad rows one by one with line and reason, a file with too many of them whole, and checks the rest as a batch
Writes  artifacts/validate/{train,heldout}/queries.parquet, expanded.parquet, quarantine.jsonl, and Great Expectations' pages in artifacts/validate-docs
Alone   mmalign stage validate

If both files contain an id, or the same media with the same prompt, the stage refuses the training row: held-out rows compare models, so that
they must stay the same and untrained.
"""

from __future__ import annotations

import difflib
import logging
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from components.checkout import IN_CHECKOUT, Checkout
from components.config.settings import Settings
from components.engine.recorder import NullRecorder, Recorder
from components.engine.result import StageResult
from components.errors import UserError
from components.preferences.record import CATEGORIES, Query, write_queries
from components.preferences.release import READ_FIELDS
from components.validation.expansions import write_expansions_of
from components.validation.intake import HeldoutContent, Intake, Validator, content_key
from components.validation.lengths import LengthCheck
from components.validation.media import MediaFolder
from components.validation.quarantine import KINDS, Refusal, check_share, write_quarantine
from components.validation.splitting import split_off
from components.validation.tables import query_table, response_table

PREFERENCES = Path("data/preferences")
OUTPUT = IN_CHECKOUT.artifact("validate")
DOCS = IN_CHECKOUT.validation_pages

log = logging.getLogger(__name__)


def run(settings: Settings, checkout: Checkout, recorder: Recorder = NullRecorder()) -> StageResult:  # noqa: B008 -- it has no state
    """Validate the checkout's preference data. Raises UserError for data that can't be used as a whole."""
    started = time.monotonic()
    folder, output = checkout.preferences, checkout.artifact("validate")
    train_file, heldout_file = folder / "data.jsonl", folder / "heldout.jsonl"
    for out in (output / "train", output / "heldout", checkout.validation_pages):
        shutil.rmtree(out, ignore_errors=True)
    (output / "quarantine.jsonl").unlink(missing_ok=True)
    _require_rows(train_file, checkout)
    media, lengths = MediaFolder(folder), _lengths(settings, checkout, folder)
    validator = Validator(settings.validate_, media, lengths)
    loaded = time.monotonic()

    intakes = []
    if heldout_file.exists():
        _require_rows(heldout_file, checkout)
        heldout_intake = validator.read(heldout_file, heldout_file.relative_to(checkout.root).as_posix(), "heldout", HeldoutContent())
        intakes.append(heldout_intake)
        heldout_content = HeldoutContent(
            {query.id for query in heldout_intake.queries}, {content_key(query) for query in heldout_intake.queries}
        )
    else:
        heldout_content = HeldoutContent()
    train_intake = validator.read(train_file, train_file.relative_to(checkout.root).as_posix(), "train", heldout_content)
    intakes.insert(0, train_intake)
    refusals = [refusal for intake in intakes for refusal in intake.refusals]
    write_quarantine(output / "quarantine.jsonl", refusals)
    for intake in intakes:
        limit, quarantine = settings.validate_.max_quarantined_share, (OUTPUT / "quarantine.jsonl").as_posix()
        check_share(intake.file, intake.rows, intake.refusals, limit, quarantine)
        _report_unread(intake)

    if len(intakes) == 2:
        train, heldout = train_intake.queries, heldout_intake.queries
    else:
        train, heldout = split_off(train_intake.queries, settings.validate_.heldout_share, train_intake.file)
    for queries, name in ((train, train_intake.file), (heldout, intakes[-1].file)):
        if not queries:
            raise UserError(f"{name} holds no usable row: see {OUTPUT}/quarantine.jsonl")
    read = time.monotonic()
    warnings = _check_batch([*train, *heldout], settings, checkout.validation_pages)
    write_queries(output / "train" / "queries.parquet", train)
    write_queries(output / "heldout" / "queries.parquet", heldout)
    expanded = write_expansions_of(train, folder, checkout.expanded, lengths)
    ended = time.monotonic()
    recorder.artifact(output / "quarantine.jsonl")
    recorder.artifact(checkout.validation_pages)
    return StageResult(
        metrics=_metrics(train, heldout, intakes, refusals, lengths.longest, warnings) | expanded,
        times={
            "load_seconds": loaded - started,
            "rows_seconds": read - loaded,
            "suites_seconds": ended - read,
            "rows_per_second": sum(intake.rows for intake in intakes) / max(read - loaded, 1e-9),
        },
    )


def _require_rows(path: Path, checkout: Checkout) -> None:
    name = path.relative_to(checkout.root).as_posix()
    if not path.is_file():
        raise UserError(f"{name} is missing: put one JSON object a row there (docs/data-format.md), or run `dvc pull data.dvc`")
    with path.open("rb") as stream:
        if not any(line.strip() for line in stream):
            raise UserError(f"{name} is empty: put one JSON object a row there (docs/data-format.md), or remove the file")


def _lengths(settings: Settings, checkout: Checkout, folder: Path) -> LengthCheck:
    base = checkout.root / settings.model.base
    if not (base / "config.json").is_file():
        raise UserError(f"model.base {settings.model.base} holds no config.json: set it in params.yaml to a checkpoint folder")
    from components.families.processing import Preprocessor

    preprocessor = Preprocessor(base, folder, settings.model, settings.features)
    return LengthCheck(preprocessor, settings.reward.instruction, settings.model.max_length)


def _report_unread(intake: Intake) -> None:
    for name, count in sorted(intake.unread.items()):
        near = difflib.get_close_matches(name, READ_FIELDS, n=1, cutoff=0.75)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        log.warning("%s: no stage reads the field %a of %d rows%s", intake.file, name, count, hint)


def _check_batch(queries: Sequence[Query], settings: Settings, docs: Path) -> int:
    """Run the suites; the number of warnings. Raises UserError when a critical expectation fails."""
    from components.validation.suites import check_tables

    findings = check_tables(query_table(queries), response_table(queries), settings.validate_, docs)
    critical = [f"{finding.table}: {finding.expected}" for finding in findings if finding.severity == "critical"]
    if critical:
        raise UserError(
            f"the data as a whole fail {len(critical)} expectations ({'; '.join(critical)}): see {DOCS}/index.html and correct the data"
        )
    warnings = [finding for finding in findings if finding.severity == "warning"]
    for finding in warnings:
        log.warning("data expectation not met: %s: %s (%s/index.html)", finding.table, finding.expected, DOCS)
    return len(warnings)


def _metrics(
    train: Sequence[Query],
    heldout: Sequence[Query],
    intakes: Sequence[Intake],
    refusals: Sequence[Refusal],
    longest: int,
    warnings: int,
) -> dict[str, float | int | None]:
    metrics: dict[str, float | int | None] = {}
    for prefix, queries in (("", train), ("heldout_", heldout)):
        categories = Counter(query.category for query in queries)
        metrics |= {
            f"{prefix}queries": len(queries),
            f"{prefix}responses": sum(len(query.responses) for query in queries),
            f"{prefix}pairs": sum(len(query.pairs()) for query in queries),
            f"{prefix}ties": sum(len(query.ties()) for query in queries),
            f"{prefix}tie_share": sum(bool(query.ties()) for query in queries) / len(queries),
            f"{prefix}text_only": sum(not query.media for query in queries),
            f"{prefix}harmful": sum(query.safety == "harmful" for query in queries),
            f"{prefix}harmless": sum(query.safety == "harmless" for query in queries),
        }
        metrics |= {f"{prefix}{category}_queries": categories[category] for category in CATEGORIES}
    kinds = Counter(refusal.kind for refusal in refusals)
    metrics |= {f"quarantined_{kind}": kinds[kind] for kind in KINDS if kinds[kind]}
    metrics |= {
        "rows": sum(intake.rows for intake in intakes),
        "quarantined": len(refusals),
        "quarantined_share": max(len(intake.refusals) / intake.rows for intake in intakes),
        "longest_tokens": longest,
        "expectation_warnings": warnings,
    }
    return metrics
