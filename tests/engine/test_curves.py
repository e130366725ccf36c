"""Curves across a kill, and the progress line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.engine.curves import CURVES, PLAN, CurveFile, Follower


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_steps_after_the_checkpoint_and_a_torn_last_line_are_dropped_on_resume(tmp_path: Path) -> None:
    path = tmp_path / CURVES
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n{"step": 3, "loss": 0.3}\n{"step": 4, "lo')
    curves = CurveFile(path, keep=2)
    curves.append({"step": 3, "loss": 0.25})
    curves.sync()
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
