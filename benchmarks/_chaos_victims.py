"""Who is killed, and how it is found among the processes of one checkout."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import psutil

from components.operations.services.supervision import SERVICE_MARK
from components.processes.marks import FLOW_RUN, checkout_mark, kill_all, marked

SERVICES = ("worker", "server", "database", "connection")  # supervisor brings these back, and training goes on meanwhile
VICTIMS = (
    "worker",
    "save",
    "server",
    "night",
    "database",
    "worker and all below",
    "dvc",
    "stage",
    "connection",
    "torchrun",
    "rank",
    "flow",
)
GONE_SECONDS = 10.0


def find(victim: str, root: Path, stage: str, choose: random.Random) -> list[psutil.Process]:
    """The processes to kill, in that order. Raises LookupError where there are none."""
    ours = _ours(root)
    if victim == "worker and all below":
        worker = _one(victim, ours, _is_worker)
        return [worker, *worker.children(recursive=True)]
    if victim == "connection":  # one of PostgreSQL's, with Prefect's database; its title has overwritten the mark in its environment
        served = [child for child in _one(victim, ours, _is_postgres).children() if " prefect " in " ".join(child.cmdline())]
        return [choose.choice(served)] if served else _missing(victim)
    if victim in {"rank", "save"}:
        ranks = sorted((process for process, words in ours.items() if "components.engine.worker" in words[:4]), key=lambda one: one.pid)
        return [choose.choice(ranks)] if ranks else _missing(victim)
    known: dict[str, Callable[[list[str]], bool]] = {
        "torchrun": lambda words: "components.engine.launcher" in words[:4],
        "stage": lambda words: words[-2:] == ["stage", stage] and "python" in words[0],
        "dvc": lambda words: "repro" in words and words[-1] == stage and "python" in words[0],
        "flow": lambda words: "flows.launch" in words[:4],
        "night": lambda words: "prefect.engine" in words[:4],
        "worker": _is_worker,
        "server": lambda words: words[1:5] == ["-m", "prefect", "server", "start"],
        "database": _is_postgres,
    }
    return [_one(victim, ours, known[victim])]


def kill(victim: str, processes: list[psutil.Process]) -> None:
    """SIGKILL. With the worker, what it had started is killed until nothing new comes. Raises psutil.NoSuchProcess where the first is gone."""
    mark = _flow_run(processes) if victim == "worker and all below" else None
    processes[0].kill()
    for process in processes[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if mark:
        kill_all(lambda: marked(FLOW_RUN, mark))
    psutil.wait_procs(processes, GONE_SECONDS)


def _flow_run(processes: list[psutil.Process]) -> str | None:
    """The run that these processes belong to."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if mark := process.environ().get(FLOW_RUN):
                return mark
    return None


def _ours(root: Path) -> dict[psutil.Process, list[str]]:
    """The command lines of this checkout's services and of all that its worker has started."""
    found = {}
    for seen in marked(SERVICE_MARK, checkout_mark(root)):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(seen.pid)
            if words := process.cmdline():
                found[process] = words
    return found


def _one(victim: str, ours: dict[psutil.Process, list[str]], is_it: Callable[[list[str]], bool]) -> psutil.Process:
    found = [process for process, words in ours.items() if is_it(words)]
    # A process that has just been forked and not yet become another still has its parent's command line.
    tops = [process for process in found if process.ppid() not in {other.pid for other in found}]
    return tops[0] if tops else _missing(victim)[0]


def _missing(victim: str) -> list[psutil.Process]:
    raise LookupError(f"there is no {victim} to kill")


def _is_worker(words: list[str]) -> bool:
    return words[1:5] == ["-m", "prefect", "worker", "start"]


def _is_postgres(words: list[str]) -> bool:
    return words[0].endswith("/postgres") and "-D" in words
