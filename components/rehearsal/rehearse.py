"""A rehearsal: every stage with the real base, settings and machine on a few real rows, before a run that takes hours.

1. Rows are chosen: the longest, those with the largest media, and a sample.
2. Each stage runs in a process of its own, in a checkout made for it; a training writes a checkpoint, ends, and starts again from it.
3. Memory is read from outside; rates, times and disk for all rows follow from what the sample took.
4. A stage that runs out of memory is tried again with the changes that `plan --memory` proposes, one after the other, until it passes.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.config.settings import Settings
from components.engine import watchdog
from components.files import read_json
from components.processes.fault_kinds import error_of, kind_named
from components.rehearsal import workspace
from components.rehearsal.architectures import find_architecture
from components.rehearsal.devices import Machine
from components.rehearsal.peak import PeakMemory
from components.rehearsal.plan import Change, changed, next_change, with_planned_source
from components.rehearsal.sample import Sample, read_sample
from components.rehearsal.trial import outcome_file
from components.rehearsal.trial_metrics import TrialMetrics, trial_metrics
from components.rehearsal.workload import read_workload
from components.stages import STAGE_NAMES, command

MOST_CHANGES = 12  # tries of one stage
OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|unable to allocate|can't start new thread|MemoryError|bad_alloc|SIGKILL|\bKilled\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Trial:
    """How one stage went: what it used, and why it did not fit, where it did not. `changes` are those that it then ran with."""

    stage: str
    metrics: TrialMetrics | None
    refused: str | None
    changes: list[Change]


@dataclass
class Rehearsal:
    """All trials. `changes` make every stage fit; None where all fit as they are, [] where nothing that was tried helps."""

    settings: Settings
    sample: Sample
    machine: Machine
    trials: dict[str, Trial] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether every stage fits with the settings as they are."""
        return all(trial.refused is None for trial in self.trials.values())

    @property
    def changes(self) -> list[Change] | None:
        """The changes that make all stages fit, [] where none did, None where none is needed."""
        if self.fits:
            return None
        if any(trial.metrics is None for trial in self.trials.values()):
            return []
        return list({key: (key, value) for trial in self.trials.values() for key, value in trial.changes}.values())


class _Rehearser:
    """Runs the trials of one rehearsal in `made`."""

    def __init__(self, checkout: Checkout, made: Checkout, rehearsal: Rehearsal, log: Callable[[str], None]) -> None:
        self._checkout, self._made, self._rehearsal, self._log = checkout, made, rehearsal, log

    def run_all(self) -> None:
        """Try every stage in order, each with the changes that those before it needed."""
        settings = self._rehearsal.settings
        for stage in STAGE_NAMES:
            trial = self._fit(stage, settings)
            self._rehearsal.trials[stage] = trial
            if trial.metrics is None:
                break  # the stages after it read what it makes
            settings = changed(settings, trial.changes)

    def _fit(self, stage: str, settings: Settings) -> Trial:
        """Try a stage with one change after the other until it passes."""
        changes: list[Change] = []
        refused = None
        for _ in range(MOST_CHANGES):
            now = changed(settings, changes)
            try:
                metrics = self._trial(stage, now)
            except _TooLarge as error:
                refused = refused or str(error)
                change = next_change(now, stage, self._checkout, self._rehearsal.machine)
                if change is None:
                    break
                self._log(f"{stage} ran out of memory; trying {change[0]}={change[1]}")
                changes.append(change)
            else:
                return Trial(stage, metrics, refused, changes)
        return Trial(stage, None, refused, [])

    def _trial(self, stage: str, settings: Settings) -> TrialMetrics:
        """Run a stage once. Raises _TooLarge where memory ran out, else the stage's own error."""
        workspace.write_settings(self._made, self._checkout, settings)
        workspace.forget_stage(self._made, stage)
        left = outcome_file(self._made, stage)
        left.unlink(missing_ok=True)
        log = _log_file(self._made, stage)
        before = log.stat().st_size if log.is_file() else 0
        began = time.monotonic()
        code, peak = _run(stage, self._made)
        outcome: dict[str, Any] = (
            read_json(left) if left.is_file() else {"kind": "infrastructure", "sentence": _signal_sentence(stage, code)}
        )
        if outcome["kind"] != "ok":
            sentence = str(outcome["sentence"])
            if OUT_OF_MEMORY.search(sentence):
                raise _TooLarge(sentence)
            if outcome["kind"] != "mistake" and (line := _out_of_memory(log, before)):
                raise _TooLarge(f"{sentence}: {line}")
            raise error_of(kind_named(outcome["kind"]), f"{sentence} (the log: {log})")
        self._log(f"{stage} passed in {time.monotonic() - began:.0f} s")
        return trial_metrics(stage, settings, outcome, peak, self._made, self._rehearsal.sample)


class _TooLarge(Exception):
    """A stage ran out of memory."""


def rehearse(checkout: Checkout, settings: Settings, machine: Machine, log: Callable[[str], None]) -> Rehearsal:
    """Rehearse all stages. Raises what a stage raises for any reason but memory."""
    began = time.monotonic()
    model, _ = find_architecture(settings, checkout)
    # The source of critiques follows from all rows, and not from the sample.
    settings = with_planned_source(settings, read_workload(checkout, settings, model))
    sample = read_sample(checkout, settings, model)
    rehearsal = Rehearsal(settings, sample, machine)
    made = workspace.prepare(checkout, sample)
    log(f"{len(sample.train)} training and {len(sample.heldout)} held-out queries on {machine.name}")
    _Rehearser(checkout, made, rehearsal, log).run_all()
    rehearsal.seconds = time.monotonic() - began
    return rehearsal


def _run(stage: str, made: Checkout) -> tuple[int, PeakMemory]:
    """The exit code of a stage's process, and what it and its ranks used. Whatever ends this call ends them."""
    arguments = ["--stage", stage, "--root", str(made.root), "--launcher", str(os.getpid())]
    arguments += ["--launcher-started", repr(watchdog.started(os.getpid()))]
    log = _log_file(made, stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen([*command("trial"), *arguments], cwd=made.root, stdout=stream, stderr=subprocess.STDOUT)
        try:
            with PeakMemory(process.pid) as peak:
                process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    return process.returncode, peak


def _log_file(made: Checkout, stage: str) -> Path:
    return made.logs / f"{stage}.log"


def _out_of_memory(log: Path, start: int) -> str | None:
    """The line of a log, from byte `start` on, that says that memory ran out: C++ code may end a process without another word."""
    if not log.is_file():
        return None
    with log.open("rb") as stream:
        stream.seek(start)
        lines = stream.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in lines if OUT_OF_MEMORY.search(line)), None)


def _signal_sentence(stage: str, code: int) -> str:
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"code {code}"
    return f"{stage}: the stage was ended by {name}"
