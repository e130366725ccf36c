"""How benchmarks measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks._harness import ROOT, Ratio, Timing, interleave, ratios, show


def test_sides_take_turns_in_changing_order() -> None:
    order: list[str] = []
    timings = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(timing.wall) for name, timing in timings.items()} == {"a": 3, "b": 3}


def test_wall_clock_and_user_time_differ() -> None:
    timing = interleave({"sleeps": lambda: time.sleep(0.2)}, 1)["sleeps"]
    assert timing.seconds >= 0.2
    assert timing.user_seconds < 0.1


def test_median_ignores_one_disturbed_run() -> None:
    assert Timing((1.0, 9.0), (1.0, 1.0)).joined(Timing((2.0,), (3.0,))).seconds == 2.0


def timing(*wall: float, others: float = 0.0) -> Timing:
    return Timing(wall, wall, tuple(others * seconds for seconds in wall))


@pytest.mark.parametrize(
    ("slow", "fast", "reason"),
    [
        (timing(8.0, 8.1, 7.9), timing(1.0, 1.0, 1.1), None),
        (timing(8.0, 8.1, 7.9), timing(0.7, 0.8, 0.7), "11.4 exceeds 10"),
        (timing(8.0, 8.1, 7.9), timing(1.0, 1.6, 1.0), "30% between their quartiles"),
        (timing(8.0, 8.1, 7.9), timing(1.0, 1.0, 1.1, others=0.5), "other processes used 0.5 cores"),
    ],
)
def test_doubtful_ratio_is_refused_with_reason(slow: Timing, fast: Timing, reason: str | None) -> None:
    report = ratios({"speedup": Ratio(slow, fast, ceiling=10.0)}, small=False)
    if reason is None:
        assert report == {"speedup": pytest.approx(8.0), "refused": {}}
    else:
        assert report["speedup"] is None
        assert reason in report["refused"]["speedup"]
    assert ratios({"speedup": Ratio(slow, fast, ceiling=10.0)}, small=True)["speedup"] == pytest.approx(slow.seconds / fast.seconds)


def test_other_processes_are_noticed() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        others = interleave({"sleeps": lambda: time.sleep(1.5)}, 1)["sleeps"].others_cores
    finally:
        busy.kill()
        busy.wait()
    own = interleave({"works": lambda: sum(range(10_000_000))}, 1)["works"]
    assert others > 0.3
    # This process's own time is not counted.
    assert own.others_cores + own.user_seconds / own.seconds < 1.1 * (os.cpu_count() or 1)


def test_peak_memory_excludes_inputs() -> None:
    code = (
        "from benchmarks._harness import print_peak\n"
        "import psutil; kept = bytearray(b'x' * 100_000_000)\n"
        "print_peak(lambda: len(bytearray(b'x' * 150_000_000)))"
    )
    completed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    # The literal and the bytearray made of it live at once.
    assert int(completed.stdout) == pytest.approx(300e6, rel=0.02)


def test_stdout_is_one_json_object_despite_library_prints(capsys: pytest.CaptureFixture[str]) -> None:
    def measure() -> dict[str, object]:
        print("a library's word")
        return {"ratio": 2.0}

    show(measure, as_json=True)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"ratio": 2.0}
    assert "a library's word" in captured.err


@pytest.mark.parametrize(("ticks", "ratio"), [(0.02, 3.0), (0.0, None)])
def test_user_ratio_below_a_tick_of_the_clock_is_none(ticks: float, ratio: float | None) -> None:
    assert Ratio(Timing((1.0,), (0.06,)), Timing((1.0,), (ticks,))).user == (None if ratio is None else pytest.approx(ratio))
