"""Killed at any moment and run again, a training ends with the bits of an undisturbed one, and leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.files import digest_file
from tests.engine.conftest import curve, launch_apart, prepare, toy_settings, train

START_SECONDS = 600.0  # a start of two ranks on a machine that is busy with other things
Wait = Callable[[Callable[[], bool], float], None]


def scratch(root: Path) -> Path | None:
    folders = list((root / ".mmalign" / "scratch" / "align").glob("*"))
    return folders[0] if folders else None


def steps_taken(root: Path) -> int:
    folder = scratch(root)
    path = folder / "curves.jsonl" if folder else None
    return path.read_text(encoding="utf-8").count("\n") if path and path.is_file() else 0


def marked(mark: str) -> list[psutil.Process]:
    """Every process whose environment carries the mark."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MMALIGN_MARK") == mark:
                processes.append(process)
        except psutil.Error:
            continue
    return processes


def kill_all(mark: str, first: list[psutil.Process] | None = None) -> None:
    """SIGKILL to the launcher, torchrun and both ranks, nearly at once; to the `first` ones first."""
    for process in [*(first or []), *marked(mark)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(marked(mark), 10)


def interrupted(
    root: Path, mark: str, near: Callable[[], bool], wait_for: Wait, now: Callable[[], bool] = lambda: True, **training: Any
) -> None:
    """Start a launch; once `near` holds, watch without a pause for `now`, and kill all of it in that moment."""
    os.environ["MMALIGN_MARK"] = mark
    try:
        process = launch_apart(root, toy_settings(**training), root / "log")
    finally:
        del os.environ["MMALIGN_MARK"]
    processes: list[psutil.Process] = []
    try:
        wait_for(lambda: near() or process.poll() is not None, START_SECONDS)
        processes = marked(mark)
        while not now():
            assert process.poll() is None, (root / "log").read_text()[-2000:]
        assert process.poll() is None, (root / "log").read_text()[-2000:]
    finally:
        kill_all(mark, processes)
        process.wait()


@pytest.mark.slow
def test_run_killed_in_its_last_epoch_ends_with_the_same_bits(
    undisturbed: Path, tmp_path: Path, wait_for: Wait, capfd: pytest.CaptureFixture[str]
) -> None:
    root = prepare(tmp_path, micro_seconds=0.05)
    interrupted(root, "last-epoch", lambda: steps_taken(root) >= 14, wait_for)
    assert not (root / "out").exists()
    prepare(root)
    outcome = train(root, toy_settings())
    assert outcome.resumed_from in (12, 16)
    assert f"resumed from step {outcome.resumed_from} of 18" in capfd.readouterr().out
    assert digest_file(root / "out/model.safetensors") == digest_file(undisturbed / "out/model.safetensors")
    times = {"seconds"}
    assert [{k: v for k, v in record.items() if k not in times} for record in curve(root)] == [
        {k: v for k, v in record.items() if k not in times} for record in curve(undisturbed)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("engine", [{}, {"engine": "ddp"}, {"zero_stage": 3}], ids=["ZeRO-2", "ddp", "ZeRO-3"])
def test_run_killed_in_a_checkpoint_ends_with_the_same_bits(
    undisturbed: Path, tmp_path: Path, wait_for: Wait, engine: dict[str, Any]
) -> None:
    if not engine:
        reference = undisturbed
    else:
        reference = prepare(tmp_path / "reference")
        train(reference, toy_settings(**engine))
    root = prepare(tmp_path / "killed", micro_seconds=0.1, commit_seconds=1)

    def third_is_begun() -> bool:
        folder = scratch(root)
        return folder is not None and any((folder / "checkpoint-12").glob("*"))

    mark = "-".join(["saving", *map(str, engine.values())])
    interrupted(root, mark, lambda: steps_taken(root) >= 9, wait_for, third_is_begun, **engine)
    folder = scratch(root)
    assert folder is not None
    assert not (folder / "checkpoint-12" / "COMMITTED.json").exists()
    assert any((folder / "checkpoint-12").glob("*"))
    prepare(root)
    assert train(root, toy_settings(**engine)).resumed_from == 8
    assert digest_file(root / "out/model.safetensors") == digest_file(reference / "out/model.safetensors")


@pytest.mark.slow
def test_run_killed_in_preparation_ends_with_the_same_bits(undisturbed: Path, tmp_path: Path, wait_for: Wait) -> None:
    root = prepare(tmp_path, epoch_seconds=2)
    started: list[float] = []

    def preparing_the_second() -> bool:
        if steps_taken(root) == 6 and not started:
            started.append(time.monotonic())
        return bool(started) and time.monotonic() - started[0] > 0.5

    interrupted(root, "epoch", preparing_the_second, wait_for)
    folder = scratch(root)
    assert folder is not None
    assert not (folder / "shift-1.json").exists()
    prepare(root)
    assert train(root, toy_settings()).resumed_from == 4
    assert digest_file(root / "out/model.safetensors") == digest_file(undisturbed / "out/model.safetensors")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, undisturbed: Path, wait_for: Wait, capfd: pytest.CaptureFixture[str]
) -> None:
    root = prepare(tmp_path, micro_seconds=0.05)
    interrupted(root, "damaged", lambda: steps_taken(root) >= 14, wait_for)
    folder = scratch(root)
    assert folder is not None
    newest = max(folder.glob("checkpoint-*/COMMITTED.json"), key=lambda path: int(path.parent.name.split("-")[1])).parent
    damaged = next(newest.glob("global_step*/*optim_states.pt"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    prepare(root)
    outcome = train(root, toy_settings())
    assert outcome.resumed_from == int(newest.name.split("-")[1]) - 4
    assert f"{newest.name} is not used: " in capfd.readouterr().out
    assert digest_file(root / "out/model.safetensors") == digest_file(undisturbed / "out/model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["launcher", "torchrun"])
def test_ranks_end_when_what_launched_them_is_killed(tmp_path: Path, wait_for: Wait, target: str) -> None:
    root = prepare(tmp_path, micro_seconds=0.5)
    mark = f"orphans-{target}"
    os.environ["MMALIGN_MARK"] = mark
    try:
        process = launch_apart(root, toy_settings(), root / "log")
    finally:
        del os.environ["MMALIGN_MARK"]
    try:
        wait_for(lambda: steps_taken(root) >= 1, START_SECONDS)
        torchrun = next(
            child for child in psutil.Process(process.pid).children() if "components.engine.launcher" in " ".join(child.cmdline())
        )
        (process if target == "launcher" else torchrun).send_signal(signal.SIGKILL)
        process.wait(30)
        wait_for(lambda: not marked(mark), 20)
        assert not (root / "out").exists()  # ended, and not because it was done
    finally:
        kill_all(mark)
        process.wait()
