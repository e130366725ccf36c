"""Whether a run that nobody watches survives what happens at night: kills at random places and times, and recovery left to itself.

- One checkout with a slice of the bundled rows and real services of its own (`mmalign up`, `mmalign deploy`). A run that nothing disturbs
  gives the reference: the weights of both models, dvc.lock, the curves in MLflow.
- Each further run has an empty run-cache; the stages before the one that is hit are done, that one and all that follow from it are not.
  While it trains, one victim gets SIGKILL: a rank, torchrun, the stage, dvc, the flow that runs the stages, the flow of the deployment
  (`night`), the worker, the worker with everything below it, Prefect's server, PostgreSQL, one of PostgreSQL's connections, a rank in the
  middle of a save. Then nothing is done until a run of the deployment has ended well and none is under way.
- What is done twice is seen from outside: the last step in the curves file ahead of a restart, and the step that the restart goes on from.

    python -m benchmarks.chaos --json
    python -m benchmarks.chaos --runs 3 --victims flow,rank,worker
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._chaos_counts import Points, figures, is_sound, lost_points, orphans, redone_intervals, sentence
from benchmarks._chaos_stack import SETTINGS, TRAINED, Result, Stack, chaos_stack, under_way
from benchmarks._chaos_victims import SERVICES, VICTIMS, find, kill
from benchmarks._chaos_watch import Watch, wait_until
from benchmarks._harness import Report, machine, show
from components.engine.checkpoints import COMMITTED

CHECKPOINT_STEPS = int(SETTINGS["training"]["checkpoint_steps"])
RECOVERY_SECONDS = 600.0
START_SECONDS = 420.0  # from the request for a run to its first step
STRIKE_SECONDS = 180.0  # from the first step to the one that the kill waits for
HOPELESS_SECONDS = 60.0  # after a run that has failed for good with none after it
CALM_SECONDS = 20.0  # that the processes of a run have to be gone after its end
LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Plan:
    """One run: who is killed, in which stage, once which step is done, and after which share of the next one."""

    victim: str
    stage: str
    step: int
    share: float
    choose: random.Random


@dataclass(frozen=True)
class Struck:
    """A kill: when (time.monotonic), after which step, how many starts the training had had, whose pids, and whether a save was under way."""

    at: float
    step: int
    starts: int
    pids: tuple[int, ...]
    in_a_save: bool


def run(runs: int, seed: int, victims: Sequence[str] = VICTIMS, *, keep: bool = False) -> Report:
    """The benchmark's report. Everything that was started is ended, whatever happens."""
    began = time.monotonic()
    records: list[dict[str, Any]] = []
    with chaos_stack(say, lambda: keep or any(not is_sound(record) for record in records)) as stack:
        reference, seconds = undisturbed(stack)
        say(f"the undisturbed run: {seconds:.0f} s")
        kills_began = time.monotonic()
        for number, plan in enumerate(plans(runs, seed, victims, reference), start=1):
            record = one_run(stack, plan, reference)
            records.append(record)
            mean = (time.monotonic() - kills_began) / number
            say(f"{number}/{runs} {plan.victim}: {sentence(record)}; about {mean * (runs - number) / 60:.0f} minutes left")
    whole = {"undisturbed_seconds": round(seconds, 1), "seconds": round(time.monotonic() - began, 1), "seed": seed}
    return {**figures(records), **whole, "each": records, "machine": machine(threads=2)}


def plans(runs: int, seed: int, victims: Sequence[str], reference: Result) -> list[Plan]:
    """Each victim in its turn; a quarter of the runs are hit in the reward model's training, which takes longer to follow up."""
    choose = random.Random(seed)  # noqa: S311 -- places and times, no secret
    stages = [TRAINED[0] if number % 4 == 0 else TRAINED[1] for number in range(runs)]
    choose.shuffle(stages)
    made = []
    for number, stage in enumerate(stages):
        own = random.Random(f"{seed}-{number}")  # noqa: S311 -- as above
        last = steps_of(reference.curves[stage])
        made.append(Plan(victims[number % len(victims)], stage, own.randint(1, last - 1), own.random(), own))
    return made


def steps_of(points: Points) -> int:
    """The number of steps of a training, from its curves."""
    return max(step for _, step, _ in points)


def undisturbed(stack: Stack) -> tuple[Result, float]:
    """The reference, and how long its run took."""
    began = time.monotonic()
    stack.trigger(accept_data=True)
    until = began + 1800
    while under_way(runs := stack.runs()):
        if time.monotonic() > until:
            raise TimeoutError("the undisturbed run did not end within half an hour")
        time.sleep(LOOK_SECONDS)
    if runs[-1]["state_type"] != "COMPLETED":
        raise RuntimeError(f"the undisturbed run ended as {runs[-1]['state_name']}: {(runs[-1]['state'] or {}).get('message')}")
    seconds = time.monotonic() - began
    return stack.result({stage: stack.curve_names(stage) for stage in TRAINED}), seconds


def one_run(stack: Stack, plan: Plan, reference: Result) -> dict[str, Any]:
    """Kill once in a run, wait until it has recovered, and compare what it made with the reference."""
    before = {one["id"] for one in stack.runs()}
    stack.prepare(plan.stage)
    watch = Watch(stack.scratch(plan.stage)).start()
    try:
        began = time.monotonic()
        stack.trigger()
        struck = strike(stack, plan, watch)
        works, ends, runs = recovery(stack, plan, watch, struck, before)
    finally:
        watch.stop()
    recovered = ends is not None
    left = leftovers(stack)
    record: dict[str, Any] = {
        "victim": plan.victim,
        "stage": plan.stage,
        "step": struck.step,
        "states": [one["state_name"] for one in runs],
        "recovered": recovered,
        "seconds_to_recover": round((works or ends or time.monotonic()) - struck.at, 1),
        "seconds_to_end": round((ends or time.monotonic()) - struck.at, 1),
        "seconds": round(time.monotonic() - began, 1),
        "starts": [(attempt.resumed_from, attempt.last_step) for attempt in watch.attempts],
        "redone_intervals": redone_intervals(watch.attempts, CHECKPOINT_STEPS),
        "in_a_save": struck.in_a_save,
        "orphans": left,
        "identical": False,
        "lost_metrics": 0,
    }
    if recovered:
        wanted = reference.curves[plan.stage]
        found = stack.result({plan.stage: {name for name, _, _ in wanted}})
        record["identical"] = found.weights == reference.weights and found.lock == reference.lock
        record["lost_metrics"] = lost_points(wanted, found.curves[plan.stage])
    else:
        stack.slice.mmalign("cancel", timeout=120)  # so that the next run has its turn
    return record


def strike(stack: Stack, plan: Plan, watch: Watch) -> Struck:
    """Kill the plan's victim at its step, or during the first save from there on."""

    wait_until(lambda: watch.step, START_SECONDS, 0.05, f"the first step of {plan.stage}")
    victims = find(plan.victim, stack.root, plan.stage, plan.choose)
    saved: Path | None = None
    if plan.victim == "save":
        saved = wait_until(lambda: watch.unfinished() if watch.step >= plan.step else None, STRIKE_SECONDS, 0.002, "a save")
    else:
        wait_until(lambda: watch.step >= plan.step, STRIKE_SECONDS, 0.005, f"step {plan.step} of {plan.stage}")
        time.sleep(plan.share * step_seconds(watch))
        if plan.victim in {"worker and all below", "connection"}:  # children and connections come and go
            victims = find(plan.victim, stack.root, plan.stage, plan.choose)
    at = time.monotonic()
    kill(plan.victim, victims)
    watch.look()
    in_a_save = saved is not None and not (saved / COMMITTED).exists()
    return Struck(at, watch.step, len(watch.attempts), tuple(victim.pid for victim in victims), in_a_save)


def step_seconds(watch: Watch) -> float:
    """How long a step takes here: the median so far, and half a second where only one was seen."""
    seen = watch.attempts[-1].steps_at
    return median([after - before for before, after in pairwise(seen)] or [0.5])


def recovery(
    stack: Stack, plan: Plan, watch: Watch, struck: Struck, before: set[str]
) -> tuple[float | None, float | None, list[dict[str, Any]]]:
    """When (time.monotonic) it worked again and when a run had ended well, None where that never came; and the runs that there were."""
    works: float | None = None
    service: float | None = None
    last_seen = time.monotonic()
    runs: list[dict[str, Any]] = []
    # What is started anew counts from its own start on; where a service was hit, training may go on as it was.
    starts = struck.starts - 1 if plan.victim in SERVICES else struck.starts
    while time.monotonic() - struck.at < RECOVERY_SECONDS:
        time.sleep(LOOK_SECONDS)
        if service is None and stack.service_works(plan.victim, struck.pids):
            service = time.monotonic()
        stepped = watch.stepped_since(struck.at, attempts=starts)
        if works is None and service is not None and stepped is not None:
            works = max(service, stepped)
        try:
            runs = [one for one in stack.runs() if one["id"] not in before]
        except OSError:  # the server is away
            continue
        if under_way(runs):
            last_seen = time.monotonic()
        elif any(one["state_type"] == "COMPLETED" for one in runs):
            return works, time.monotonic(), runs
        elif runs and runs[-1]["state_type"] == "FAILED" and time.monotonic() - last_seen > HOPELESS_SECONDS:
            break
    return works, None, runs


def leftovers(stack: Stack) -> list[str]:
    """The orphans that are still there some time after a run's end."""
    until = time.monotonic() + CALM_SECONDS
    while left := orphans(stack.living(), stack.supervisor()):
        if time.monotonic() > until:
            break
        time.sleep(LOOK_SECONDS)
    return [f"{process.pid} {process.command}" for process in left]


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def table(report: Report) -> Report:
    """The report with a sentence a run."""
    lines = {f"{number:>2} {record['victim']}": sentence(record) for number, record in enumerate(report["each"], start=1)}
    return {**report, "each": lines}


def main() -> None:
    """Run with the options of the command line. The exit code is 1 where a run was not as it must be."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options.add_argument("--runs", type=int, default=len(VICTIMS), help="runs with a kill (default: one for each victim)")
    options.add_argument("--seed", type=int, default=0, help="of the places and times")
    options.add_argument("--victims", default=",".join(VICTIMS), help="who is killed, in turn (default: %(default)s)")
    options.add_argument("--keep", action="store_true", help="leave the checkout where it is, for its logs")
    given = options.parse_args()
    victims = given.victims.split(",")
    if unknown := [name for name in victims if name not in VICTIMS]:
        options.error(f"there is no victim {', '.join(unknown)}; there are {', '.join(VICTIMS)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended then too

    try:
        with contextlib.redirect_stdout(sys.stderr):
            report = run(given.runs, given.seed, victims, keep=given.keep)
    except KeyboardInterrupt:
        sys.exit(130)
    show(report if given.json else table(report), given.json)
    sys.exit(0 if all(is_sound(record) for record in report["each"]) else 1)


if __name__ == "__main__":
    main()
