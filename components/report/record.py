"""The files of a run, for the report.

- The report reads only files of the run in reports/summary.json: a stage that the run did not reach has files of an earlier run.
- A missing file counts as empty. `notes` names a file that can't be read, and the page renders without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.config.overrides import flatten
from components.errors import UserError
from components.files import read_json
from components.report.run_record import SUMMARY
from components.report.summary import FINISHED
from components.stages import STAGE_NAMES

Row = dict[str, Any]


def lookup(values: Any, *keys: str) -> Any:
    """The value under nested `keys`; None where one of them is absent or null."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


@dataclass
class Record:
    """One run: its summary, dvc.lock, and readers for the rest. `notes` are sentences on files that can't be read."""

    checkout: Checkout
    summary: Mapping[str, Any]
    lock: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)

    def finished(self, stage: str) -> bool:
        """Whether the outs of `stage` belong to this run: it ran, was restored or was up to date."""
        return lookup(self.summary, "stages", stage, "status") in FINISHED

    def path(self, stage: str, name: str) -> Path:
        """An out of a stage."""
        return self.checkout.artifacts / stage / name

    def metrics(self, stage: str) -> Mapping[str, Any]:
        """The flat metrics of a stage."""
        return self._object(stage, "metrics.json")

    def run(self, stage: str) -> Mapping[str, Any]:
        """A stage's notes on its run: times, git, digests."""
        return self._object(stage, "run.json")

    def lock_params(self, stage: str) -> dict[str, Any]:
        """The settings of a stage's last run, from dvc.lock, by dotted key."""
        if not self.finished(stage):
            return {}
        return flatten(lookup(self.lock, "stages", stage, "params", "params.yaml") or {})

    def table(self, stage: str, name: str, *columns: str) -> list[Row]:
        """The rows of a stage's Parquet table."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.path(stage, name)
        if not self.finished(stage) or not path.is_file():
            return []
        try:
            rows: list[Row] = pq.read_table(path, columns=list(columns)).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            self._unreadable(path, error)
            return []
        return rows

    def lines(self, stage: str, name: str) -> list[Row]:
        """The objects of a stage's JSONL file."""
        path = self.path(stage, name)
        if not self.finished(stage) or not path.is_file():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (ValueError, OSError) as error:
            self._unreadable(path, error)
            return []

    def _object(self, stage: str, name: str) -> Mapping[str, Any]:
        path = self.path(stage, name)
        if not self.finished(stage) or not path.is_file():
            return {}
        try:
            values: Mapping[str, Any] = read_json(path)
        except (ValueError, OSError) as error:
            self._unreadable(path, error)
            return {}
        return values

    def _unreadable(self, path: Path, error: Exception) -> None:
        sentence = f"{path.relative_to(self.checkout.root)} can't be read ({type(error).__name__}), so the page lacks its content."
        if sentence not in self.notes:
            self.notes.append(sentence)


def read_record(checkout: Checkout) -> Record:
    """Read the record of the last run of a checkout. Raises UserError when there is none."""
    import yaml

    from components.tracking.provenance import LOCK, read_yaml

    path = checkout.root / SUMMARY
    if not path.is_file():
        raise UserError(f"{SUMMARY} is missing, so there is no run to report: run `mmalign run` first")
    try:
        summary = read_json(path)
    except ValueError as error:
        raise UserError(f"{SUMMARY} is not valid JSON ({error}): run `mmalign run`, which writes a new one") from error
    if not isinstance(summary, dict) or not isinstance(summary.get("stages"), dict):
        raise UserError(f"{SUMMARY} is not a summary of a run (it has no 'stages'): run `mmalign run`, which writes a new one")
    try:
        return Record(checkout, summary, read_yaml(checkout.root / LOCK))
    except yaml.YAMLError:
        return Record(checkout, summary, {}, [f"{LOCK} is not valid YAML, so the page lacks DVC's hashes and the stages' settings."])


def reached(record: Record) -> list[str]:
    """The stages whose outs belong to this run, in order."""
    return [stage for stage in STAGE_NAMES if record.finished(stage)]
