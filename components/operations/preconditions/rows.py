"""Rows to train on lie in data/preferences. Another base than the bundled one trains on the bundled rows only when somebody says so."""

from __future__ import annotations

import json
from pathlib import Path

from components.checkout import Checkout
from components.operations.doctor.findings import Finding, ok, problem
from components.operations.preconditions.situation import Situation

ROWS = "data/preferences/data.jsonl"
BUNDLE = Path("infra/bundled-data/files/md5")  # the remote `bundled`: lists of files end in .dir


def rows(situation: Situation) -> Finding:
    """data/preferences has rows, and they are not the bundled ones where the base is another model."""
    path = situation.checkout.root / ROWS
    bundled = bundled_files(situation.checkout)
    if not path.is_file():
        if not situation.arrives(ROWS):
            return problem(
                f"{ROWS} is missing", "put one JSON object a row there (docs/data-format.md), or fetch your data: dvc pull data.dvc"
            )
        recorded = situation.data.version if situation.data is not None else None
        toy = recorded is not None and _object(situation.checkout, recorded).is_file()
    else:
        toy = "preferences/data.jsonl" in bundled and _md5(path) == bundled["preferences/data.jsonl"]
    if toy and not situation.bundled_rows and not _is_bundled_base(situation, bundled):
        return problem(
            f"{ROWS} holds the bundled rows, which were written for the bundled toy model and not for {situation.settings.model.base}",
            "put your own rows there (docs/data-format.md); or, to try the pipeline on the bundled rows, run with --bundled-rows",
        )
    return ok(f"{ROWS} {'is there' if path.is_file() else 'comes with the data, which the run fetches first'}")


def bundled_files(checkout: Checkout) -> dict[str, str]:
    """The md5 of each file that the repository ships as data/, by its name there; empty without the remote's folder."""
    files: dict[str, str] = {}
    for path in sorted((checkout.root / BUNDLE).glob("*/*.dir")):
        files |= {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text(encoding="utf-8"))}
    return files


def _is_bundled_base(situation: Situation, bundled: dict[str, str]) -> bool:
    """Whether `model.base` is the bundled model, by its configuration: its weights may have been trained further."""
    base = situation.settings.model.base
    config = situation.checkout.root / base / "config.json"
    if not config.is_file():
        return situation.arrives(base.as_posix())
    return _md5(config) == bundled.get("base/config.json")


def _object(checkout: Checkout, value: str) -> Path:
    return checkout.root / BUNDLE / value[:2] / value[2:]


def _md5(path: Path) -> str:
    import hashlib

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
