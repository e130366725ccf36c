"""When checkpoints are begun and when they count: one rank here, whose files another thread writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.engine import checkpointer as module
from components.engine.checkpointer import Checkpointer
from components.engine.checkpoints import COMMITTED
from components.engine.task import EpochContext
from tests.clock import Clock
from tests.engine.conftest import toy_settings


class Writer:
    """A backend whose files the test finishes, and the files themselves."""

    def __init__(self) -> None:
        self.unfinished = False
        self.waits = 0

    def save(self, folder: Path, files: Any) -> None:
        assert files is self
        (folder / "weights").write_bytes(b"weights")

    def begin(self, folder: Path) -> None:
        self.folder = folder

    def take(self) -> dict[str, dict[str, Any]]:
        self.waits += self.unfinished
        self.unfinished = False
        return {"weights": {"bytes": 7, "sha256": "made by its rank"}}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, every: str, rank: int = 0) -> tuple[Checkpointer, Writer]:
    writer = Writer()
    monkeypatch.setattr(module, "CheckpointFiles", lambda: writer)
    context = EpochContext(rank, 1, folder, {"shift": "a"})
    return Checkpointer(toy_settings(checkpoint_every=every).training, context, writer), writer  # type: ignore[arg-type]  # a backend for its `save` alone


class Curves:
    """Rank 0's curves: counts their flushes to the disk."""

    synced = 0

    def sync(self) -> None:
        self.synced += 1


def marks(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob(f"*/{COMMITTED}"))


def test_checkpoints_by_steps_are_due_at_their_multiples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer, _ = made(tmp_path, monkeypatch, "3 steps")
    assert [checkpointer.signals(steps)[0] for steps in range(1, 8)] == [0, 0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize(("every", "seconds"), [("90 s", 90), ("2 min", 120)])
def test_checkpoints_by_time_are_due_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, every: str, seconds: int
) -> None:
    checkpointer, _ = made(tmp_path, monkeypatch, every)
    clock.now += seconds - 1
    assert checkpointer.signals(5)[0] == 0
    clock.now += 1
    assert checkpointer.signals(6)[0] == 1
    checkpointer.after_step(6, [1, 0], None, last=False)
    assert checkpointer.signals(7)[0] == 0
    clock.now += seconds
    assert checkpointer.signals(8)[0] == 1


def test_only_rank_0_says_that_one_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer, _ = made(tmp_path, monkeypatch, "1 step", rank=1)
    assert checkpointer.signals(1)[0] == 0


def test_a_written_checkpoint_counts_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer, _ = made(tmp_path, monkeypatch, "1 step")
    curves = Curves()
    checkpointer.after_step(1, [1, 0], curves, last=False)  # type: ignore[arg-type]
    mark = json.loads((tmp_path / "checkpoint-1" / COMMITTED).read_text())
    assert mark == {
        "step": 1,
        "world": 1,
        "extra": {"shift": "a"},
        "files": {"weights": {"bytes": 7, "sha256": "made by its rank"}},
    }
    assert curves.synced == 1


def test_training_continues_until_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer, writer = made(tmp_path, monkeypatch, "3 steps")
    writer.unfinished = True
    checkpointer.after_step(3, [1, 0], Curves(), last=False)  # type: ignore[arg-type]
    assert checkpointer.signals(4) == [0, 1]
    checkpointer.after_step(4, [0, 1], Curves(), last=False)  # type: ignore[arg-type]
    assert marks(tmp_path) == []
    writer.unfinished = False
    checkpointer.after_step(5, checkpointer.signals(5), Curves(), last=False)  # type: ignore[arg-type]
    assert marks(tmp_path) == ["checkpoint-3"]
    assert writer.waits == 0


def test_mark_holds_the_extra_of_its_own_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer, writer = made(tmp_path, monkeypatch, "3 steps")
    writer.unfinished = True
    checkpointer.after_step(3, [1, 0], Curves(), last=False)  # type: ignore[arg-type]
    checkpointer._context.extra["shift"] = "b"
    checkpointer.after_step(4, [0, 0], Curves(), last=False)  # type: ignore[arg-type]
    assert json.loads((tmp_path / "checkpoint-3" / COMMITTED).read_text())["extra"] == {"shift": "a"}


def test_a_due_checkpoint_waits_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer, writer = made(tmp_path, monkeypatch, "3 steps")
    writer.unfinished = True
    checkpointer.after_step(3, [1, 0], Curves(), last=False)  # type: ignore[arg-type]
    checkpointer.after_step(6, [1, 1], Curves(), last=False)  # type: ignore[arg-type]
    assert marks(tmp_path) == ["checkpoint-3", "checkpoint-6"]
    assert writer.waits == 1


@pytest.mark.parametrize("due", [0, 1])
def test_last_step_ends_with_a_committed_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, due: int) -> None:
    checkpointer, writer = made(tmp_path, monkeypatch, "3 steps")
    writer.unfinished = True
    checkpointer.after_step(3, [1, 0], Curves(), last=False)  # type: ignore[arg-type]
    begin = writer.begin

    def slow(folder: Path) -> None:
        begin(folder)
        writer.unfinished = True

    writer.begin = slow  # type: ignore[method-assign]
    checkpointer.after_step(4, [due, 1], Curves(), last=True)  # type: ignore[arg-type]
    assert marks(tmp_path) == ["checkpoint-3", "checkpoint-4"]
    assert writer.waits == 2


def test_remains_of_an_earlier_attempt_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1/old").write_bytes(b"old")
    checkpointer, _ = made(tmp_path, monkeypatch, "1 step")
    checkpointer.after_step(1, [1, 0], Curves(), last=False)  # type: ignore[arg-type]
    assert sorted(path.name for path in (tmp_path / "checkpoint-1").iterdir()) == [COMMITTED, "weights"]


def test_only_rank_0_writes_the_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    checkpointer, _ = made(tmp_path, monkeypatch, "1 step", rank=1)
    checkpointer.after_step(1, [1, 0], None, last=True)
    assert marks(tmp_path) == []


def test_old_checkpoints_are_removed_as_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer, _ = made(tmp_path, monkeypatch, "1 step")
    for steps in range(1, 5):
        checkpointer.after_step(steps, [1, 0], Curves(), last=False)  # type: ignore[arg-type]
    assert marks(tmp_path) == ["checkpoint-3", "checkpoint-4"]
