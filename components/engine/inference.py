"""Runs a stage's tasks: in this process, or shared out over ranks.

1. The batches of every task are planned, and what the stores hold already is taken out of them.
2. One rank: they are computed here, one by one, with no process started. More: each rank takes whole batches in turn, and this process
   shows their progress and waits.
3. Every batch's results go to the task's store as it is done, so that a killed run goes on where it was; the stage then takes them from
   there in the order of its items. Two ranks leave what one leaves.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from components.checkout import Checkout
from components.config.settings import Settings
from components.engine import ops
from components.engine.inference_task import InferenceTask
from components.engine.launcher import ARGUMENTS, SETTINGS, fault_of, rank_environment, run_ranks
from components.engine.ranks import Ranks, inference_section
from components.engine.throughput import Meter, peak_memory_gb, summarise
from components.files import read_json, write_json
from components.processes import heartbeat
from components.processes.stalls import Stalls

PLAN = "plan.json"
Batches = list[list[int]]


@dataclass(frozen=True)
class Launch:
    """How other processes build the same tasks: `factory` ("module:function") is called with (settings, root, arguments).

    `arguments` are JSON; `name` tells several runs of one stage apart.
    """

    factory: str
    stage: str
    arguments: Any = None
    name: str = ""

    def scratch(self, checkout: Checkout) -> Path:
        """The folder of what the ranks read and leave."""
        return checkout.scratch() / self.stage / (f"ranks-{self.name}" if self.name else "ranks")


@dataclass
class Report:
    """What a run of tasks took: `times` go into the stage's record; the others count, task by task, items and units that were computed."""

    times: dict[str, float] = field(default_factory=dict)
    items: list[int] = field(default_factory=list)
    units: list[int] = field(default_factory=list)


def run_tasks(tasks: Sequence[InferenceTask], launch: Launch, settings: Settings, checkout: Checkout) -> Report:
    """Compute what the stores of `tasks` lack. Their results are then in the stores.

    Raises UserError or StageFault with the first failing rank's reason.
    """
    todo = missing_batches(tasks)
    report = Report(
        items=[sum(len(batch) for batch in batches) for batches in todo],
        units=[sum(task.size(item) for batch in batches for item in batch) for task, batches in zip(tasks, todo, strict=True)],
    )
    if not any(report.items):
        return report
    for task, count in zip(tasks, report.items, strict=True):
        if 0 < count < len(task.keys):
            print(f"{launch.stage}: {len(task.keys) - count} of {len(task.keys)} are kept from before: {task.label}", flush=True)
    for task, batches in zip(tasks, todo, strict=True):
        if batches:
            task.prepare([item for batch in batches for item in batch])
    section = inference_section(settings, launch.stage)
    if section.ranks == 1 and not section.zero_inference:
        report.times = _compute_here(tasks, todo)
    else:
        report.times = _compute_on_ranks(tasks, todo, launch, settings, checkout)
    return report


def missing_batches(tasks: Sequence[InferenceTask]) -> list[Batches]:
    """Each task's batches without the items whose values are there, or are computed by an earlier batch."""
    todo: list[Batches] = []
    coming: set[str] = set()
    for task in tasks:
        cached = task.store.find(task.keys).keys()
        batches: Batches = []
        for batch in task.plan() if any(key not in cached for key in task.keys) else []:
            left = []
            for item in batch:
                if task.keys[item] not in cached and task.keys[item] not in coming:
                    coming.add(task.keys[item])
                    left.append(item)
            if left:
                batches.append(left)
        todo.append(batches)
    return todo


def share_out(batches: Batches, ranks: int, *, lockstep: bool) -> list[list[tuple[list[int], bool]]]:
    """Each rank's (batch, whether its results count): in turn, so that every rank gets long and short ones alike.

    Ranks in lockstep get equally many: one without a batch in the last round runs its neighbour's once more.
    """
    shares: list[list[tuple[list[int], bool]]] = [[(batch, True) for batch in batches[rank::ranks]] for rank in range(ranks)]
    if lockstep:
        for share in shares[1:]:
            if len(share) < len(shares[0]):
                share.append((shares[0][-1][0], False))
    return shares


def compute_batch(task: InferenceTask, batch: list[int], ranks: Ranks, *, counts: bool = True) -> int:
    """Compute one batch and keep its results. Returns how many units were done."""
    values = task.compute(batch, ranks)
    if not counts:
        return 0
    task.store.store({task.keys[item]: value for item, value in zip(batch, values, strict=True)})
    return sum(task.size(item) for item in batch)


@contextmanager
def finishing(task: InferenceTask) -> Iterator[None]:
    """What a task still holds is written, however the block ends."""
    try:
        yield
    finally:
        task.finish()


def _compute_here(tasks: Sequence[InferenceTask], todo: list[Batches]) -> dict[str, float]:
    meters = []
    for task, batches in zip(tasks, todo, strict=True):
        if not batches:
            continue
        started = time.monotonic()
        with _bar(task, batches) as bar, finishing(task):
            for batch in batches:
                bar.update(compute_batch(task, batch, Ranks()))
        meters.append(meter_of(task, time.monotonic() - started))
    return _times([_joined(meters)], [peak_memory_gb()])


def _compute_on_ranks(
    tasks: Sequence[InferenceTask], todo: list[Batches], launch: Launch, settings: Settings, checkout: Checkout
) -> dict[str, float]:
    section = inference_section(settings, launch.stage)
    scratch = launch.scratch(checkout)
    shutil.rmtree(scratch, ignore_errors=True)
    write_json(scratch / SETTINGS, settings.model_dump(mode="json", by_alias=True))
    write_json(scratch / ARGUMENTS, launch.arguments)
    shares = [share_out(batches, section.ranks, lockstep=section.zero_inference) for batches in todo]
    write_json(scratch / PLAN, shares)
    environment = rank_environment(checkout, section.threads)
    if section.zero_inference:
        ops.ensure_built(environment)
    options = [
        "--factory",
        launch.factory,
        "--stage",
        launch.stage,
        "--root",
        str(checkout.root.resolve()),
        "--scratch",
        str(scratch.resolve()),
    ]
    bars = Bars(scratch, tasks, todo)
    try:
        stalls = Stalls(scratch, section.ranks)
        code = run_ranks(options, ranks=section.ranks, environment=environment, poll=bars.move, stalls=stalls)
    finally:
        bars.close()
    ends = sorted(scratch.glob("finished-*.json"))
    if code != 0 or len(ends) != section.ranks:
        raise fault_of(scratch, launch.stage, code)
    left = [read_json(path) for path in ends]
    meters = [Meter(end["tokens"], end["slots"], end["seconds"], end["operations"]) for end in left]
    return _times(meters, [end["peak_gb"] for end in left]) | {"startup_seconds": max(end["startup_seconds"] for end in left)}


def compute_shares(tasks: Sequence[InferenceTask], ranks: Ranks, scratch: Path) -> dict[str, float]:
    """Compute this rank's batches of every task, in order, noting each in its progress file. Returns what it ran, for the launcher."""
    shares = [task[ranks.rank] for task in read_json(scratch / PLAN)]
    meters = []
    with (scratch / f"progress-{ranks.rank}.jsonl").open("w", encoding="utf-8") as progress:
        for number, (task, share) in enumerate(zip(tasks, shares, strict=True)):
            started = time.monotonic()
            with finishing(task):
                for index, (batch, counts) in enumerate(share):
                    heartbeat.enter(f"{task.label}: batch {index + 1} of {len(share)}")
                    progress.write(json.dumps([number, compute_batch(task, batch, ranks, counts=counts)]) + "\n")
                    progress.flush()
            heartbeat.enter(f"{task.label}: the end")
            if share:
                meters.append(meter_of(task, time.monotonic() - started))
    return {
        "tokens": sum(meter.tokens for meter in meters),
        "slots": sum(meter.slots for meter in meters),
        "seconds": sum(meter.seconds for meter in meters),
        "operations": sum(meter.operations for meter in meters),
        "peak_gb": peak_memory_gb(),
    }


class Bars:
    """The ranks' progress in one bar a task. A rank appends a line (task, units) to its file for every batch that it has done."""

    def __init__(self, scratch: Path, tasks: Sequence[InferenceTask], todo: list[Batches]) -> None:
        self._scratch = scratch
        self._tasks = list(zip(tasks, todo, strict=True))
        self._bars: dict[int, Any] = {}

    def move(self) -> None:
        """Show what has been done."""
        completed = [0] * len(self._tasks)
        for path in self._scratch.glob("progress-*.jsonl"):
            text = path.read_text(encoding="utf-8")
            for line in text[: text.rfind("\n") + 1].splitlines():
                number, units = json.loads(line)
                completed[number] += units
        for number, units in enumerate(completed):
            if units:
                if number not in self._bars:
                    self._bars[number] = _bar(*self._tasks[number])
                self._bars[number].update(units - self._bars[number].n)

    def close(self) -> None:
        """Leave the bars as they are."""
        for bar in self._bars.values():
            bar.close()


def meter_of(task: InferenceTask, seconds: float) -> Meter:
    """What a task has run, in `seconds`."""
    return Meter(task.work.tokens, task.work.slots, seconds, task.operations())


def _joined(meters: Sequence[Meter]) -> Meter:
    """One meter for tasks that ran one after another."""
    whole = Meter()
    for meter in meters:
        whole.add(meter.tokens, meter.slots, meter.seconds, meter.operations)
    return whole


def _times(meters: Sequence[Meter], peaks: Sequence[float]) -> dict[str, float]:
    return {name: value for name, value in summarise(meters, peaks).items() if value is not None} | {
        "compute_seconds": max(meter.seconds for meter in meters)
    }


def _bar(task: InferenceTask, batches: Batches) -> Any:
    total = sum(task.size(item) for batch in batches for item in batch)
    return tqdm(total=total, desc=task.label, unit=task.unit, mininterval=1)
