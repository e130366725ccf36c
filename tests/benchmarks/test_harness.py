"""How benchmarks measure."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from benchmarks._harness import ROOT, Timing, interleave, show


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
