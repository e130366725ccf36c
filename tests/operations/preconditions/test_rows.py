from __future__ import annotations

import shutil
from pathlib import Path

from components.operations.preconditions.rows import rows
from tests.checkout import write_base
from tests.operations.preconditions.conftest import Situated

OTHER = {"model.base": "data/models/Other-7B"}


def other_base(checkout: Path) -> None:
    write_base(checkout / "data/models/Other-7B")
    config = checkout / "data/models/Other-7B/config.json"
    config.write_text(config.read_text() + " ")


def test_bundled_rows_fit_the_bundled_base(situated: Situated) -> None:
    assert rows(situated()).state == "ok"


def test_bundled_rows_for_another_base_are_refused(situated: Situated, checkout: Path) -> None:
    other_base(checkout)
    finding = rows(situated(OTHER))
    assert finding.state == "problem"
    assert "holds the bundled rows, which were written for the bundled toy model and not for data/models/Other-7B" in finding.text
    assert "--bundled-rows" in str(finding.cure)
    assert rows(situated(OTHER, bundled_rows=True)).state == "ok"


def test_own_rows_fit_another_base(situated: Situated, checkout: Path) -> None:
    other_base(checkout)
    (checkout / "data/preferences/data.jsonl").write_text('{"id": "own"}\n')
    assert rows(situated(OTHER)).state == "ok"


def test_bundled_rows_yet_to_be_fetched_are_refused_too(situated: Situated, checkout: Path) -> None:
    shutil.rmtree(checkout / "data")
    assert rows(situated()).text.endswith("comes with the data, which the run fetches first")
    assert rows(situated({"model.base": "/disk/models/other"})).state == "problem"


def test_trained_copy_of_the_bundled_base_is_one(situated: Situated, checkout: Path) -> None:
    shutil.copytree(checkout / "data/base", checkout / "data/models/Other-7B")
    assert rows(situated(OTHER)).state == "ok"


def test_missing_rows_are_a_problem(situated: Situated, checkout: Path) -> None:
    (checkout / "data/preferences/data.jsonl").unlink()
    (checkout / "data/preferences/own.jsonl").write_text("{}\n")  # so the run commits and fetches nothing
    finding = rows(situated())
    assert finding.state == "problem"
    assert "docs/data-format.md" in str(finding.cure)
