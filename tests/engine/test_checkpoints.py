"""What counts as a checkpoint, in folders made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.engine import checkpoints
from components.engine.checkpoints import COMMITTED, commit, newest, read, remove_finished, rotate, scratch_folder
from components.engine.ranks import RankContext
from tests.engine.conftest import toy_settings


def make(scratch: Path, step: int, *, committed: bool = True) -> Path:
    folder = scratch / f"checkpoint-{step}"
    (folder / "inner").mkdir(parents=True)
    (folder / "weights").write_bytes(b"weights of step %d" % step)
    (folder / "inner" / "state").write_bytes(b"state")
    if committed:
        commit(folder, step, world=2, extra={"critiques": f"epoch-{step}.json"})
    return folder


def test_newest_committed_checkpoint_is_read_with_its_extra(tmp_path: Path) -> None:
    for step in (8, 100, 20):
        make(tmp_path, step)
    checkpoint = newest(tmp_path, RankContext(), print)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.world, checkpoint.extra) == (100, 2, {"critiques": "epoch-100.json"})


def test_an_unfinished_checkpoint_is_removed_with_a_reason(tmp_path: Path) -> None:
    make(tmp_path, 4)
    unfinished = make(tmp_path, 8, committed=False)
    messages: list[str] = []
    checkpoint = newest(tmp_path, RankContext(), messages.append)
    assert checkpoint is not None
    assert checkpoint.step == 4
    assert messages == ["checkpoint-8 is not used: it was not finished"]
    assert not unfinished.exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "weights").write_bytes(b"Weights of step 8"), "weights is damaged"),
        (lambda folder: (folder / "weights").write_bytes(b""), "weights has 0 bytes, not 17"),
        (lambda folder: (folder / "inner" / "state").unlink(), "inner/state is missing"),
        (lambda folder: (folder / COMMITTED).write_text('{"step": 8'), "Expecting"),
    ],
    ids=["a flipped bit", "truncated", "a missing file", "a torn mark"],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage, reason: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path, 4)
    damage(make(tmp_path, 8))
    messages: list[str] = []
    checkpoint = newest(tmp_path, RankContext(), messages.append)
    assert checkpoint is not None
    assert checkpoint.step == 4
    assert reason in messages[0]


def test_with_no_whole_checkpoint_there_is_none(tmp_path: Path) -> None:
    make(tmp_path, 4, committed=False)
    assert newest(tmp_path, RankContext(), lambda _: None) is None


def test_the_mark_lists_every_file_with_size_and_digest(tmp_path: Path) -> None:
    mark = json.loads((make(tmp_path, 8) / COMMITTED).read_text())
    assert set(mark["files"]) == {"weights", "inner/state"}
    assert mark["files"]["inner/state"]["bytes"] == 5
    assert read(tmp_path / "checkpoint-8").step == 8


def test_rotation_keeps_newest_committed_and_unfinished_folders(tmp_path: Path) -> None:
    for step in (4, 8, 12, 100):
        make(tmp_path, step)
    make(tmp_path, 104, committed=False)
    rotate(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-104", "checkpoint-12"]


def test_other_key_setting_or_rank_count_has_its_own_scratch(tmp_path: Path) -> None:
    def folder(key: str, **training: object) -> Path:
        settings = toy_settings(**training)
        return scratch_folder(Checkout(tmp_path), "align", key, settings.training, settings.alignment)

    assert folder("a") == folder("a")
    assert len({folder("a"), folder("b"), folder("a", ranks=1), folder("a", engine="ddp"), folder("a", seed=1)}) == 5
    assert folder("a") == folder("a", checkpoint_every="7 min", keep_checkpoints=5)


def test_scratch_of_finished_runs_but_this_one_is_removed(tmp_path: Path) -> None:
    root = checkpoints.scratch_root(Checkout(tmp_path), "align")
    for name in ("finished", "present", "killed"):
        (root / name).mkdir(parents=True)
        if name != "killed":
            (root / name / checkpoints.FINISHED).write_text("{}")
    assert remove_finished(Checkout(tmp_path), "align", but=root / "present") == [root / "finished"]
    assert sorted(path.name for path in root.iterdir()) == ["killed", "present"]
