"""The fork server: one process imports the heavy libraries once and forks a child for each clean run and each mutant.

It never imports a module of the project that a test could import, and starts no thread, so that a fork is safe.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.mutation.child import Task, run

POLL_SECONDS = 0.01
WALL_FACTOR = 4  # a child may take this many times its limit of CPU time on a busy machine, and a minute
# What a child writes or never reads; a work tree's .git names another folder, and no test here asks git.
LEFT_OUT = {".git", ".mmalign", ".mypy_cache", ".ruff_cache", ".pytest_cache", "artifacts", "logs", "reports"}


@dataclass(frozen=True)
class Job:
    """A task of a child; with an edit, the file at `path` has the text `text` while it runs."""

    task: Task
    key: Any = None
    path: str = ""
    text: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a child ended: `code` is pytest's, or minus the signal's number. `result` is empty where the child wrote none."""

    code: int
    cpu_seconds: float
    timed_out: bool
    output: str
    result: dict[str, Any]


@dataclass
class _Worker:
    """A copy of the checkout, with the child that runs in it."""

    tree: Path
    scratch: Path
    pid: int = 0
    job: Job | None = None
    start: float = 0.0
    stamp: int = field(default_factory=lambda: int(time.time()) + 1)


class Server:
    """Runs jobs in forked children, as many at once as there are workers. Use it in a `with` block: it removes its copies."""

    def __init__(self, root: Path, folder: Path, code_folders: Sequence[str], workers: int) -> None:
        self._root = root
        self._workers = [_Worker(folder / f"worker-{number}", folder / f"scratch-{number}") for number in range(workers)]
        for worker in self._workers:
            _copy_checkout(root, worker.tree, code_folders)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            if worker.pid:
                _kill_group(worker.pid)
                os.waitpid(worker.pid, 0)

    def import_libraries(self, names: Iterable[str]) -> None:
        """Import libraries that children would import; one that fails by itself is left to them."""
        for name in names:
            try:
                importlib.import_module(name)
            except Exception:  # noqa: BLE001, S112 -- parts of libraries that are not meant to be imported by name
                continue
        threads = _threads()
        assert not threads, f"a library starts threads when it is imported ({', '.join(threads)}), which a fork would lose: leave it out"
        gc.collect()
        gc.freeze()  # the collector writes into objects, which would copy their pages in every child

    def run(self, jobs: Iterable[Job], idle: Callable[[], None] = lambda: None) -> Iterator[tuple[Job, Outcome]]:
        """Jobs with their outcomes, as they end. `idle` is called while waiting."""
        waiting = iter(jobs)
        exhausted = False
        while True:
            for worker in self._workers:
                if not exhausted and worker.job is None:
                    job = next(waiting, None)
                    exhausted = job is None
                    if job is not None:
                        self._start(worker, job)
            busy = [worker for worker in self._workers if worker.job is not None]
            if not busy:
                return
            for worker in busy:
                outcome = self._poll(worker)
                if outcome is not None:
                    job, worker.job = worker.job, None
                    assert job is not None
                    yield job, outcome
            idle()
            time.sleep(POLL_SECONDS)

    def _start(self, worker: _Worker, job: Job) -> None:
        shutil.rmtree(worker.scratch, ignore_errors=True)
        worker.scratch.mkdir()
        if job.path:
            path = worker.tree / job.path
            path.write_text(job.text)
            # Bytecode is valid for a source's size and second of change: no two mutants share one.
            worker.stamp += 1
            os.utime(path, (worker.stamp, worker.stamp))
        worker.job, worker.start = job, time.monotonic()
        worker.pid = os.fork()
        if worker.pid == 0:
            run(job.task, worker.tree, worker.scratch)

    def _poll(self, worker: _Worker) -> Outcome | None:
        """The outcome, once the child has ended; it ends here when it takes too long."""
        job = worker.job
        assert job is not None
        late = time.monotonic() - worker.start > WALL_FACTOR * job.task.cpu_seconds + 60
        if late:
            _kill_group(worker.pid)
        pid, status, usage = os.wait4(worker.pid, 0 if late else os.WNOHANG)
        if pid == 0:
            return None
        worker.pid = 0
        try:
            os.killpg(pid, signal.SIGKILL)  # what the tests have left running
        except ProcessLookupError:
            pass
        if job.path:
            shutil.copy2(self._root / job.path, worker.tree / job.path)
        code = os.waitstatus_to_exitcode(status)
        result_file, output = worker.scratch / "result.json", worker.scratch / "output"
        return Outcome(
            code,
            usage.ru_utime + usage.ru_stime,
            late or code in {-signal.SIGXCPU, -signal.SIGKILL},
            output.read_text(errors="replace")[-4000:] if output.exists() else "",
            json.loads(result_file.read_text()) if result_file.is_file() else {},
        )


def _kill_group(pid: int) -> None:
    """Kill a child and what its tests have started; a child that was forked just now has no group of its own yet."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _threads() -> list[str]:
    """Names of threads beside the main one. jemalloc, which pyarrow brings, prepares its own for a fork."""
    tasks = Path("/proc/self/task")
    names = [(task / "comm").read_text().strip() for task in tasks.iterdir() if task.name != str(os.getpid())] if tasks.is_dir() else []
    return [name for name in names if name != "jemalloc_bg_thd"]


def _copy_checkout(root: Path, tree: Path, code_folders: Sequence[str]) -> None:
    """Code and single files are copied, other folders linked."""
    tree.mkdir(parents=True)
    for entry in root.iterdir():
        target = tree / entry.name
        if entry.name in LEFT_OUT:
            continue
        if entry.name in code_folders:
            shutil.copytree(entry, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif entry.is_dir():
            target.symlink_to(entry)
        else:
            shutil.copy2(entry, target)
