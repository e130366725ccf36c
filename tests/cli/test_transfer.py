"""`mmalign data import`, as a person at a terminal and as a script call it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest

from components.stages import command
from tests.checkout import ROOT, clean_environment
from tests.preferences.conftest import save_media, write_lines
from tests.preferences.formats.samples import AMBIGUOUS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("dvc.yaml", "params.yaml", "ops.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    save_media(tmp_path / "theirs")
    write_lines(tmp_path / "theirs/rows.jsonl", AMBIGUOUS[0][0])
    return tmp_path


def words(*arguments: str) -> list[str]:
    return [*command("cli"), "data", "import", "theirs/rows.jsonl", *arguments]


def test_script_gets_sentence_and_code_2(folder: Path) -> None:
    environment = clean_environment() | {"PYTHONPATH": str(ROOT)}
    completed = subprocess.run(words(), cwd=folder, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert completed.returncode == 2
    assert "fits 2 formats (mm_rlhf_pairs: " in completed.stderr
    assert "--format" in completed.stderr
    named = subprocess.run(
        words("--format", "trl", "--json"),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert json.loads(named.stdout)["format"] == "trl"


def test_person_at_terminal_is_asked(folder: Path) -> None:
    main, terminal = pty.openpty()
    try:
        process = subprocess.Popen(
            words(),
            cwd=folder,
            env=clean_environment() | {"PYTHONPATH": str(ROOT)},
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.write(main, b"trl\n")
        output, errors = process.communicate(timeout=120)
    finally:
        os.close(main)
        os.close(terminal)
    assert process.returncode == 0, errors
    assert "Format (mm_rlhf_pairs, trl)" in errors
    assert "1 queries with 1 pairs" in output
