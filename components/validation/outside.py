"""Validation of files outside the pipeline: any file or folder of rows, with its media beside it. Nothing is written but what is remembered.

The checks are those of the stage, but for Great Expectations' suites, which are about the batch that a run trains on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import UserError
from components.preferences.formats.detection import FORMATS, seems
from components.preferences.json_rows import read_rows
from components.validation.agreement import check_agreement
from components.validation.intake import HeldoutContent, Intake, read_file
from components.validation.leakage import check_leakage, find_leakage
from components.validation.metrics import metrics_of_intakes
from components.validation.quarantine import KINDS, Refusal, check_share
from components.validation.reader import Reader
from components.validation.splitting import tied_rows

if TYPE_CHECKING:
    from components.config.validate import ValidateSettings

OWN_FORMAT = "mm_rlhf"
SAMPLE = 64  # rows that tell a file's format
TRAIN, HELDOUT = "data.jsonl", "heldout.jsonl"
SUFFIXES = (".jsonl", ".json", ".ndjson")


@dataclass
class FileReport:
    """What validation has to say of one file. `problems` are sentences that would end the stage; `formats` those that the file seems to be in."""

    file: str
    rows: int = 0
    usable: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    formats: tuple[str, ...] = ()
    metrics: dict[str, float | int | None] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The report for scripts."""
        kinds = Counter(refusal.kind for refusal in self.refusals)
        refused = [{name: getattr(item, name) for name in ("line", "field", "kind", "reason")} for item in self.refusals]
        return {
            "file": self.file,
            "format": list(self.formats),
            "rows": self.rows,
            "usable": self.usable,
            "refused": refused,
            "kinds": dict(kinds.most_common()),
            "problems": self.problems,
            "metrics": self.metrics,
        }

    def counts(self) -> str:
        """The refused rows by kind, in words."""
        return ", ".join(f"{count} {KINDS[kind]}" for kind, count in Counter(item.kind for item in self.refusals).most_common())


def files_of(path: Path) -> list[Path]:
    """The files of rows that a path names: itself, or those of a folder, held-out rows first. Raises UserError where there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} does not exist: name a file of rows, or a folder with {TRAIN}")
    rows = [path / name for name in (HELDOUT, TRAIN) if (path / name).is_file()]
    rows = rows or sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not rows:
        raise UserError(f"{path} holds no file of rows (*{', *'.join(SUFFIXES)}): name one")
    return rows


def validate_files(path: Path, reader_of: Callable[[Path], Reader]) -> list[FileReport]:
    """Validate the files that a path names; `reader_of` makes a reader for a folder of media. Raises UserError where there are none."""
    files = files_of(path)
    reader = reader_of(files[0].parent)
    reports: list[FileReport] = []
    heldout: Intake | None = None
    for file in files:
        report = FileReport(str(file))
        reports.append(report)
        is_heldout = file.name == HELDOUT and len(files) > 1
        content = HeldoutContent() if heldout is None else HeldoutContent.of(heldout.summaries)
        try:
            intake = read_file(reader, file, str(file), "heldout" if is_heldout else "train", content)
        except UserError as error:
            report.problems.append(str(error))
            report.formats = formats_of(file)
            continue
        _describe(report, intake, reader.checks.limits)
        if heldout is not None and intake.summaries and heldout.summaries:
            leakage = find_leakage(intake.summaries, heldout.summaries)
            reports[0].metrics |= leakage.metrics()
            _note(reports[0], partial(check_leakage, heldout.file, leakage, reader.checks.limits.max_leaked_share))
        heldout = intake if is_heldout else heldout
    return reports


def formats_of(file: Path) -> tuple[str, ...]:
    """The formats that a file's first rows seem to be in."""
    return seems([line.row for line in islice(read_rows(file), SAMPLE) if line.row is not None])


def advice(report: FileReport) -> str | None:
    """What to do with a file in another format."""
    if not report.formats or OWN_FORMAT in report.formats:
        return None
    titles = " or ".join(f"{name} ({FORMATS[name].title})" for name in report.formats)
    return f"{report.file} seems to be in the format {titles}: mmalign data import {report.file}"


def _describe(report: FileReport, intake: Intake, limits: ValidateSettings) -> None:
    report.rows, report.usable, report.formats = intake.rows, len(intake.summaries), formats_of(Path(report.file))
    report.refusals = sorted(intake.refusals, key=lambda refusal: refusal.line)
    if not intake.rows:
        report.problems.append(f"{report.file} holds no row: put one JSON object a row there (docs/data-format.md)")
        return
    _note(report, lambda: check_share(intake.file, intake.rows, intake.refusals, limits.max_quarantined_share, "this report"))
    if not intake.summaries:
        return
    report.metrics = metrics_of_intakes([intake]) | {"independent_sets": len(tied_rows(intake.summaries))}
    _note(report, lambda: check_agreement(intake.file, intake.summaries, limits.max_contradictions))


def _note(report: FileReport, check: Callable[[], None]) -> None:
    try:
        check()
    except UserError as error:
        report.problems.append(str(error))
