from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.processes.slots.taking import is_waiting, locked_slots, machine_slots
from tests.checkout import behave, clean_environment, started, wait_for
from tests.processes.slots.conftest import Machine, ask


def test_two_stages_get_different_gpus(machine: Machine) -> None:
    one, other = machine.start("one", gpus=1), machine.start("other", "align", gpus=1)
    wait_for(lambda: one.gpus is not None and other.gpus is not None)
    assert {one.gpus, other.gpus} == {"0", "1"}
    holders = locked_slots()
    assert {(holder.checkout, holder.stage, holder.pid) for holder in holders.values()} == {
        (str(one.root), "reward", one.process.pid),
        (str(other.root), "align", other.process.pid),
    }
    assert set(holders) == {"gpu-0", "gpu-1"}
    one.finish()
    other.finish()
    assert locked_slots() == {}


def test_only_visible_gpus_are_taken(machine: Machine) -> None:
    stage = machine.start("one", gpus=1, visible="7")
    wait_for(lambda: stage.gpus is not None)
    assert (stage.gpus, list(locked_slots())) == ("7", ["gpu-7"])


def test_stage_waits_for_taken_gpu_and_names_holder_once(machine: Machine) -> None:
    first = machine.start("first", gpus=1, visible="0")
    wait_for(lambda: first.gpus is not None)
    second = machine.start("second", "align", gpus=1, visible="0")
    wait_for(lambda: "waits for" in second.output)
    assert second.gpus is None
    assert (
        f"align waits for 1 of this machine's 1 GPUs: gpu-0 is held by stage reward of {first.root} (process {first.process.pid} "
        in second.output
    )
    first.finish()
    wait_for(lambda: second.gpus == "0")
    assert second.output.count("waits for") == 1


def test_killed_holder_frees_its_gpu(machine: Machine) -> None:
    first = machine.start("first", gpus=1, visible="0")
    wait_for(lambda: first.gpus is not None)
    second = machine.start("second", gpus=1, visible="0")
    wait_for(lambda: "waits for" in second.output)
    first.process.send_signal(signal.SIGKILL)
    wait_for(lambda: second.gpus == "0")
    assert [holder.pid for holder in locked_slots().values()] == [second.process.pid]


def test_gpu_stays_taken_while_ranks_of_killed_holder_live(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first/child").touch()
    first = machine.start("first", gpus=1, visible="0")
    wait_for(lambda: first.gpus is not None)
    rank = int((first.root / "child").read_text())
    try:
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        second = machine.start("second", gpus=1, visible="0")
        wait_for(lambda: "waits for" in second.output)
        assert second.gpus is None
    finally:
        os.kill(rank, signal.SIGKILL)
    wait_for(lambda: second.gpus == "0")


def test_terminated_waiting_stage_leaves_no_file(machine: Machine) -> None:
    first = machine.start("first", gpus=1, visible="0")
    wait_for(lambda: first.gpus is not None)
    second = machine.start("second", gpus=1, visible="0")
    wait_for(lambda: "waits for" in second.output)
    second.process.terminate()
    assert second.process.wait(20) == 128 + signal.SIGTERM
    assert list((second.root / ".mmalign/attempts").glob("*.waiting")) == []
    assert [holder.pid for holder in locked_slots().values()] == [first.process.pid]


def test_waiting_attempt_is_identified_by_mark(machine: Machine) -> None:
    first = machine.start("first", gpus=1, visible="0")
    wait_for(lambda: first.gpus is not None)
    second = machine.start("second", gpus=1, visible="0")
    waiting = second.root / ".mmalign/attempts/reward.waiting"
    wait_for(lambda: waiting.exists() and waiting.read_text())
    assert is_waiting(Checkout(second.root), "reward", waiting.read_text())
    assert not is_waiting(Checkout(second.root), "reward", "reward:of-another-attempt")
    first.finish()
    wait_for(lambda: second.gpus is not None)
    assert not waiting.exists()


def test_training_without_gpus_takes_cpu_slot(machine: Machine) -> None:
    first = machine.start("first")
    wait_for(lambda: first.gpus == "")
    second = machine.start("second", "align")
    wait_for(lambda: "waits for" in second.output)
    assert f"align waits for the CPU's slot: cpu is held by stage reward of {first.root}" in second.output
    first.finish()
    wait_for(lambda: second.gpus == "")


def test_stage_without_training_or_gpus_takes_no_slot(machine: Machine) -> None:
    training, other = machine.start("training"), machine.start("other", "validate", gpus=0)
    wait_for(lambda: training.gpus is not None and other.gpus is not None)
    assert other.gpus == ""
    assert list(locked_slots()) == ["cpu"]


def test_stage_gathering_two_gpus_is_not_starved(machine: Machine) -> None:
    one, two = machine.start("one", gpus=1, visible="0"), machine.start("two", gpus=1, visible="1")
    wait_for(lambda: one.gpus is not None and two.gpus is not None)
    both = machine.start("both", gpus=2)
    wait_for(lambda: "waits for" in both.output)
    one.finish()
    # It keeps its first GPU while it waits for the second.
    wait_for(lambda: [name for name, holder in locked_slots().items() if holder.pid == both.process.pid] == ["gpu-0"])
    late = machine.start("late", gpus=1)
    wait_for(lambda: "waits for" in late.output)
    late.process.terminate()
    two.finish()
    wait_for(lambda: both.gpus is not None)
    assert sorted((both.gpus or "").split(",")) == ["0", "1"]


def test_two_stages_wanting_all_gpus_do_not_deadlock(machine: Machine) -> None:
    first = machine.start("first", gpus=1)
    wait_for(lambda: first.gpus is not None)
    stages = [machine.start("a", gpus=2), machine.start("b", gpus=2)]
    wait_for(lambda: all("waits for" in stage.output for stage in stages))
    for stage in (first, *stages):
        (stage.root / "go").touch()
    assert [stage.process.wait(60) for stage in (first, *stages)] == [0, 0, 0]


def test_more_gpus_than_available_is_refused(machine: Machine) -> None:
    stage = machine.start("one", gpus=3)
    assert stage.process.wait(60) == 2
    assert stage.output == "mmalign: stages.reward.gpus is 3, but there are 2 GPUs: lower it, or use another machine\n"
    assert locked_slots() == {}


def test_all_slots_are_listed_with_holders(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = machine.start("one", gpus=1, visible="1")
    other = machine.start("other", gpus=1, visible="9")
    wait_for(lambda: stage.gpus is not None and other.gpus is not None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    holders = machine_slots()
    assert list(holders) == ["gpu-0", "gpu-1", "cpu", "gpu-9"]
    assert {name: holder and holder.pid for name, holder in holders.items()} == {
        "gpu-0": None,
        "gpu-1": stage.process.pid,
        "cpu": None,
        "gpu-9": other.process.pid,
    }


def test_bare_dvc_repro_waits_for_taken_gpu(checkout: Path, machine: Machine) -> None:
    nightly = machine.start("nightly", "align", gpus=1, visible="0")
    wait_for(lambda: nightly.gpus is not None)
    ask(checkout, "reward", 1)
    behave(checkout, "reward", "wait")
    with (checkout / "out").open("wb") as out:
        command = [str(Path(sys.executable).parent / "dvc"), "repro", "reward"]
        environment = {**clean_environment(), "CUDA_VISIBLE_DEVICES": "0"}
        repro = subprocess.Popen(command, cwd=checkout, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: "reward waits for 1 of this machine's 1 GPUs: gpu-0 is held by stage align of" in (checkout / "out").read_text())
        assert started(checkout) == ["validate"]
        nightly.finish()
        wait_for((checkout / "waiting.reward").exists)
        assert locked_slots()["gpu-0"].checkout == str(checkout)
        behave(checkout, "reward")
        assert repro.wait(60) == 0
    finally:
        repro.kill()
        repro.wait()
