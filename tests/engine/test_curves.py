"""Curves across a kill, and the progress line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from components.engine import curves
from components.engine.curves import CURVES, PLAN, RECORD_SECONDS, CurveFile, Follower, last_metrics, points_of
from components.engine.recorder import NullRecorder, Point
from tests.clock import Clock


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_resume_drops_later_steps_and_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / CURVES
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n{"step": 3, "loss": 0.3}\n{"step": 4, "lo')
    file = CurveFile(path, keep=2)
    file.append({"step": 3, "loss": 0.25})
    file.sync()
    assert [record["loss"] for record in lines(path)] == [0.5, 0.4, 0.25]


def test_a_fresh_run_leaves_nothing_of_an_older_one(tmp_path: Path) -> None:
    (tmp_path / CURVES).write_text('{"step": 1, "loss": 0.5}\n')
    CurveFile(tmp_path / CURVES, keep=0).append({"step": 1, "loss": 0.6})
    assert lines(tmp_path / CURVES) == [{"step": 1, "loss": 0.6}]


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        CurveFile(tmp_path / CURVES, keep=0).append({"step": 1, "loss": float("nan")})


def test_progress_shows_step_loss_rate_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follower = Follower(tmp_path, "align")
    follower.poll(last=True)
    assert capsys.readouterr().out == ""
    (tmp_path / PLAN).write_text('{"steps": 1000, "resumed_from": 0}')
    (tmp_path / CURVES).write_text('{"step": 10, "loss": 0.5, "seconds": 0.5}\n{"step": 11, "lo')
    follower.poll(last=True)
    assert capsys.readouterr().out == "align: step 10/1000, loss 0.5000, 2.00 steps/s, 8:15 left\n"


class Recording(NullRecorder):
    """Collects the points of every write."""

    def __init__(self) -> None:
        self.writes: list[list[Point]] = []

    def points(self, points: Iterable[Point]) -> None:
        self.writes.append(list(points))

    def all(self) -> list[Point]:
        return [point for write in self.writes for point in write]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(curves, "time", clock)
    return clock


def test_points_are_recorded_each_once_every_15_seconds(tmp_path: Path, clock: Clock) -> None:
    recorder = Recording()
    follower = Follower(tmp_path, "align", every=1000.0, recorder=recorder)
    (tmp_path / PLAN).write_text('{"steps": 3, "resumed_from": 0}')
    path = tmp_path / CURVES
    path.write_text('{"step": 1, "loss": 0.5, "seconds": 1}\n{"step": 2, "lo')
    clock.now += RECORD_SECONDS - 0.1
    follower.poll()
    assert recorder.writes == []
    clock.now += 0.1
    follower.poll()
    assert recorder.writes == [[("loss", 0.5, 1), ("seconds", 1.0, 1)]]
    path.write_text('{"step": 1, "loss": 0.5, "seconds": 1}\n{"step": 2, "loss": 0.4, "seconds": 1}\n')
    clock.now += 1
    follower.poll()
    assert len(recorder.writes) == 1
    follower.poll(last=True)
    follower.poll(last=True)
    assert recorder.writes[1:] == [[("loss", 0.4, 2), ("seconds", 1.0, 2)]]


def test_points_wait_for_the_plan_of_a_resumed_run(tmp_path: Path, clock: Clock) -> None:
    recorder = Recording()
    follower = Follower(tmp_path, "align", recorder=recorder)
    path = tmp_path / CURVES
    path.write_text('{"step": 1, "loss": 0.5, "seconds": 1}\n{"step": 2, "loss": 9.0, "seconds": 1}\n')
    clock.now += 2 * RECORD_SECONDS
    follower.poll()
    assert recorder.writes == []
    CurveFile(path, keep=1).append({"step": 2, "loss": 0.4, "seconds": 1.0})
    (tmp_path / PLAN).write_text('{"steps": 2, "resumed_from": 1}')
    follower.poll(last=True)
    assert [point for point in recorder.all() if point[0] == "loss"] == [("loss", 0.5, 1), ("loss", 0.4, 2)]


def test_points_are_the_finite_numbers_of_a_line() -> None:
    record = {"step": 3, "loss": 1, "grad_norm": None, "name": "x", "flag": True, "nan": float("nan"), "rate": 0.5}
    assert list(points_of(record)) == [("loss", 1.0, 3), ("rate", 0.5, 3)]


def test_last_metrics_are_means_over_ten_steps(tmp_path: Path) -> None:
    records = [{"step": step, "loss/pair": float(step), "late": 2.0 if step > 10 else None} for step in range(1, 13)]
    (tmp_path / CURVES).write_text("".join(json.dumps(record) + "\n" for record in records))
    # Steps 3 to 12.
    assert last_metrics(tmp_path / CURVES, "loss/pair", "late", "other") == {"loss.pair": 7.5, "late": 2.0, "other": None}
