"""Writes the rows of data/preferences in another format, with copies of their media, into a folder of their own.

What a format can't hold (turns, several pictures, scores) is counted and left out, row by row.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.errors import UserError
from components.files import write_json
from components.preferences.faults import RowError
from components.preferences.formats.detection import format_named
from components.preferences.formats.mm_rlhf import MmRlhf
from components.preferences.formats.pieces import Format, Ranked
from components.preferences.importing.library import Library
from components.preferences.json_rows import read_rows

FILES = {"mm_rlhf": "data.jsonl", "mm_rlhf_pairs": "dpo_pairs.jsonl"}  # the release's names; all others are rows.jsonl
OTHER_FILE = "rows.jsonl"
PLACES = 5
# LLaMA-Factory finds a data set by this description beside it.
_LLAMA_FACTORY = {
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {
        "messages": "conversations",
        "chosen": "chosen",
        "rejected": "rejected",
        "system": "system",
        "images": "images",
        "videos": "videos",
    },
}


@dataclass
class ExportReport:
    """What an export wrote: queries read, rows and pairs written, media copied, and queries left out by reason with the first places."""

    format: str
    wrote: str
    queries: int = 0
    rows: int = 0
    pairs: int = 0
    media: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)
    left_out_count: int = 0

    def lines(self) -> list[str]:
        """All of it, for a person."""
        lines = [f"{self.wrote}: {self.rows:,} rows with {self.pairs:,} pairs of {self.queries:,} queries, {self.media:,} media"]
        if self.left_out_count:
            lines.append(f"{self.left_out_count:,} queries left out, which {self.format} can't hold:")
            lines += [f"  {reason}: {', '.join(places)}" for reason, places in sorted(self.left_out.items())]
        return lines


def export_preferences(checkout: Checkout, format_name: str, out: Path, rows: str = "data.jsonl") -> ExportReport:
    """Write the queries of data/preferences/`rows` into the folder `out`, whole or not at all. Raises UserError."""
    source = checkout.preferences / rows
    if not source.is_file():
        raise UserError(f"data/preferences/{rows} is missing: there is nothing to export")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists: name a new folder with --out")
    format_ = format_named(format_name)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    name = FILES.get(format_.name, OTHER_FILE)
    report = ExportReport(format_.name, f"{out}/{name}")
    library = Library(checkout.preferences, partial, partial, own_names=True)
    with (partial / name).open("w", encoding="utf-8") as stream:
        for row in _rows(source, format_, library, report):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    if not report.rows:
        raise UserError("\n".join([f"nothing was exported: no query of data/preferences/{rows} fits", *report.lines()[1:]]))
    if format_.name == "llama_factory":
        write_json(partial / "dataset_info.json", {out.name: {"file_name": name, **_LLAMA_FACTORY}})
    report.media = sum(1 for path in partial.rglob("*") if path.is_file() and path.parent != partial)
    if out.is_dir():
        out.rmdir()
    partial.rename(out)
    return report


def _rows(source: Path, format_: Format, library: Library, report: ExportReport) -> Iterator[dict[str, Any]]:
    reader = MmRlhf()
    for item in read_rows(source):
        try:
            if item.fault is not None:
                raise item.fault
            assert item.row is not None
            report.queries += 1
            query = reader.read(item.row)
            assert isinstance(query, Ranked)
            rows = format_.write(query)
            for medium in query.prompt.media:
                library.store(medium, medium.kind)
        except RowError as fault:
            report.left_out_count += 1
            places = report.left_out.setdefault(str(fault), [])
            if len(places) < PLACES:
                places.append(f"{source.name}:{item.number}")
            continue
        report.rows += len(rows)
        report.pairs += len(query.pairs())
        yield from rows
