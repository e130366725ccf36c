"""Rows to train on lie in data/preferences. Another base than the bundled one trains on the bundled rows only when somebody says so."""

from __future__ import annotations

from pathlib import Path

from components.checkout import Checkout
from components.operations.doctor.findings import Finding, ok, problem, warning
from components.operations.preconditions.situation import Situation
from components.storage.bundled import REMOTE, bundled_files, md5, mixture

ROWS = "data/preferences/data.jsonl"


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
        toy = "preferences/data.jsonl" in bundled and md5(path) == bundled["preferences/data.jsonl"]
    if toy and not situation.bundled_rows and not _is_bundled_base(situation, bundled):
        return problem(
            f"{ROWS} holds the bundled rows, which were written for the bundled toy model and not for {situation.settings.model.base}",
            "put your own rows there (docs/data-format.md); or, to try the pipeline on the bundled rows, run with --bundled-rows",
        )
    return ok(f"{ROWS} {'is there' if path.is_file() else 'comes with the data, which the run fetches first'}")


def bundled_files_apart(situation: Situation) -> Finding:
    """No bundled held-out rows, ground truth or media lie beside a team's own rows."""
    mixed = mixture(situation.checkout)
    if mixed is None:
        return ok("no bundled file lies beside own rows")
    return warning(mixed.sentence(), "remove what is bundled, and only that, with `mmalign data new`")


def _is_bundled_base(situation: Situation, bundled: dict[str, str]) -> bool:
    """Whether `model.base` is the bundled model, by its configuration: its weights may have been trained further."""
    base = situation.settings.model.base
    config = situation.checkout.root / base / "config.json"
    if not config.is_file():
        return situation.arrives(base.as_posix())
    return md5(config) == bundled.get("base/config.json")


def _object(checkout: Checkout, value: str) -> Path:
    return checkout.root / REMOTE / value[:2] / value[2:]
