"""Mutation testing: `python -m tests.mutation --seed 0 --mutants 60`, or `make mutate`.

It changes one operator, number, argument, statement or branch of the method's code and asks the fast tests whether they notice. docs/mutants.md
lists the survivors. Exit status: 0, 1 where a package's score is below .85 or more than 5 % of its sample is declared equivalent, 2 where
the tests fail without a mutant.

Why none of the existing tools: mutmut 3.8 has a fixed list of operators (strings, names of methods and None for every assignment among them; no
dropped statement), mutates functions only, through trampolines in the source, and draws no sample; cosmic-ray 8.7 starts a process for each
mutant, in which importing torch and transformers takes longer than the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests.mutation.campaign import CleanRunError, Score, judge, prepare, record
from tests.mutation.child import ENVIRONMENT
from tests.mutation.mutant import Mutant
from tests.mutation.packages import CODE_FOLDERS, LIBRARIES, PACKAGES
from tests.mutation.page import PageError, read_declared, write_run
from tests.mutation.server import Outcome, Server

ROOT = Path(__file__).resolve().parents[2]
LEAST_SCORE, MOST_EQUIVALENT = 0.85, 0.05
QUIET_SECONDS = 30  # between lines of progress where the output is no terminal


class Meter:
    """Progress on standard error, with rate and time left. It refreshes itself at every step: a thread of its own could not be forked over."""

    def __init__(self, title: str, total: int) -> None:
        console = Console(stderr=True)
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
        self._progress = Progress(*columns, TimeRemainingColumn(), console=console, auto_refresh=False, disable=not console.is_terminal)
        self._bar = self._progress.add_task(title, total=total, rate="")
        self._title, self._total, self._completed = title, total, 0
        self._start = self._last = time.monotonic()
        self._progress.start()

    def step(self) -> None:
        """One more is finished."""
        self._completed += 1
        seconds = time.monotonic() - self._start
        rate = f"{60 * self._completed / max(seconds, 1e-9):.0f} a minute"
        self._progress.update(self._bar, advance=1, rate=rate, refresh=True)
        if self._progress.disable and (self._completed == self._total or time.monotonic() - self._last > QUIET_SECONDS):
            self._last = time.monotonic()
            left = seconds / self._completed * (self._total - self._completed)
            print(f"{self._title}: {self._completed} of {self._total}, {rate}, {left / 60:.1f} minutes left", file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()


def main() -> int:
    arguments = _arguments()
    packages = [package for package in PACKAGES if not arguments.package or package.name in arguments.package]
    os.environ.update(ENVIRONMENT)
    folder = Path(tempfile.mkdtemp(prefix="mmalign-mutants-"))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")  # shared by the children: compiled kernels are keyed by content
    start, cpu = time.monotonic(), [0.0]
    try:
        scores = prepare(ROOT, packages, arguments.mutants, arguments.seed, read_declared(arguments.page))
        with Server(ROOT, folder, CODE_FOLDERS, arguments.workers) as server:
            server.import_libraries(LIBRARIES)
            meter = Meter("clean run", len({path for package in packages for path in package.judging_files(ROOT)}))

            def ended(_subject: str | Mutant, outcome: Outcome | None) -> None:
                cpu[0] += outcome.cpu_seconds if outcome else 0.0
                meter.step()

            clean = record(server, ROOT, packages, ended)
            meter.stop()
            meter = Meter("mutants", sum(score.judged for score in scores))
            judge(server, ROOT, scores, clean, ended)
            meter.stop()
    except (CleanRunError, PageError) as error:
        print(f"make mutate: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - start
    write_run(arguments.page, scores, arguments.workers, seconds)
    _print(scores, arguments.json, seconds, cpu[0] + time.process_time(), arguments.killed)
    return 1 if _failures(scores) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description="Do the fast tests notice small changes of the method's code?"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default 0)")
    parser.add_argument("--mutants", type=int, default=60, help="of each package (default 60)")
    parser.add_argument("--package", action="append", choices=[package.name for package in PACKAGES], help="only this one; may be repeated")
    parser.add_argument("--workers", type=int, default=2, help="children at once (default 2); each uses one core")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/mutants.md", help="where declarations are read and survivors written")
    parser.add_argument("--json", action="store_true", help="print the scores as one object")
    parser.add_argument("--killed", action="store_true", help="list the killed mutants too, with what has noticed them")
    return parser.parse_args()


def _failures(scores: list[Score]) -> list[str]:
    low = [f"{s.package.name}: the score {s.score:.3f} is below {LEAST_SCORE}" for s in scores if s.score < LEAST_SCORE]
    many = [s for s in scores if len(s.equivalent) > MOST_EQUIVALENT * len(s.sample)]
    return low + [f"{s.package.name}: {len(s.equivalent)} of {len(s.sample)} mutants are declared equivalent, 5 % at most" for s in many]


def _print(scores: list[Score], as_json: bool, seconds: float, cpu_seconds: float, killed: bool) -> None:
    if as_json:
        packages = {
            score.package.name: {
                "score": score.score,
                "low": score.interval[0],
                "high": score.interval[1],
                "killed": len(score.killed),
                "survived": len(score.survivors),
                "not_reached": sum(not reached for _, reached in score.survivors),
                "equivalent": len(score.equivalent),
                "sample": len(score.sample),
                "mutants": score.mutants,
                "cpu_seconds": round(score.cpu_seconds),
            }
            for score in scores
        }
        print(json.dumps({"seed": scores[0].seed, "seconds": round(seconds), "cpu_seconds": round(cpu_seconds), "packages": packages}))
    else:
        table = Table("package", "score", "95 % interval", "killed", "survived", "equivalent", "sample", "mutants")
        for score in scores:
            low, high = score.interval
            counts = (len(score.killed), len(score.survivors), len(score.equivalent), len(score.sample), score.mutants)
            table.add_row(score.package.name, f"{score.score:.3f}", f"{low:.3f} to {high:.3f}", *map(str, counts))
        Console().print(table)
        print(f"{seconds / 60:.1f} minutes, {cpu_seconds / 60:.1f} minutes of CPU time; survivors: docs/mutants.md")
    if killed:
        for mutant, noticed in (entry for score in scores for entry in score.killed):
            print(f"{mutant.path}:{mutant.line}: {mutant.before} -> {mutant.after}: {noticed}", file=sys.stderr)
    for sentence in _failures(scores):
        print(f"make mutate: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the libraries' own ends are slow, and some complain
