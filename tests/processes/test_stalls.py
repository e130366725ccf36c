"""Which silence of ranks is a stall, whom it names, and what kind of fault it is. The clock is the test's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.files import read_json, write_json
from components.processes import stalls
from components.processes.heartbeat import Heartbeat
from components.processes.stalls import LONGEST_WAIT, Stalls
from tests.clock import Clock

SECONDS = 20.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stalls, "time", clock)
    return clock


@pytest.fixture
def ranks(tmp_path: Path) -> list[Heartbeat]:
    """Two ranks in step, both in the forward pass of step 3."""
    both = [Heartbeat(tmp_path, rank, busy_waits=True) for rank in (0, 1)]
    for rank in both:
        rank.names(["head", "layers.0"])
        rank.enter("forward", step=3)
    return both


def checked(watch: Stalls, clock: Clock, seconds: float, each: Callable[[], Any] = lambda: None) -> Any:
    """The stall that `seconds` of checks find, if any."""
    for _ in range(int(seconds)):
        clock.now += 1
        each()
        if (stall := watch.check()) is not None:
            return stall
    return None


def test_rank_furthest_back_is_named_with_module_and_step(tmp_path: Path, clock: Clock, ranks: list[Heartbeat]) -> None:
    watch = Stalls(tmp_path, 2, SECONDS)
    ranks[1].gather(1, backward=False)
    ranks[0].gather(1, backward=False)
    ranks[0].gather(0, backward=False)  # waits for rank 1
    stall = checked(watch, clock, 2 * SECONDS)
    assert stall.sentence.startswith("rank 1 (process ")
    assert f"gave its last sign {SECONDS:.0f} s ago in step 3, forward, at layers.0" in stall.sentence
    assert "rank 0" not in stall.sentence
    assert stall.kind == "infrastructure"


def test_rank_that_waits_for_a_slow_one_is_no_stall(tmp_path: Path, clock: Clock, ranks: list[Heartbeat]) -> None:
    ranks[0].enter("backward", step=3)
    assert checked(Stalls(tmp_path, 2, SECONDS), clock, 5 * SECONDS, each=lambda: ranks[1].beat(0)) is None


def test_announced_work_of_the_last_rank_is_awaited(tmp_path: Path, clock: Clock, ranks: list[Heartbeat]) -> None:
    watch = Stalls(tmp_path, 2, SECONDS)
    with ranks[0].work("writing checkpoint-20"):
        assert checked(watch, clock, 30 * SECONDS) is None
    assert checked(watch, clock, SECONDS) is None  # the end of the work was a sign
    assert checked(watch, clock, 2) is not None


def test_announced_rank_ahead_does_not_excuse_the_last_one(tmp_path: Path, clock: Clock, ranks: list[Heartbeat]) -> None:
    ranks[0].enter("checkpoint-20")
    with ranks[0].work("writing"):
        assert "rank 1" in checked(Stalls(tmp_path, 2, SECONDS), clock, 2 * SECONDS).sentence


def test_rank_that_has_not_begun_is_awaited(tmp_path: Path, clock: Clock) -> None:
    first = Heartbeat(tmp_path, 0, busy_waits=True)
    first.enter("forward", step=1)
    assert checked(Stalls(tmp_path, 2, SECONDS), clock, 5 * SECONDS) is None


def test_ended_rank_is_not_blamed(tmp_path: Path, clock: Clock, ranks: list[Heartbeat]) -> None:
    ranks[0].end()
    assert "rank 1" in checked(Stalls(tmp_path, 2, SECONDS), clock, 2 * SECONDS).sentence


def test_other_module_at_one_call_is_a_fault_of_the_code(tmp_path: Path, clock: Clock, ranks: list[Heartbeat]) -> None:
    ranks[0].gather(0, backward=False)
    ranks[0].gather(1, backward=True)
    ranks[1].gather(0, backward=False)
    ranks[1].enter("backward", step=3)
    stall = checked(Stalls(tmp_path, 2, SECONDS), clock, 2 * SECONDS)
    assert "ranks 0 and 1 do not call the same modules in step 3" in stall.sentence
    assert "call 3 of the step is layers.0 (backward) on rank 0 and its next part on rank 1" in stall.sentence
    assert stall.kind == "fault"


def test_rank_that_is_only_behind_is_no_mismatch(tmp_path: Path, clock: Clock, ranks: list[Heartbeat]) -> None:
    watch = Stalls(tmp_path, 2, SECONDS)
    ranks[0].gather(0, backward=False)
    assert checked(watch, clock, 1) is None
    assert watch.mismatch() is None
    ranks[0].enter("forward", step=4)
    ranks[0].gather(1, backward=False)
    assert watch.mismatch() is None


def test_independent_ranks_are_judged_by_themselves(tmp_path: Path, clock: Clock) -> None:
    both = [Heartbeat(tmp_path, rank, in_step=False, busy_waits=True) for rank in (0, 1)]
    for rank in both:
        rank.enter("a batch")
    both[1].enter("the next batch")
    stall = checked(Stalls(tmp_path, 2, SECONDS), clock, 2 * SECONDS, each=both[0].beat)
    assert stall.sentence.startswith("rank 1 (process ")
    assert "the next batch" in stall.sentence


def test_pause_of_the_launcher_is_no_silence(tmp_path: Path, clock: Clock, ranks: list[Heartbeat]) -> None:
    watch = Stalls(tmp_path, 2, 2 * LONGEST_WAIT)
    assert checked(watch, clock, 1) is None
    clock.now += 100 * LONGEST_WAIT
    assert watch.check() is None
    assert len(ranks) == 2


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a process that runs some code, and has rank 0 of one be that process."""
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen([sys.executable, "-c", code])
        started.append(child)
        rank = Heartbeat(tmp_path, 0)
        rank.enter("forward", step=1)
        about = tmp_path / "heartbeat-0.json"
        write_json(about, read_json(about) | {"pid": child.pid, "started": psutil.Process(child.pid).create_time()})
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()


def test_rank_on_a_cpu_that_computes_is_awaited(tmp_path: Path, clock: Clock, process: Callable[[str], Any]) -> None:
    child = process("while True: pass")

    def until_it_computed() -> None:
        times = psutil.Process(child.pid).cpu_times()
        before = times.user + times.system
        while sum(psutil.Process(child.pid).cpu_times()[:2]) < before + 0.06:
            pass

    assert checked(Stalls(tmp_path, 1, 4.0), clock, 12.0, each=until_it_computed) is None


def test_rank_on_a_cpu_that_sleeps_is_a_stall(tmp_path: Path, clock: Clock, process: Callable[[str], Any]) -> None:
    process("import time; time.sleep(600)")
    assert checked(Stalls(tmp_path, 1, SECONDS), clock, 3 * SECONDS) is not None


def test_stopped_process_is_a_stall_in_announced_work(tmp_path: Path, clock: Clock, process: Callable[[str], Any]) -> None:
    child = process("import time; time.sleep(600)")
    rank = Heartbeat(tmp_path, 0)
    about = tmp_path / "heartbeat-0.json"
    write_json(about, read_json(about) | {"pid": child.pid, "started": psutil.Process(child.pid).create_time()})
    stopped = psutil.Process(child.pid)
    stopped.suspend()
    while stopped.status() != psutil.STATUS_STOPPED:
        pass
    watch = Stalls(tmp_path, 1, SECONDS)
    with rank.work("writing checkpoint-20"):
        stall = checked(watch, clock, 2 * SECONDS)
    assert "stopped) gave its last sign" in stall.sentence
    assert "writing checkpoint-20" in stall.sentence
    watch.kill()
    assert child.wait(10) != 0


def test_heartbeats_of_an_earlier_start_are_forgotten(tmp_path: Path, ranks: list[Heartbeat]) -> None:
    assert len(ranks) == 2
    Stalls(tmp_path, 2).forget()
    assert not list(tmp_path.iterdir())
