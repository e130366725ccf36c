"""The files of a checkpoint: written from copies behind training, or from the tensors themselves at once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.engine import checkpoint_files
from components.engine.checkpoint_files import CheckpointFiles, compact, copied, tensor_bytes

MEBIBYTE = 1 << 20


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is large enough for a thread."""
    monkeypatch.setattr(checkpoint_files, "SMALL_BYTES", 0)


@pytest.fixture
def writes_wait(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Files are written once the event is set."""
    event, write = threading.Event(), torch.save
    monkeypatch.setattr(torch, "save", lambda state, path: (event.wait(30), write(state, path)))
    return event


def begun(folder: Path, ranks: int = 1) -> CheckpointFiles:
    files = CheckpointFiles(ranks)
    files.begin(folder)
    return files


def read(path: Path) -> Any:
    return torch.load(path, weights_only=True)


@pytest.mark.usefixtures("all_large")
def test_a_large_file_holds_the_values_at_its_call(tmp_path: Path, writes_wait: threading.Event) -> None:
    weight = torch.ones(3)
    files = begun(tmp_path)
    files.write({"weight": weight}, tmp_path / "state.pt")
    weight += 1  # training continues
    assert files.unfinished
    writes_wait.set()
    assert set(files.take()) == {"state.pt"}
    assert torch.equal(read(tmp_path / "state.pt")["weight"], torch.ones(3))
    assert not files.unfinished


def test_a_small_file_is_there_when_its_call_returns(tmp_path: Path) -> None:
    files = begun(tmp_path)
    files.write({"weight": torch.ones(3)}, tmp_path / "state.pt")
    assert not files.unfinished
    assert torch.equal(read(tmp_path / "state.pt")["weight"], torch.ones(3))


@pytest.mark.parametrize(("free", "ranks", "behind"), [(16, 1, True), (15, 1, False), (32, 2, True), (31, 2, False)])
@pytest.mark.usefixtures("all_large")
def test_a_copy_needs_twice_its_size_for_each_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes_wait: threading.Event, free: int, ranks: int, behind: bool
) -> None:
    monkeypatch.setattr(checkpoint_files, "available_memory", lambda: (free, 1000))
    if not behind:
        writes_wait.set()
    files = begun(tmp_path, ranks)
    files.write([torch.zeros(2)], tmp_path / "state.pt")  # 8 bytes
    assert files.unfinished == behind
    writes_wait.set()
    files.take()


def test_size_at_which_a_thread_takes_over(tmp_path: Path, writes_wait: threading.Event) -> None:
    files = begun(tmp_path)
    files.write(torch.zeros(32 * MEBIBYTE, dtype=torch.uint8), tmp_path / "large.pt")
    assert files.unfinished
    writes_wait.set()
    files.take()
    files.begin(tmp_path)
    writes_wait.clear()
    thread = threading.Timer(0.2, writes_wait.set)
    thread.start()
    files.write(torch.zeros(32 * MEBIBYTE - 1, dtype=torch.uint8), tmp_path / "small.pt")
    assert writes_wait.is_set()
    assert not files.unfinished


@pytest.mark.usefixtures("all_large")
def test_each_file_has_its_size_and_digest(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    files = begun(tmp_path)
    files.write({"step": 3}, tmp_path / "inner/state.pt")
    files.write(torch.ones(4), tmp_path / "weights.pt")
    for name, file in files.take().items():
        content = (tmp_path / name).read_bytes()
        assert file == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert files.take() == {}


@pytest.mark.usefixtures("all_large")
def test_fault_of_the_thread_is_raised_where_files_are_taken(tmp_path: Path) -> None:
    files = begun(tmp_path)
    files.write(torch.ones(4), tmp_path / "missing/weights.pt")
    with pytest.raises(RuntimeError, match="missing"):
        files.take()


def test_files_of_a_checkpoint_are_taken_ahead_of_the_next(tmp_path: Path) -> None:
    files = begun(tmp_path)
    files.write(torch.ones(4), tmp_path / "weights.pt")
    with pytest.raises(AssertionError, match="were not taken"):
        files.begin(tmp_path)


def test_copies_have_own_memory_and_keep_types() -> None:
    weight = torch.ones(2)
    state = OrderedDict(a=weight, tied=weight, more=[(weight, 1)], named=defaultdict(list, {"x": weight}))
    state._metadata = {"version": 2}  # type: ignore[attr-defined]  # as torch attaches it
    made = copied(state)
    weight.zero_()
    assert type(made) is OrderedDict
    assert made._metadata == {"version": 2}
    assert type(made["named"]) is defaultdict
    assert type(made["more"][0]) is tuple
    for tensor in (made["a"], made["tied"], made["more"][0][0], made["named"]["x"]):
        assert torch.equal(tensor, torch.ones(2))
    assert made["tied"] is made["a"], "tied weights are written once"


def test_views_that_differ_are_copied_apart() -> None:
    whole = torch.arange(6.0)
    first, second, turned = copied([whole[:3], whole[3:], whole.view(2, 3).T])
    assert first.tolist() == [0, 1, 2]
    assert second.tolist() == [3, 4, 5]
    assert turned.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_empty_tensors_of_unequal_kind_are_copied_each() -> None:
    """They share no memory, though their addresses are equal."""
    made = copied({"a": torch.empty(0), "b": torch.empty(0)})
    assert made["a"] is not made["b"]


def test_a_part_of_a_storage_is_written_alone(tmp_path: Path) -> None:
    large = torch.zeros(100_000)
    files = begun(tmp_path)
    files.write({"part": large[:2], "whole": torch.ones(2)}, tmp_path / "state.pt")
    assert (tmp_path / "state.pt").stat().st_size < 10_000
    assert compact({"whole": large})["whole"] is large


@pytest.mark.parametrize(("state", "size"), [({}, 0), ({"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.int8), 5]}, 14)])
def test_bytes_of_all_tensors_are_counted(state: Any, size: int) -> None:
    assert tensor_bytes(state) == size


def test_waiting_files_are_written_ahead_of_one_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes_wait: threading.Event
) -> None:
    free = iter([1000, 0])
    monkeypatch.setattr(checkpoint_files, "SMALL_BYTES", 0)
    monkeypatch.setattr(checkpoint_files, "available_memory", lambda: (next(free), 1000))
    files = begun(tmp_path)
    files.write(torch.ones(2), tmp_path / "first.pt")
    threading.Timer(0.2, writes_wait.set).start()
    files.write(torch.ones(2), tmp_path / "second.pt")
    assert (tmp_path / "first.pt").is_file()
    assert list(files.take()) == ["first.pt", "second.pt"]


def test_ranks_of_the_machine_come_from_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert CheckpointFiles()._ranks == 8
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert CheckpointFiles()._ranks == 1


def test_tensor_is_the_state_itself() -> None:
    weight = torch.ones(2)
    made: Tensor = copied(weight)
    assert made is not weight
    assert torch.equal(made, weight)
