"""Two runs with other settings at work at once in one checkout: cards, locks, results, and a kill of one of them."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import yaml

from components.checkout import Checkout
from components.processes.guard import lock_holder
from components.processes.slots.locks import slot_holder
from components.processes.slots.taking import locked_slots
from components.storage.copies import workspace_of
from tests.checkout import alive, behave, mmalign, start_mmalign, started, wait_for
from tests.flows.test_run import contents, summary

pytestmark = pytest.mark.slow


def settings_of(epochs: int, gpus: int) -> list[str]:
    """Overrides that make reward and all after it stale."""
    return [f"reward.epochs={epochs}", f"stages.reward.gpus={gpus}"]


def copy_with_waiting_reward(folder: Path, overrides: list[str]) -> Path:
    """The copy in which a run with `overrides` works; its stage `reward` waits for the test."""
    copy = workspace_of(Checkout(folder), overrides).root
    (copy / "behaviour").mkdir(parents=True)
    behave(copy, "reward", "wait")
    return copy


def flags(overrides: list[str]) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def assert_whole(copy: Path, epochs: int) -> None:
    """The copy's run ended well, with its own setting in its results and in its record."""
    assert summary(copy)["status"] == "ok"
    assert yaml.safe_load((copy / "params.yaml").read_text())["reward"]["epochs"] == epochs
    for stage in ("reward", "evaluate"):
        assert f'"epochs": {epochs}' in (copy / f"artifacts/{stage}/result.txt").read_text()


def test_two_runs_share_gpus_and_go_on_after_kill(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mmalign(checkout, "run", timeout=900).returncode == 0
    before = contents(checkout)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    one, other = settings_of(71, 1), settings_of(72, 1)
    first, second = (copy_with_waiting_reward(checkout, overrides) for overrides in (one, other))
    assert first != second
    commands = [start_mmalign(checkout, "run", *flags(overrides), out=f"{number}.out") for number, overrides in enumerate((one, other))]
    wait_for(lambda: (first / "waiting.reward").exists() and (second / "waiting.reward").exists(), seconds=600)

    # Both train at once, each on a GPU of its own, and each copy's lock names its own command.
    assert {holder.checkout for holder in locked_slots().values()} == {str(first.resolve()), str(second.resolve())}
    assert set(locked_slots()) == {"gpu-0", "gpu-1"}
    for command, copy in zip(commands, (first, second), strict=True):
        assert f"process {command.pid} " in lock_holder(Checkout(copy).locks / "run.lock")
    repeated = mmalign(checkout, "run", *flags(one))
    assert repeated.returncode == 2, "the same settings have the same copy, in which a run is under way"
    assert f"process {commands[0].pid} " in repeated.stderr

    # The first is killed with all its processes: the second does not notice, and the first's GPU is free.
    results = contents(second)
    commands[0].kill()
    commands[0].wait()
    for process in alive(first):
        psutil.Process(process.pid).kill()
    wait_for(lambda: not alive(first))
    assert [holder.checkout for holder in locked_slots().values()] == [str(second.resolve())]
    assert contents(second) == results
    behave(second, "reward")
    assert commands[1].wait(600) == 0, (checkout / ".git/1.out").read_text()
    assert started(second) == ["reward", "critique", "align", "evaluate"]
    assert_whole(second, 72)

    # The same command again goes on with the killed run, in the same copy, and touches no other.
    results = contents(second)
    behave(first, "reward")
    resumed = mmalign(checkout, "run", *flags(one), timeout=900)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert started(first) == ["reward", "reward", "critique", "align", "evaluate"]
    assert_whole(first, 71)
    assert contents(second) == results
    assert contents(checkout) == before
    assert locked_slots() == {}


def test_second_run_waits_for_the_one_cpu_slot(checkout: Path) -> None:
    assert mmalign(checkout, "run", timeout=900).returncode == 0
    before = contents(checkout)
    one, other = settings_of(73, 0), settings_of(74, 0)
    first, second = (copy_with_waiting_reward(checkout, overrides) for overrides in (one, other))
    commands = [start_mmalign(checkout, "run", *flags(one), out="0.out")]
    wait_for((first / "waiting.reward").exists, seconds=600)
    commands.append(start_mmalign(checkout, "run", *flags(other), out="1.out"))
    wait_for(lambda: "waits for the CPU's slot" in stage_log(second), seconds=600)
    holder = slot_holder("cpu")
    assert holder is not None
    assert f"cpu is held by stage reward of {first.resolve()} (process {holder.pid} " in stage_log(second)
    assert not (second / "waiting.reward").exists()
    behave(second, "reward")
    behave(first, "reward")
    assert [command.wait(600) for command in commands] == [0, 0], [(checkout / f".git/{n}.out").read_text() for n in (0, 1)]
    for copy, epochs in ((first, 73), (second, 74)):
        assert started(copy) == ["reward", "critique", "align", "evaluate"]
        assert_whole(copy, epochs)
        assert json.loads((copy / "reports/summary.json").read_text())["mlflow_run_id"]
    assert contents(checkout) == before


def stage_log(copy: Path) -> str:
    """What the copy's stage `reward` has written."""
    return "".join(path.read_text() for path in sorted((copy / "logs").glob("*/reward.log")))
