"""`mmalign run --seeds N`: how far a run's metrics move when nothing but the seed of the trainings changes.

- The first seed is that of the settings: the usual run, with its verdict. The others are runs with that one setting changed, each in a copy of the
  checkout (components/storage/copies.py), one after another. They are not judged: no look at the held-out queries is spent, nothing is promoted.
- reports/seeds.json has each seed's results as soon as it ends. The same command goes on with the missing seeds, in their copies, and trains
  nothing where none is missing. Results of other data, settings or code are not reused.
- One command at a time in a checkout (a lock); each run has its copy's run lock as well.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from components.checkout import Checkout
from components.cli.run.one_run import Wanted, log, one_run, workspace
from components.cli.stdout import output_on_stderr
from components.config.overrides import changed_settings
from components.config.settings import Settings, load_settings
from components.errors import UserError
from components.processes.guard import lock_holder, try_lock
from components.report.run_record import render_page
from components.report.seeds import SEEDS, Seeds, Varies, inputs_digest, print_seeds, read_seeds, seed_run, write_seeds

LEAST_SEEDS = 2
Run = Callable[[Wanted], int]


def run_seeds(own: Checkout, wanted: Wanted, count: int, *, reward: bool, as_json: bool) -> int:
    """Run with `count` seeds, print their spread and record it; returns the exit code of the first run that failed, or 0. Raises UserError."""
    if count < LEAST_SEEDS:
        raise UserError(f"--seeds {count}: a spread needs at least {LEAST_SEEDS} seeds")
    if wanted.stages:
        raise UserError("--only belongs to one run of one stage: leave out --seeds")
    path = own.locks / "seeds.lock"
    lock = try_lock(path)
    if lock is None:
        raise UserError(f"seeds are run in this checkout already: {lock_holder(path)}; wait for it or end it")
    try:
        with output_on_stderr(as_json):
            code = _all_seeds(own, wanted, count, "reward_model_and_policy" if reward else "policy")
        if code == 0 and as_json:
            print(json.dumps(_read(workspace(own, wanted)).as_json(), indent=2))
    finally:
        lock.release()
    return code


def _all_seeds(own: Checkout, wanted: Wanted, count: int, varies: Varies) -> int:
    first = workspace(own, wanted)
    settings = load_settings(own.params, changed_settings(own.params, wanted.assignments))
    numbers = wanted_seeds(settings, count, varies)
    read_seeds(first)  # reports a mistake in the file before the trainings, not after
    code = one_run(own, wanted)
    if code != 0:
        return code
    seeds = with_own_results(first, numbers, varies)
    write_seeds(first, seeds)
    code = run_missing(own, first, seeds, wanted, lambda repeat: one_run(own, repeat))
    os.chdir(own.root)
    if code != 0:
        return code
    seeds = _read(first)
    if seeds.mlflow_run_id is None:
        seeds = record(first, seeds)
    render_page(first)
    print_seeds(seeds)
    log(f"the seeds' metrics: {first.root / SEEDS if first != own else SEEDS}")
    return 0


def wanted_seeds(settings: Settings, count: int, varies: Varies) -> tuple[int, ...]:
    """That of the settings first, then 0, 1, ... Raises UserError where a fixed seed of the policy contradicts `varies`."""
    alignment, training = settings.alignment.seed, settings.training.seed
    if varies != "policy" and alignment is not None:
        raise UserError(
            f"--reward varies training.seed, but alignment.seed fixes the policy's seed at {alignment}: set alignment.seed to null"
        )
    own = training if alignment is None else alignment
    return (own, *itertools.islice((seed for seed in itertools.count() if seed != own), count - 1))


def with_own_results(first: Checkout, wanted: Sequence[int], varies: Varies) -> Seeds:
    """The seeds with the results of the checkout's own run, and of an earlier command with the same inputs."""
    seeds = Seeds(varies, inputs_digest(first, varies), tuple(wanted), (seed_run(first, wanted[0], varies),))
    earlier = read_seeds(first)
    if earlier is None or (earlier.varies, earlier.inputs) != (seeds.varies, seeds.inputs):
        return seeds
    reused = tuple(run for run in earlier.runs if run.seed in wanted[1:])
    return replace(seeds, runs=(*seeds.runs, *reused), mlflow_run_id=earlier.mlflow_run_id if earlier.seeds == seeds.seeds else None)


def repeat_of(wanted: Wanted, seed: int, varies: Varies) -> Wanted:
    """The run that repeats `wanted` with another seed: never judged."""
    assignment = f"{'alignment' if varies == 'policy' else 'training'}.seed={seed}"
    before = () if wanted.save else wanted.assignments  # saved settings stand in the file
    return replace(wanted, assignments=(*before, assignment), save=False, promote=False, rehearse=False)


def run_missing(own: Checkout, first: Checkout, seeds: Seeds, wanted: Wanted, run: Run) -> int:
    """Run the seeds without results by `run`, and add each one's to the file; returns the first exit code that is not 0.

    Raises UserError where a seed's results were made from other inputs.
    """
    missing, began = seeds.missing, time.monotonic()
    for number, seed in enumerate(missing):
        log(f"seeds: {len(seeds.seeds) - len(missing) + number} of {len(seeds.seeds)} are finished; now seed {seed}")
        repeat = repeat_of(wanted, seed, seeds.varies)
        code = run(repeat)
        if code != 0:
            log(f"seeds: seed {seed} ended with exit code {code}; the same command continues with it")
            return code
        copy = workspace(own, repeat)
        if inputs_digest(copy, seeds.varies) != seeds.inputs:
            raise UserError(f"data, settings or code changed while the seeds ran, so seed {seed} can't be compared: run the command again")
        seeds = replace(seeds, runs=(*seeds.runs, seed_run(copy, seed, seeds.varies)))
        write_seeds(first, seeds)
        rate = (time.monotonic() - began) / (number + 1)
        left = len(missing) - number - 1
        log(f"seeds: {len(seeds.seeds) - left} of {len(seeds.seeds)} are finished, {rate:.0f} s a seed, {left * rate / 60:.0f} min left")
    return 0


def record(first: Checkout, seeds: Seeds) -> Seeds:
    """Record the spread as a run in MLflow, whose children are the seeds' runs, and note its id in the file."""
    from components.tracking.recorder import PARENT_TAG, PENDING, Recorder
    from components.tracking.runs import base_tags

    recorder = Recorder.create(first, "mmalign run --seeds", parent=None, tags={"mmalign.seeds": str(len(seeds.seeds)), **base_tags(first)})
    seeds = replace(seeds, mlflow_run_id=recorder.run_id)
    write_seeds(first, seeds)
    recorder.params({"varies": seeds.varies, "seeds": " ".join(map(str, seeds.seeds)), "inputs": seeds.inputs})
    for spread in seeds.spreads():
        values = {"mean": spread.mean, "standard_deviation": spread.deviation, "least": spread.least, "greatest": spread.greatest}
        recorder.metrics({f"{spread.name}.{key}": value for key, value in values.items() if value is not None})
    recorder.artifact(first.root / SEEDS)
    recorder.end("FINISHED")
    for repeat in seeds.runs[1:]:  # the first is a run of its own right
        if repeat.mlflow_run_id is not None and not repeat.mlflow_run_id.startswith(PENDING):
            Recorder.attach(first, repeat.mlflow_run_id).tags({PARENT_TAG: recorder.run_id})
    return seeds


def _read(checkout: Checkout) -> Seeds:
    seeds = read_seeds(checkout)
    assert seeds is not None, "the runs wrote it"
    return seeds
