"""A run of the tool: the clean run, what each mutant has to pass, the verdicts and the scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

from tests.mutation.child import Task
from tests.mutation.mutant import Mutant
from tests.mutation.operators import mutants
from tests.mutation.packages import Package
from tests.mutation.sample import draw
from tests.mutation.server import Job, Outcome, Server
from tests.mutation.source import Source, read_project

CPU_FACTOR, CPU_BASE_SECONDS = 2, 10  # a mutant's limit of CPU time: twice what its tests took in the traced clean run, and ten seconds
SLOW_SECONDS = 0.3  # in a file, tests above this come last
CONFIDENCE = 0.95


class CleanRunError(Exception):
    """The tests fail without a mutant, or a declaration is wrong. The sentence is for the user."""


@dataclass
class Clean:
    """What the clean run has recorded of one test file: tests with their seconds and reached lines, and the sources that it loads."""

    tests: Mapping[str, Mapping[str, Any]]
    loaded: AbstractSet[str]


@dataclass
class Score:
    """A package's verdicts. `survivors` have with them whether any test reaches the line."""

    package: Package
    seed: int
    mutants: int
    sample: list[Mutant]
    equivalent: list[Mutant]
    killed: list[tuple[Mutant, str]] = field(default_factory=list)
    survivors: list[tuple[Mutant, bool]] = field(default_factory=list)
    cpu_seconds: float = 0.0

    @property
    def judged(self) -> int:
        """What the score divides by: the sample without the equivalent mutants."""
        return len(self.sample) - len(self.equivalent)

    @property
    def score(self) -> float:
        """Killed mutants over judged ones."""
        return len(self.killed) / self.judged if self.judged else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the score."""
        return wilson(len(self.killed), self.judged)


def wilson(events: int, n: int) -> tuple[float, float]:
    """Two-sided Wilson interval of a proportion at 95 %; everything where nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    p = events / n
    center, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (center - half) / (1 + z * z / n)), min(1.0, (center + half) / (1 + z * z / n))


def prepare(root: Path, packages: Sequence[Package], count: int, seed: int, declared: Mapping[str, str]) -> list[Score]:
    """The samples. `declared` are digests of equivalent mutants, each with the path of its file.

    Raises CleanRunError for a declared mutant of these packages that no operator makes any more.
    """
    folders = {source.partition("/")[0] for package in packages for source in package.sources}
    project = read_project(sorted(path for folder in folders for path in (root / folder).rglob("*.py")))
    scores = []
    for package in packages:
        files = package.source_files(root)
        by_file = {path: mutants(Source(path, (root / path).read_text()), project) for path in files}
        digests = {mutant.digest for entries in by_file.values() for mutant in entries}
        stale = [f"{digest} ({path})" for digest, path in declared.items() if path in by_file and digest not in digests]
        if stale:
            raise CleanRunError(f"no operator makes these equivalent mutants any more: {', '.join(stale)}: remove or renew their rows")
        sample = draw(by_file, count, seed)
        equivalent = [mutant for mutant in sample if mutant.digest in declared]
        scores.append(Score(package, seed, sum(map(len, by_file.values())), sample, equivalent))
    return scores


def record(server: Server, root: Path, packages: Sequence[Package], progress: Callable[[str, Outcome], None]) -> dict[str, Clean]:
    """The clean run, each test file in a child of its own. Raises CleanRunError where a test fails."""
    watched = tuple(sorted({path for package in packages for path in package.source_files(root)}))
    files = sorted({path for package in packages for path in package.judging_files(root)})
    clean = {}
    for job, outcome in server.run(Job(Task((path,), watched=watched), key=path) for path in files):
        if outcome.code == 5:  # every test of the file is slow
            continue
        if outcome.code != 0 or outcome.result["failed"]:
            raise CleanRunError(
                f"{outcome.result.get('failed') or job.key} fails without a mutant (exit {outcome.code}): repair it first\n{outcome.output}"
            )
        clean[job.key] = Clean(outcome.result["tests"], set(outcome.result["loaded"]))
        server.import_libraries(outcome.result["libraries"])
        progress(job.key, outcome)
    return clean


def task_for(mutant: Mutant, files: Sequence[str], clean: Mapping[str, Clean]) -> Task | None:
    """The tests that can notice a mutant, likeliest and fastest first; None where no test reaches it.

    Those are the tests that reach its statement. A statement that runs at import can show in every test whose file loads the source.
    """
    reached = range(mutant.first, mutant.last + 1)
    stem = Path(mutant.path).stem
    chosen: list[tuple[tuple[Any, ...], str, list[str], float]] = []
    for path in files:
        if path not in clean:
            continue
        tests = clean[path].tests
        if mutant.shared:
            names = list(tests) if mutant.path in clean[path].loaded else []
            distant = not any(mutant.path in tests[name]["lines"] for name in names)
        else:
            names = [name for name, test in tests.items() if any(line in reached for line in test["lines"].get(mutant.path, ()))]
            distant = False
        if names:
            seconds = sum(tests[name]["seconds"] for name in names)
            names.sort(key=lambda name: tests[name]["seconds"] > SLOW_SECONDS)
            chosen.append(((distant, stem not in Path(path).stem, seconds, path), path, names, seconds))
    if not chosen:
        return None
    chosen.sort()
    cpu_seconds = math.ceil(CPU_BASE_SECONDS + CPU_FACTOR * sum(seconds for *_, seconds in chosen))
    return Task(tuple(path for _, path, _, _ in chosen), tuple(name for _, _, names, _ in chosen for name in names), (), cpu_seconds)


def judge(
    server: Server, root: Path, scores: Sequence[Score], clean: Mapping[str, Clean], progress: Callable[[Mutant, Outcome | None], None]
) -> None:
    """Try every mutant of the samples and write the verdicts into the scores."""
    jobs = []
    for score in scores:
        files = score.package.judging_files(root)
        for mutant in score.sample:
            if mutant in score.equivalent:
                continue
            task = task_for(mutant, files, clean)
            if task is None:
                score.survivors.append((mutant, False))
                progress(mutant, None)
            else:
                text = mutant.apply((root / mutant.path).read_text())
                compile(text, mutant.path, "exec")  # an edit that is no Python would count as killed
                jobs.append(Job(task, (score, mutant), mutant.path, text))
    for job, outcome in server.run(jobs):
        score, mutant = job.key
        score.cpu_seconds += outcome.cpu_seconds
        if outcome.code in {0, 5}:
            score.survivors.append((mutant, True))
        else:
            score.killed.append((mutant, killer(outcome)))
        progress(mutant, outcome)
    for score in scores:
        order = {mutant: number for number, mutant in enumerate(score.sample)}
        score.survivors.sort(key=lambda entry: order[entry[0]])
        score.killed.sort(key=lambda entry: order[entry[0]])


def killer(outcome: Outcome) -> str:
    """What has noticed a mutant."""
    if outcome.timed_out:
        return "time limit"
    return outcome.result.get("failed") or ("collection" if outcome.result else f"exit {outcome.code}")
