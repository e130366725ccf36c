"""Which batches are computed, by which rank, and what a run of tasks counts, with tasks that need no model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from components.checkout import Checkout
from components.config.settings import Settings, parse_settings
from components.engine import inference as engine
from components.engine.inference import (
    Bars,
    Launch,
    Report,
    compute_batch,
    finishing,
    meter_of,
    missing_batches,
    run_tasks,
    share_out,
)
from components.engine.inference_task import InferenceTask, Work
from components.engine.ranks import Ranks
from components.engine.throughput import Meter
from components.errors import StageFault
from components.processes.stalls import Stalls

ROOT = Path(__file__).resolve().parents[2]


class Memory:
    """A store in memory that notes what is written together."""

    def __init__(self, **values: Any) -> None:
        self.values: dict[str, Any] = values
        self.writes: list[dict[str, Any]] = []

    def find(self, keys: Iterable[str]) -> dict[str, Any]:
        return {key: self.values[key] for key in keys if key in self.values}

    def store(self, values: Mapping[str, Any]) -> None:
        self.writes.append(dict(values))
        self.values.update(values)


@dataclass
class Doubles(InferenceTask):
    """Twice each number, by the planned batches; numbers count as many units as their size."""

    numbers: list[int]
    batches: list[list[int]]
    weights: int = 10
    seen: list[tuple[list[int], Ranks]] = field(default_factory=list)
    ended: int = 0
    planned: int = 0

    def plan(self) -> list[list[int]]:
        self.planned += 1
        return self.batches

    def compute(self, items: Sequence[int], ranks: Ranks) -> list[int]:
        self.seen.append((list(items), ranks))
        self.work.add(3 * len(items), 4 * len(items))
        return [2 * self.numbers[item] for item in items]

    def size(self, item: int) -> int:
        return self.numbers[item]

    def operations(self) -> float:
        return 2.0 * self.weights * self.work.tokens

    def finish(self) -> None:
        self.ended += 1


def doubles(store: Memory, numbers: list[int], batches: list[list[int]], keys: list[str] | None = None) -> Doubles:
    return Doubles("doubles", "unit", keys or [str(number) for number in numbers], store, numbers, batches)


def settings_of(**evaluate: Any) -> Settings:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["evaluate"] |= {"ranks": 1, "threads": 1, "zero_inference": False} | evaluate
    return parse_settings(values, "params.yaml")


# what is missing


@pytest.mark.parametrize(
    ("stored", "batches"),
    [
        ([], [[3, 2], [1, 0]]),
        (["1"], [[3, 2], [1]]),
        (["4"], [[2], [1, 0]]),
        (["1", "2"], [[3, 2]]),
        (["1", "2", "3"], [[3]]),
        (["1", "2", "3", "4"], []),
    ],
)
def test_a_batch_loses_the_items_that_are_stored(stored: list[str], batches: list[list[int]]) -> None:
    task = doubles(Memory(**dict.fromkeys(stored, 0)), [1, 2, 3, 4], [[3, 2], [1, 0]])
    assert missing_batches([task]) == [batches]


def test_a_key_that_comes_twice_is_computed_once() -> None:
    store = Memory()
    first = doubles(store, [5, 5, 7], [[0, 1], [2]])
    second = doubles(store, [7, 9, 5], [[0], [1, 2]])
    assert missing_batches([first, second]) == [[[0], [2]], [[1]]]


def test_a_task_that_lacks_nothing_is_not_planned() -> None:
    complete, lacking = doubles(Memory(**{"5": 10}), [5], [[0]]), doubles(Memory(), [5], [[0]])
    assert missing_batches([complete, lacking]) == [[], [[0]]]
    assert (complete.planned, lacking.planned) == (0, 1)


# who computes what


@pytest.mark.parametrize(
    ("count", "ranks", "lockstep", "shares"),
    [
        (4, 1, False, [[0, 1, 2, 3]]),
        (4, 2, False, [[0, 2], [1, 3]]),
        (5, 2, False, [[0, 2, 4], [1, 3]]),
        (5, 3, False, [[0, 3], [1, 4], [2]]),
        (1, 3, False, [[0], [], []]),
        (0, 2, False, [[], []]),
        (4, 2, True, [[0, 2], [1, 3]]),
        (5, 2, True, [[0, 2, 4], [1, 3, "4"]]),
        (4, 3, True, [[0, 3], [1, "3"], [2, "3"]]),
        (5, 3, True, [[0, 3], [1, 4], [2, "3"]]),
        (1, 2, True, [[0], ["0"]]),
        (0, 2, True, [[], []]),
    ],
)
def test_batches_are_dealt_out_in_turn(count: int, ranks: int, lockstep: bool, shares: list[list[int | str]]) -> None:
    # A text stands for a batch that is run once more so that ranks keep in step, and counts nothing.
    expected = [[([10 * int(n), int(n)], isinstance(n, int)) for n in share] for share in shares]
    assert share_out([[10 * n, n] for n in range(count)], ranks, lockstep=lockstep) == expected


def test_a_batch_that_counts_is_stored_and_its_units_returned() -> None:
    store = Memory()
    task, rank = doubles(store, [5, 6, 7], []), Ranks(1, 2)
    assert compute_batch(task, [2, 0], rank) == 7 + 5
    assert store.writes == [{"7": 14, "5": 10}]
    assert task.seen == [([2, 0], rank)]
    assert compute_batch(task, [1], rank, counts=True) == 6


def test_a_batch_that_does_not_count_is_run_and_not_stored() -> None:
    store = Memory()
    task = doubles(store, [5, 6, 7], [])
    assert compute_batch(task, [2, 0], Ranks(), counts=False) == 0
    assert (store.writes, len(task.seen)) == ([], 1)


def test_a_task_with_too_few_values_is_refused() -> None:
    task = doubles(Memory(), [5, 6], [])
    task.compute = lambda items, ranks: [1]  # type: ignore[method-assign]  # noqa: ARG005
    with pytest.raises(ValueError, match="argument"):
        compute_batch(task, [0, 1], Ranks())


def test_a_task_is_finished_however_its_block_ends() -> None:
    task = doubles(Memory(), [5], [])
    with finishing(task):
        assert task.ended == 0
    assert task.ended == 1
    with pytest.raises(KeyboardInterrupt), finishing(task):
        raise KeyboardInterrupt
    assert task.ended == 2


# results and work


def test_results_come_in_the_order_of_the_items() -> None:
    task = doubles(Memory(**{"5": "five", "7": "seven"}), [7, 5, 7], [])
    assert task.results() == ["seven", "five", "seven"]
    with pytest.raises(KeyError):
        doubles(Memory(), [7], []).results()


def test_an_item_counts_one_unit_unless_its_task_says_otherwise() -> None:
    assert InferenceTask.size(doubles(Memory(), [7], []), 0) == 1
    assert doubles(Memory(), [7], []).size(0) == 7


def test_work_adds_up_passes() -> None:
    work = Work()
    assert work == Work(0, 0, 0, 0)
    work.add(3, 8, 2, 6)
    work.add(2, 4)
    assert work == Work(tokens=5, slots=12, targets=2, pairs=6)


def test_a_meter_holds_what_a_task_has_run() -> None:
    task = doubles(Memory(), [5], [])
    task.work.add(30, 40)
    meter = meter_of(task, 2.5)
    assert meter == Meter(tokens=30, slots=40, seconds=2.5, operations=2 * 10 * 30)


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


def made_here(settings: Settings, checkout: Checkout, arguments: Any) -> list[Any]:
    return [settings, checkout, arguments]
