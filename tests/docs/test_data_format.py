"""The commands of docs/data-format.md, on a checkout with data of its own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks._slice import write_rows
from tests.checkout import mmalign_here
from tests.conftest import ROOT
from tests.tiny import save_checkout

PAGE = (ROOT / "docs/data-format.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split(" #")[0].split()[1:]
    for body in re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in body.splitlines()
    if line.startswith("mmalign ")
]


def row(number: int) -> dict[str, Any]:
    return {"id": f"r{number}", "question": f"What is {number}?", "models_output": ["A dog.", "A cat."], "final_ranking": [1, 2]}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> Path:
    root = tmp_path_factory.mktemp("page") / "checkout"
    root.mkdir()
    save_checkout(root, tiny_base, tiny_media)
    shutil.copy(ROOT / "dvc.yaml", root)
    write_rows(root / "own.jsonl", [row(number) for number in range(12)])
    write_rows(root / "data/preferences/data.jsonl", [row(number) for number in range(12)])
    write_rows(root / "data/preferences/heldout.jsonl", [row(number) for number in range(12, 16)])
    write_rows(root / "data/truth/truth.jsonl", [{"id": "r12", "must": [["dog"]], "must_not": []}])
    return root


def test_page_shows_commands() -> None:
    assert len(COMMANDS) >= 3
    assert {tuple(words[:2]) for words in COMMANDS} == {("data", "validate")}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command_of_the_page_works(checkout: Path, words: list[str]) -> None:
    before = sorted(path.name for path in (checkout / "data").rglob("*"))
    completed = mmalign_here(checkout, *words)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert sorted(path.name for path in (checkout / "data").rglob("*")) == before, "it writes nothing into data/"


def test_show_writes_what_the_model_is_given(checkout: Path, tmp_path: Path) -> None:
    assert "mmalign data show FILE:LINE --out DIR" in PAGE
    completed = mmalign_here(checkout, "data", "show", "data/preferences/data.jsonl:1", "--out", str(tmp_path / "shown"))
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert list((tmp_path / "shown").iterdir())
