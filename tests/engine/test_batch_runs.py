"""A run of tasks in this process and on ranks: what it counts, hands on and shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from components.checkout import Checkout
from components.engine import inference as engine
from components.engine.inference import (
    Bars,
    Launch,
    Report,
    meter_of,
    run_tasks,
)
from components.engine.ranks import Ranks
from components.engine.throughput import Meter
from components.errors import StageFault
from components.processes.stalls import Stalls
from tests.engine.doubles import Memory, doubles, settings_of

# a run in this process


def test_a_run_counts_items_and_units_of_each_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Memory(**{"2": 4})
    tasks = [doubles(store, [1, 2, 3], [[2, 1], [0]]), doubles(store, [3, 4], [[0, 1]]), doubles(store, [2], [[0]])]
    report = run_tasks(tasks, Launch("", "evaluate"), settings_of(), Checkout(tmp_path))
    assert (report.items, report.units) == ([2, 1, 0], [4, 4, 0])
    assert [[batch for batch, _ in task.seen] for task in tasks] == [[[2], [0]], [[1]], []]
    assert all(ranks == Ranks() for task in tasks for _, ranks in task.seen)
    assert [task.ended for task in tasks] == [1, 1, 0]
    assert [task.results() for task in tasks] == [[2, 4, 6], [6, 8], [4]]
    assert capsys.readouterr().out.splitlines() == [
        "evaluate: 1 of 3 are kept from before: doubles",
        "evaluate: 1 of 2 are kept from before: doubles",
    ]


def test_a_run_measures_padding_and_time_over_its_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0, 20.0, 26.0])
    monkeypatch.setattr(engine.time, "monotonic", lambda: next(clock))
    one, other = doubles(Memory(), [1, 2], [[0], [1]]), replace(doubles(Memory(), [3, 4], [[0, 1]]), weights=30)
    other.work.add(94, 192)
    times = run_tasks([one, other], Launch("", "evaluate"), settings_of(), Checkout(tmp_path)).times
    # 6 of 8 and 100 of 200 slots hold tokens, in 2 and 6 seconds.
    assert times.pop("peak_memory_gb") > 0
    assert times == pytest.approx({"tokens_per_second": 106 / 8, "padding_share": 1 - 106 / 208, "compute_seconds": 8.0})


def test_one_meter_adds_up_several_tasks() -> None:
    small, large = doubles(Memory(), [1], []), replace(doubles(Memory(), [1], []), weights=30)
    small.work.add(1, 2)
    large.work.add(3, 5)
    joined = engine._joined([meter_of(small, 1.0), meter_of(large, 2.0)])
    assert joined == Meter(tokens=4, slots=7, seconds=3.0, operations=2 * (10 * 1 + 30 * 3))


def test_a_run_with_nothing_to_do_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_compute_here", lambda *_: pytest.fail("started"))
    report = run_tasks([doubles(Memory(**{"1": 2}), [1], [[0]])], Launch("", "evaluate"), settings_of(), Checkout(tmp_path))
    assert report == Report(times={}, items=[0], units=[0])


@pytest.mark.parametrize(
    ("section", "apart"),
    [({}, False), ({"ranks": 2}, True), ({"zero_inference": True}, True), ({"ranks": 2, "zero_inference": True}, True)],
)
def test_ranks_are_started_only_where_the_settings_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: dict[str, Any], apart: bool
) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(engine, "_compute_here", lambda *arguments: calls.append(arguments) or {"here": 1.0})
    monkeypatch.setattr(engine, "_compute_on_ranks", lambda *arguments: calls.append(arguments) or {"apart": 1.0})
    task, settings = doubles(Memory(), [1], [[0]]), settings_of(**section)
    report = run_tasks([task], Launch("m:f", "evaluate", {"a": 1}, "named"), settings, Checkout(tmp_path))
    assert report.times == ({"apart": 1.0} if apart else {"here": 1.0})
    common: tuple[Any, ...] = ([task], [[[0]]])
    assert calls == [(*common, Launch("m:f", "evaluate", {"a": 1}, "named"), settings, Checkout(tmp_path)) if apart else common]


# a run on ranks, with a launcher that leaves what ranks leave


class Launcher:
    """Writes what ranks write, and notes how it was called."""

    def __init__(self, scratch: Path, ends: list[dict[str, float]], code: int = 0) -> None:
        self.scratch, self.ends, self.code = scratch, ends, code
        self.polls = 0

    def __call__(self, options: list[str], *, ranks: int, environment: dict[str, str], poll: Any, stalls: Stalls) -> int:
        assert stalls.folder == self.scratch
        self.call = (options, ranks, environment)
        self.written = {path.name: json.loads(path.read_text()) for path in self.scratch.glob("*.json")}
        for rank, end in enumerate(self.ends):
            (self.scratch / f"finished-{rank}.json").write_text(json.dumps(end))
        poll()
        return self.code


END = {"startup_seconds": 1.0, "operations": 600.0, "tokens": 30, "slots": 40, "seconds": 2.0, "peak_gb": 0.5}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a launcher in the place of torchrun."""

    def put(launcher: Launcher) -> Launcher:
        monkeypatch.setattr(engine, "run_ranks", launcher)
        monkeypatch.setattr(engine, "rank_environment", lambda checkout, threads: {"root": str(checkout.root), "threads": str(threads)})
        return launcher

    return put


@pytest.mark.parametrize(("name", "folder"), [("", "ranks"), ("policies", "ranks-policies")])
def test_ranks_get_plan_settings_and_arguments(tmp_path: Path, launched: Any, name: str, folder: str) -> None:
    scratch = tmp_path / ".mmalign/scratch/evaluate" / folder
    scratch.mkdir(parents=True)
    (scratch / "finished-7.json").write_text("{}")  # of an earlier run
    launcher = launched(Launcher(scratch, [END, END | {"startup_seconds": 3.0, "seconds": 4.0, "peak_gb": 0.25, "tokens": 10}]))
    task, settings = doubles(Memory(), [1, 2, 3], [[2], [1], [0]]), settings_of(ranks=2, threads=5)
    times = run_tasks([task], Launch("m:f", "evaluate", [1, {"a": None}], name), settings, Checkout(tmp_path)).times
    assert launcher.written == {
        "plan.json": [[[[[2], True], [[0], True]], [[[1], True]]]],
        "arguments.json": [1, {"a": None}],
        "settings.json": settings.model_dump(mode="json", by_alias=True),
    }
    options = ["--factory", "m:f", "--stage", "evaluate", "--root", str(tmp_path), "--scratch", str(scratch)]
    assert launcher.call == (options, 2, {"root": str(tmp_path), "threads": "5"})
    assert times == pytest.approx(
        {
            "tokens_per_second": 40 / 4.0,
            "padding_share": 1 - 40 / 80,
            "peak_memory_gb": 0.5,
            "compute_seconds": 4.0,
            "startup_seconds": 3.0,
        }
    )


def test_ranks_in_step_get_equal_shares_and_the_built_op(tmp_path: Path, launched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[dict[str, str]] = []
    monkeypatch.setattr("components.engine.ops.ensure_built", built.append)
    scratch = tmp_path / ".mmalign/scratch/evaluate/ranks"
    launcher = launched(Launcher(scratch, [END, END]))
    task = doubles(Memory(), [1, 2, 3], [[2], [1], [0]])
    run_tasks([task], Launch("m:f", "evaluate"), settings_of(ranks=2, zero_inference=True), Checkout(tmp_path))
    assert launcher.written["plan.json"] == [[[[[2], True], [[0], True]], [[[1], True], [[0], False]]]]
    assert built == [{"root": str(tmp_path), "threads": "1"}]
    built.clear()
    run_tasks([task], Launch("m:f", "evaluate"), settings_of(ranks=2), Checkout(tmp_path))
    assert built == []


@pytest.mark.parametrize(("ends", "code"), [([END, END], 1), ([END], 0), ([END, END, END], 0)])
def test_ranks_that_fail_or_leave_no_end_fail_the_stage(tmp_path: Path, launched: Any, ends: list[dict[str, float]], code: int) -> None:
    launched(Launcher(tmp_path / ".mmalign/scratch/evaluate/ranks", ends, code))
    with pytest.raises(StageFault, match=f"evaluate: its processes ended with code {code}"):
        run_tasks([doubles(Memory(), [1], [[0]])], Launch("m:f", "evaluate"), settings_of(ranks=2), Checkout(tmp_path))


# progress


class Bar:
    """Stands for a progress bar."""

    def __init__(self, total: int, desc: str, unit: str, mininterval: float) -> None:
        self.total, self.desc, self.unit, self.mininterval = total, desc, unit, mininterval
        self.n, self.updates, self.closed = 0, 0, False

    def update(self, units: int) -> None:
        self.n += units
        self.updates += 1

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    made: list[Bar] = []
    monkeypatch.setattr(engine, "tqdm", lambda **options: made.append(Bar(**options)) or made[-1])
    return made


def test_bars_show_the_units_of_all_ranks(tmp_path: Path, bars: list[Bar]) -> None:
    tasks = [doubles(Memory(), [1, 2, 3], []), replace(doubles(Memory(), [5, 7], []), label="more", unit="token")]
    shown = Bars(tmp_path, tasks, [[[2], [0]], [[1, 0]]])
    shown.move()
    assert bars == []
    (tmp_path / "progress-0.jsonl").write_text("[0, 3]\n[0, 1")  # the last line is not whole yet
    shown.move()
    (one,) = bars
    assert (one.total, one.desc, one.unit, one.mininterval, one.n) == (4, "doubles", "unit", 1, 3)
    (tmp_path / "progress-0.jsonl").write_text("[0, 3]\n[0, 1]\n")
    (tmp_path / "progress-1.jsonl").write_text("[1, 5]\n[1, 0]\n[1, 7]\n")
    shown.move()
    assert [(bar.total, bar.desc, bar.unit, bar.n) for bar in bars] == [(4, "doubles", "unit", 4), (12, "more", "token", 12)]
    shown.move()
    assert [bar.n for bar in bars] == [4, 12]
    assert not any(bar.closed for bar in bars)
    shown.close()
    assert all(bar.closed for bar in bars)


def test_a_run_here_moves_its_bar_by_units(tmp_path: Path, bars: list[Bar]) -> None:
    run_tasks([doubles(Memory(**{"2": 4}), [1, 2, 3], [[2, 1], [0]])], Launch("", "evaluate"), settings_of(), Checkout(tmp_path))
    assert [(bar.total, bar.n, bar.updates, bar.closed) for bar in bars] == [(4, 4, 2, True)]


def test_a_launch_polls_and_closes_its_bars(tmp_path: Path, launched: Any, bars: list[Bar]) -> None:
    scratch = tmp_path / ".mmalign/scratch/evaluate/ranks"

    class Progress(Launcher):
        def __call__(self, *arguments: Any, poll: Any, **options: Any) -> int:
            (self.scratch / "progress-0.jsonl").write_text("[0, 1]\n")
            return super().__call__(*arguments, poll=poll, **options)

    launched(Progress(scratch, [END, END]))
    run_tasks([doubles(Memory(), [1], [[0]])], Launch("m:f", "evaluate"), settings_of(ranks=2), Checkout(tmp_path))
    assert [(bar.n, bar.closed) for bar in bars] == [(1, True)]
