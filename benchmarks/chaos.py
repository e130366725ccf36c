"""Whether a scheduled run recovers by itself from kills at random processes and times.

- One checkout has a slice of the bundled rows and its own real services (`mmalign up`, `mmalign deploy`). An undisturbed run gives the
  reference: the weights of both models, dvc.lock, the curves in MLflow.
- Each further run has an empty run-cache. The stages before the trained one are up to date; the trained one and all that depend on it are
  stale. During the training, one target gets SIGKILL: a rank, torchrun, the stage, dvc, the flow, the worker, the worker with all processes
  below it, Prefect's server, MLflow's server, both servers, PostgreSQL, one of PostgreSQL's connections, or a rank during a save. Two kills
  come later: the flow's right after the training's process, before the next stage, and the flow's after the last stage, while it judges. The
  benchmark then waits until a run of the deployment has completed and none is active.
- The benchmark measures repeated work by the last step in the curves file before a restart, and the step from which the restart resumes.

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

from benchmarks._chaos_counts import Points, is_sound, lost_points, metrics, orphans, redone_intervals, sentence
from benchmarks._chaos_stack import SETTINGS, TRAINED, Result, Stack, chaos_stack, under_way
from benchmarks._chaos_targets import SERVICES, TARGETS, find, kill
from benchmarks._chaos_watch import Watch, wait_until
from benchmarks._harness import Report, machine, show
from components.engine.checkpoints import COMMITTED

CHECKPOINT_STEPS = int(SETTINGS["training"]["checkpoint_every"].removesuffix(" steps"))
RUNS = 20  # each target once, and some twice
RECOVERY_SECONDS = 600.0
START_SECONDS = 420.0  # from the request for a run to its first step
STRIKE_SECONDS = 180.0  # from the first step to the step of the kill
HOPELESS_SECONDS = 60.0  # after a failed run without a successor
CALM_SECONDS = 20.0  # from a run's end to the end of its last process
POLL_SECONDS = 0.5
AFTER = {"flow between stages": None, "flow in the verdict": "evaluate"}  # the stage after whose process to kill; None: the trained one
VERDICT_SECONDS = 5.0  # from the last stage's process to the verdict, at most


@dataclass(frozen=True)
class Plan:
    """One run: the target, the stage, the step after which to kill, and the share of the next step to wait first."""

    target: str
    stage: str
    step: int
    share: float
    choose: random.Random


@dataclass(frozen=True)
class Struck:
    """A kill: its time (time.monotonic), the last step, the training's starts so far, the killed pids, and whether it hit a save."""

    at: float
    step: int
    starts: int
    pids: tuple[int, ...]
    in_a_save: bool


def run(runs: int, seed: int, targets: Sequence[str] = TARGETS, *, keep: bool = False) -> Report:
    """The benchmark's report. Always ends all processes that it started."""
    began = time.monotonic()
    records: list[dict[str, Any]] = []
    with chaos_stack(log, lambda: keep or any(not is_sound(record) for record in records)) as stack:
        reference, seconds = undisturbed(stack)
        log(f"the undisturbed run: {seconds:.0f} s")
        kills_began = time.monotonic()
        for number, plan in enumerate(plans(runs, seed, targets, reference), start=1):
            record = one_run(stack, plan, reference)
            records.append(record)
            mean = (time.monotonic() - kills_began) / number
            log(f"{number}/{runs} {plan.target}: {sentence(record)}; about {mean * (runs - number) / 60:.0f} minutes left")
    whole = {"undisturbed_seconds": round(seconds, 1), "seconds": round(time.monotonic() - began, 1), "seed": seed}
    return {**metrics(records), **whole, "each": records, "machine": machine(threads=2)}


def plans(runs: int, seed: int, targets: Sequence[str], reference: Result) -> list[Plan]:
    """A plan for each run, with the targets in rotation. A quarter hit the reward model's training, after which more stages run."""
    choose = random.Random(seed)  # noqa: S311 -- places and times, no secret
    stages = [TRAINED[0] if number % 4 == 0 else TRAINED[1] for number in range(runs)]
    choose.shuffle(stages)
    made = []
    for number, stage in enumerate(stages):
        own = random.Random(f"{seed}-{number}")  # noqa: S311 -- as above
        last = steps_of(reference.curves[stage])
        made.append(Plan(targets[number % len(targets)], stage, own.randint(1, last - 1), own.random(), own))
    return made


def steps_of(points: Points) -> int:
    """The number of a training's steps, from its curves."""
    return max(step for _, step, _ in points)


def undisturbed(stack: Stack) -> tuple[Result, float]:
    """The reference, and the seconds of its run."""
    began = time.monotonic()
    stack.trigger(accept_data=True)
    until = began + 1800
    while under_way(runs := stack.runs()):
        if time.monotonic() > until:
            raise TimeoutError("the undisturbed run did not end within half an hour")
        time.sleep(POLL_SECONDS)
    if runs[-1]["state_type"] != "COMPLETED":
        raise RuntimeError(f"the undisturbed run ended as {runs[-1]['state_name']}: {(runs[-1]['state'] or {}).get('message')}")
    seconds = time.monotonic() - began
    return stack.result({stage: stack.curve_names(stage) for stage in TRAINED}), seconds


def one_run(stack: Stack, plan: Plan, reference: Result) -> dict[str, Any]:
    """Kill once in a run, wait for its recovery, and compare its result with the reference."""
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
        "victim": plan.target,
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
        result = stack.result({plan.stage: {name for name, _, _ in wanted}})
        record["identical"] = result.weights == reference.weights and result.lock == reference.lock and stack.judged()
        record["lost_metrics"] = lost_points(wanted, result.curves[plan.stage])
    else:
        stack.slice.mmalign("cancel", timeout=120)  # so that the next run can start
    return record


def strike(stack: Stack, plan: Plan, watch: Watch) -> Struck:
    """Kill the plan's target at its step, or during the first save after it."""

    wait_until(lambda: watch.step, START_SECONDS, 0.05, f"the first step of {plan.stage}")
    if plan.target in AFTER:
        return strike_later(stack, plan, watch)
    processes = find(plan.target, stack.root, plan.stage, plan.choose)
    saved: Path | None = None
    if plan.target == "save":
        saved = wait_until(lambda: watch.unfinished() if watch.step >= plan.step else None, STRIKE_SECONDS, 0.002, "a save")
    else:
        wait_until(lambda: watch.step >= plan.step, STRIKE_SECONDS, 0.005, f"step {plan.step} of {plan.stage}")
        time.sleep(plan.share * step_seconds(watch))
        if plan.target in {"worker and all below", "connection"}:  # children and connections come and go
            processes = find(plan.target, stack.root, plan.stage, plan.choose)
    at = time.monotonic()
    kill(plan.target, processes)
    watch.poll()
    in_a_save = saved is not None and not (saved / COMMITTED).exists()
    return Struck(at, watch.step, len(watch.attempts), tuple(process.pid for process in processes), in_a_save)


def strike_later(stack: Stack, plan: Plan, watch: Watch) -> Struck:
    """Kill the flow when a stage's process has ended: at once, or in the seconds in which the flow judges."""
    stage = plan.stage if AFTER[plan.target] is None else str(AFTER[plan.target])

    def works() -> bool:
        try:
            return bool(find("stage", stack.root, stage, plan.choose))
        except LookupError:
            return False

    wait_until(works, START_SECONDS, 0.02, f"the process of {stage}")
    wait_until(lambda: not works(), START_SECONDS, 0.02, f"the end of {stage}")
    if plan.target == "flow in the verdict":
        time.sleep(VERDICT_SECONDS * plan.share)
    processes = find(plan.target, stack.root, plan.stage, plan.choose)
    at = time.monotonic()
    kill(plan.target, processes)
    watch.poll()
    return Struck(at, watch.step, len(watch.attempts), tuple(process.pid for process in processes), False)


def step_seconds(watch: Watch) -> float:
    """The median duration of a step so far; half a second if only one step was observed."""
    seen = watch.attempts[-1].steps_at
    return median([after - before for before, after in pairwise(seen)] or [0.5])


def recovery(
    stack: Stack, plan: Plan, watch: Watch, struck: Struck, before: set[str]
) -> tuple[float | None, float | None, list[dict[str, Any]]]:
    """The times (time.monotonic) of recovery and of a completed run, None for each that never came; and the new runs."""
    works: float | None = None
    service: float | None = None
    last_seen = time.monotonic()
    runs: list[dict[str, Any]] = []
    # A killed training recovers by a new start; after the kill of a service, the same training may continue.
    starts = struck.starts - 1 if plan.target in SERVICES else struck.starts
    while time.monotonic() - struck.at < RECOVERY_SECONDS:
        time.sleep(POLL_SECONDS)
        if service is None and stack.service_works(plan.target, struck.pids):
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
    """The orphans that still live CALM_SECONDS after a run's end."""
    until = time.monotonic() + CALM_SECONDS
    while left := orphans(stack.living(), stack.supervisor()):
        if time.monotonic() > until:
            break
        time.sleep(POLL_SECONDS)
    return [f"{process.pid} {process.command}" for process in left]


def log(text: str) -> None:
    """Print a line of progress to standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def table(report: Report) -> Report:
    """The report with one line a run."""
    lines = {f"{number:>2} {record['victim']}": sentence(record) for number, record in enumerate(report["each"], start=1)}
    return {**report, "each": lines}


def main() -> None:
    """Run with the options of the command line. The exit code is 1 if a run is not sound."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options.add_argument("--runs", type=int, default=RUNS, help=f"runs with a kill (default: {RUNS}; the targets take turns)")
    options.add_argument("--seed", type=int, default=0, help="seed of the stages, steps and times")
    options.add_argument("--victims", default=",".join(TARGETS), help="targets to kill, in rotation (default: %(default)s)")
    options.add_argument("--keep", action="store_true", help="do not remove the checkout, for its logs")
    arguments = options.parse_args()
    targets = arguments.victims.split(",")
    if unknown := [name for name in targets if name not in TARGETS]:
        options.error(f"--victims: unknown target {', '.join(unknown)}; choose from {', '.join(TARGETS)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM ends the services too

    try:
        with contextlib.redirect_stdout(sys.stderr):
            report = run(arguments.runs, arguments.seed, targets, keep=arguments.keep)
    except KeyboardInterrupt:
        sys.exit(130)
    show(report if arguments.json else table(report), arguments.json)
    sys.exit(0 if all(is_sound(record) for record in report["each"]) else 1)


if __name__ == "__main__":
    main()
