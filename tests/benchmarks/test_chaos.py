"""The pure parts of the chaos benchmark: its metrics from invented curves, processes and records, and its watch of invented files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import chaos
from benchmarks._chaos_counts import Attempt, Seen, is_sound, lost_points, metrics, orphans, redone_intervals, sentence
from benchmarks._chaos_stack import Result
from benchmarks._chaos_watch import Watch, wait_until
from components.files import write_json

CURVE = [("loss", step, 1 / step) for step in range(1, 11)]
RECORD: dict[str, Any] = {
    "victim": "rank",
    "stage": "align",
    "step": 4,
    "states": ["Completed"],
    "recovered": True,
    "seconds_to_recover": 40.0,
    "seconds_to_end": 90.0,
    "redone_intervals": 0.5,
    "in_a_save": False,
    "orphans": [],
    "identical": True,
    "lost_metrics": 0,
}


def test_redone_work_spans_last_step_to_resumed_step() -> None:
    assert redone_intervals([Attempt(0, 10)], 2) == 0
    assert redone_intervals([Attempt(0, 5), Attempt(4, 10)], 2) == 0.5
    assert redone_intervals([Attempt(0, 5), Attempt(4, 8), Attempt(6, 10)], 2) == 1
    assert redone_intervals([Attempt(0, 7), Attempt(0, 10)], 2) == 3.5
    assert redone_intervals([], 2) == 0


def test_equal_curves_lose_no_points_in_any_order() -> None:
    assert lost_points(CURVE, CURVE[::-1]) == 0


def test_missing_doubled_and_wrong_points_are_counted() -> None:
    assert lost_points(CURVE, CURVE[1:]) == 1
    assert lost_points(CURVE, [*CURVE, CURVE[3]]) == 1
    assert lost_points(CURVE, [("loss", 1, 1.5), *CURVE[1:]]) == 2
    assert lost_points(CURVE, [*CURVE, ("margin", 1, 0.0)]) == 1


def test_time_curves_compare_steps_only() -> None:
    assert lost_points([("seconds", 1, 0.3), ("seconds", 2, 0.3)], [("seconds", 1, 0.9), ("seconds", 2, 0.1)]) == 0
    assert lost_points([("seconds", 1, 0.3), ("seconds", 2, 0.3)], [("seconds", 1, 0.9)]) == 1


def test_orphans_are_run_processes_and_unsupervised_ones() -> None:
    supervisor, server = Seen(10, "supervisord", False), Seen(11, "prefect server", False, (10, 1))
    connection, lost = Seen(12, "postgres: prefect", False, (13, 10, 1)), Seen(14, "postgres: prefect", False, (1,))
    rank = Seen(15, "components.engine.worker", True, (11, 10, 1))
    assert orphans([supervisor, server, connection], 10) == []
    assert orphans([supervisor, server, connection, lost, rank], 10) == [lost, rank]


def test_metrics_summarize_records() -> None:
    records = [
        RECORD,
        {**RECORD, "victim": "save", "in_a_save": True, "redone_intervals": 1.0, "seconds_to_recover": 60.0, "seconds_to_end": 130.0},
        {**RECORD, "victim": "save", "in_a_save": True, "identical": False, "lost_metrics": 3, "orphans": ["7 dvc"]},
        {**RECORD, "recovered": False, "identical": False, "seconds_to_recover": 600.0, "seconds_to_end": 600.0, "states": ["Failed"]},
    ]
    assert metrics(records) == {
        "runs": 4,
        "identical": 2,
        "recovered_alone": 3,
        "max_redone_intervals": 1.0,
        "partial_saves": 2,
        "partial_saves_survived": 1,
        "orphans": 1,
        "lost_metrics": 3,
        "seconds_to_recover": {"median": 40.0, "max": 60.0},
        "seconds_to_end": {"median": 90.0, "max": 130.0},
    }
    assert [is_sound(record) for record in records] == [True, True, False, False]
    assert "NOT RECOVERED; runs Failed" in sentence(records[3])
    assert "DIFFERENT; 3 points lost or doubled; 1 orphans" in sentence(records[2])


def test_metrics_without_recovery_have_no_times() -> None:
    assert metrics([{**RECORD, "recovered": False}])["seconds_to_recover"] == {"median": None, "max": None}


def test_plan_covers_targets_by_seed_before_last_step() -> None:
    reference = Result({}, {}, {"reward": [("loss", step, 1.0) for step in range(1, 21)], "align": CURVE})
    first, repeated, other = (chaos.plans(chaos.RUNS, seed, chaos.TARGETS, reference) for seed in (3, 3, 4))
    kills = [[(plan.target, plan.stage, plan.step, plan.share) for plan in plans] for plans in (first, repeated, other)]
    assert kills[0] == kills[1] != kills[2]
    assert len(first) >= 20
    assert {plan.target for plan in first[: len(chaos.TARGETS)]} == set(chaos.TARGETS)
    assert {plan.stage for plan in first} == {"reward", "align"}
    assert all(1 <= plan.step < {"reward": 20, "align": 10}[plan.stage] for plan in first)


def steps(folder: Path, last: int) -> None:
    (folder / "curves.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, last + 1)) + '{"step": 9')


def test_watch_follows_starts_steps_and_restarts(tmp_path: Path) -> None:
    watch, folder = Watch(tmp_path), tmp_path / "key"
    watch.poll()
    assert watch.step == 0
    folder.mkdir()
    write_json(folder / "plan.json", {"steps": 10, "resumed_from": 0})
    for last in (1, 2, 5):
        steps(folder, last)
        watch.poll()
    assert watch.step == 5
    struck = watch.attempts[0].steps_at[-1]
    # A restart: its lines are taken back first, then it says that it has begun, then it goes on.
    (folder / "plan.json").unlink()
    watch.poll()
    steps(folder, 4)
    watch.poll()
    write_json(folder / "plan.json", {"steps": 10, "resumed_from": 4})
    watch.poll()
    assert watch.stepped_since(struck, attempts=0) is None
    steps(folder, 6)
    watch.poll()
    assert [(attempt.resumed_from, attempt.last_step) for attempt in watch.attempts] == [(0, 5), (4, 6)]
    assert watch.stepped_since(struck, attempts=1) == watch.attempts[1].steps_at[0]
    assert redone_intervals(watch.attempts, 2) == 0.5


def test_unmarked_newest_checkpoint_counts_as_save_in_progress(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    assert watch.unfinished() is None
    for step in (2, 10):
        (tmp_path / f"key/checkpoint-{step}").mkdir(parents=True)
    assert watch.unfinished() == tmp_path / "key/checkpoint-10"
    (tmp_path / "key/checkpoint-10/COMMITTED.json").touch()
    assert watch.unfinished() is None  # checkpoint-2 is being removed


def test_timeout_names_awaited_event() -> None:
    with pytest.raises(TimeoutError, match="a save did not come within"):
        wait_until(lambda: None, 0.05, 0.01, "a save")
    assert wait_until(lambda: "it", 0.05, 0.01, "a save") == "it"


def test_table_has_one_line_per_run() -> None:
    report = {**metrics([RECORD]), "each": [RECORD]}
    (line,) = chaos.table(report)["each"].items()
    assert line[0] == " 1 rank"
    assert line[1] == "align at step 4: works after 40 s, ended after 90 s; 0.5 intervals redone; Completed"
