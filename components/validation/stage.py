"""Stage `validate`: turns untrusted rows into tables that the other stages can trust.

Reads   data/preferences/data.jsonl, heldout.jsonl (or splits a part off), the media they name, expanded.jsonl where there is one, the base's
        tokenizer and processor
Does    refuses bad rows one by one with line and reason, a file with too many of them whole, and checks the rest as a batch: ranks against
        scores, held-out rows against training rows, and Great Expectations' suites
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
from collections.abc import Sequence
from pathlib import Path

from components.checkout import IN_CHECKOUT, Checkout
from components.config.settings import Settings
from components.config.validate import ValidateSettings
from components.engine.recorder import NullRecorder, Recorder
from components.engine.result import StageResult
from components.errors import UserError
from components.preferences.record import Query, with_split, write_queries
from components.preferences.release import READ_FIELDS
from components.validation.agreement import check_agreement
from components.validation.expansions import write_expansions_of
from components.validation.intake import HeldoutContent, Intake, read_file
from components.validation.leakage import check_leakage, find_leakage
from components.validation.metrics import metrics_of_intakes, metrics_of_queries
from components.validation.quarantine import HARMLESS, check_share, write_quarantine
from components.validation.reader import Reader
from components.validation.remembered import Remembered
from components.validation.rows import RowChecks
from components.validation.splitting import split_off
from components.validation.tables import query_table, response_table

OUTPUT = IN_CHECKOUT.artifact("validate")
DOCS = IN_CHECKOUT.validation_pages

log = logging.getLogger(__name__)


def run(settings: Settings, checkout: Checkout, recorder: Recorder = NullRecorder()) -> StageResult:  # noqa: B008 -- it has no state
    """Validate the checkout's preference data. Raises UserError for data that can't be used as a whole."""
    started = time.monotonic()
    folder, output = checkout.preferences, checkout.artifact("validate")
    for out in (output / "train", output / "heldout", checkout.validation_pages):
        shutil.rmtree(out, ignore_errors=True)
    (output / "quarantine.jsonl").unlink(missing_ok=True)
    checks = RowChecks.of(settings, checkout, folder)
    checks.require_base()
    remembered = Remembered(checkout.cache("validated"), checks)
    reader = Reader(checks, remembered)

    try:
        intakes = _read_files(reader, checkout)
    finally:
        reader.close()
    refusals = [refusal for intake in intakes for refusal in intake.refusals]
    write_quarantine(output / "quarantine.jsonl", refusals)
    for intake in intakes:
        check_file(intake, settings.validate_, (OUTPUT / "quarantine.jsonl").as_posix())
    read = time.monotonic()

    train, heldout, comparison = _split(intakes, settings.validate_)
    warnings = _check_batch([*train, *heldout], settings, checkout.validation_pages)
    write_queries(output / "train" / "queries.parquet", train)
    write_queries(output / "heldout" / "queries.parquet", heldout)
    expanded = write_expansions_of(train, folder, checkout.expanded, checks.lengths)
    remembered.retire()
    ended = time.monotonic()
    recorder.artifact(output / "quarantine.jsonl")
    recorder.artifact(checkout.validation_pages)
    metrics = metrics_of_queries(train, "") | metrics_of_queries(heldout, "heldout_") | metrics_of_intakes(intakes)
    return StageResult(
        metrics=metrics | comparison | {"expectation_warnings": warnings} | expanded,
        times={
            "load_seconds": reader.load_seconds,
            "rows_seconds": read - started - reader.load_seconds,
            "suites_seconds": ended - read,
            "rows_per_second": sum(intake.rows for intake in intakes) / max(read - started - reader.load_seconds, 1e-9),
        },
    )


def check_file(intake: Intake, limits: ValidateSettings, quarantine: str) -> None:
    """Log what is worth knowing of a file. Raises UserError, for the file as a whole, where it is not what training needs."""
    check_share(intake.file, intake.rows, intake.refusals, limits.max_quarantined_share, quarantine)
    _report_unread(intake)
    repeated = sum(refusal.kind == HARMLESS for refusal in intake.refusals)
    if repeated:
        log.warning("%s: %d rows repeat others under a new id, and are used once", intake.file, repeated)
    if intake.listed == "order" and limits.ranking == "auto":
        log.warning("%s: by the scores, lists in final_ranking name the best response first, and are read so", intake.file)
    if not intake.summaries:
        raise UserError(f"{intake.file} holds no usable row: see {quarantine}")
    check_agreement(intake.file, intake.summaries, limits.max_contradictions)


def _read_files(reader: Reader, checkout: Checkout) -> list[Intake]:
    """The training rows, and the held-out rows where they have a file."""
    train_file, heldout_file = (checkout.preferences / name for name in ("data.jsonl", "heldout.jsonl"))
    present = [path for path in (train_file, heldout_file) if path == train_file or path.exists()]
    for path in present:
        _require_rows(path, checkout)
    intakes: list[Intake] = []
    for path in reversed(present):
        file, split = path.relative_to(checkout.root).as_posix(), "train" if path == train_file else "heldout"
        content = HeldoutContent.of(intakes[0].summaries) if intakes else HeldoutContent()
        intakes.insert(0, read_file(reader, path, file, "train" if split == "train" else "heldout", content))
    return intakes


def _split(intakes: Sequence[Intake], limits: ValidateSettings) -> tuple[list[Query], list[Query], dict[str, float | int | None]]:
    """Training and held-out queries, and the metrics of what both sides share. Raises UserError where they share too much."""
    train, queries = intakes[0], intakes[0].queries()
    if len(intakes) == 2:
        leakage = find_leakage(train.summaries, intakes[1].summaries)
        check_leakage(intakes[1].file, leakage, limits.max_leaked_share)
        return queries, intakes[1].queries(), leakage.metrics()
    heldout = split_off(train.summaries, limits.heldout_share, train.file)
    sides = [[position for position in range(len(queries)) if (position in heldout) is side] for side in (False, True)]
    leakage = find_leakage(*([train.summaries[position] for position in side] for side in sides))
    return (
        list(with_split([queries[position] for position in sides[0]], "train")),
        list(with_split([queries[position] for position in sides[1]], "heldout")),
        leakage.metrics(),
    )


def _require_rows(path: Path, checkout: Checkout) -> None:
    name = path.relative_to(checkout.root).as_posix()
    if not path.is_file():
        raise UserError(f"{name} is missing: put one JSON object a row there (docs/data-format.md), or run `dvc pull data.dvc`")
    with path.open("rb") as stream:
        if not any(line.strip() for line in stream):
            raise UserError(f"{name} is empty: put one JSON object a row there (docs/data-format.md), or remove the file")


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
