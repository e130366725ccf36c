"""The real stages, killed with all their children and run again, end with the bits of an undisturbed run."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.files import digest_folder
from components.processes.marks import kill_all
from tests.checkout import alive, wait_for
from tests.recipe.conftest import Recipe, copy_of

STEPS_IN_FIRST_EPOCH = 6  # 96 queries, 16 a step


def kill_once(copy: Recipe, stage: str, reached: Callable[[], bool]) -> None:
    """Start a stage, and kill it with all its children once `reached` returns True."""
    command = [sys.executable, "-m", "components.cli.main", "stage", stage]
    with (copy.root / "killed.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=copy.root, env=copy.environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: reached() or process.poll() is not None, seconds=300)
        assert process.poll() is None, (copy.root / "killed.log").read_text()[-2000:]
    finally:
        process.kill()
        process.wait()
        kill_all(lambda: alive(copy.root))


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.is_file() else 0


@pytest.mark.slow
def test_killed_reward_training_resumes_to_same_bits(recipe: Recipe, tmp_path: Path) -> None:
    copy = copy_of(recipe, tmp_path / "checkout")
    shutil.rmtree(copy.root / "artifacts/reward/model")
    shutil.rmtree(copy.root / ".mmalign/scratch", ignore_errors=True)
    curves = copy.root / ".mmalign/scratch/reward"
    kill_once(copy, "reward", lambda: any(lines(path) > STEPS_IN_FIRST_EPOCH + 2 for path in curves.glob("*/curves.jsonl")))
    completed = copy.mmalign("stage", "reward")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "resum" in completed.stdout + completed.stderr
    assert digest_folder(copy.root / "artifacts/reward/model") == digest_folder(recipe.root / "artifacts/reward/model")


@pytest.mark.slow
def test_killed_critique_writing_resumes_to_same_bytes(recipe: Recipe, tmp_path: Path) -> None:
    copy = copy_of(recipe, tmp_path / "checkout")
    cache = copy.root / ".mmalign/cache/critiques.sqlite"
    cache.unlink()

    def some_are_cached() -> bool:
        if not cache.is_file():
            return False
        with sqlite3.connect(f"file:{cache}?mode=ro", uri=True) as connection:
            tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
            return any(connection.execute(f"select count(*) from {table}").fetchone()[0] for table in tables)  # noqa: S608

    kill_once(copy, "critique", some_are_cached)
    for split in ("train", "heldout"):
        (copy.root / f"artifacts/critique/{split}.parquet").unlink(missing_ok=True)
    completed = copy.mmalign("stage", "critique")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    for split in ("train", "heldout"):
        name = f"artifacts/critique/{split}.parquet"
        assert (copy.root / name).read_bytes() == (recipe.root / name).read_bytes()
