"""The targets of the chaos benchmark: finds them among the processes of one checkout, and kills them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import psutil

from components.checkout import Checkout
from components.processes.marks import FLOW_RUN, SERVICE_MARK, checkout_mark, kill_all, marked
from components.stages import module

SERVICES = (
    "worker",
    "server",
    "record",
    "servers",
    "database",
    "connection",
)  # supervisord restarts these, and training continues meanwhile
FLOWS = ("flow", "flow between stages", "flow in the verdict")
TARGETS = (
    "worker",
    "save",
    "server",
    "record",
    "servers",
    "database",
    "worker and all below",
    "dvc",
    "stage",
    "connection",
    "torchrun",
    "rank",
    "flow",
    "flow between stages",
    "flow in the verdict",
)
END_SECONDS = 10.0


def find(target: str, root: Path, stage: str, choose: random.Random) -> list[psutil.Process]:
    """The processes to kill, in that order. Raises LookupError if there are none."""
    ours = _ours(root)
    if target == "servers":
        return [*find("server", root, stage, choose), *find("record", root, stage, choose)]
    if target == "worker and all below":
        worker = _one(target, ours, _is_worker)
        return [worker, *worker.children(recursive=True)]
    if target == "connection":  # PostgreSQL's title of a connection overwrites the mark in its environment, so its parent leads to it
        served = [child for child in _one(target, ours, _is_postgres).children() if " prefect " in " ".join(child.cmdline())]
        return [choose.choice(served)] if served else _missing(target)
    if target in {"rank", "save"}:
        ranks = sorted((process for process, words in ours.items() if module("worker") in words[:4]), key=lambda one: one.pid)
        return [choose.choice(ranks)] if ranks else _missing(target)
    if target == "dvc":
        busy = [process for process, words in ours.items() if module("dvc") in words[:4] and process.children()]
        return busy[:1] or _missing(target)
    matchers: dict[str, Callable[[list[str]], bool]] = {
        "torchrun": lambda words: module("torchrun") in words[:4],
        "stage": lambda words: words[-2:] == ["stage", stage] and "python" in words[0],
        **dict.fromkeys(FLOWS, lambda words: "prefect.engine" in words[:4]),
        "worker": _is_worker,
        "server": lambda words: module("prefect_server") in words[:4],
        "record": lambda words: module("mlflow_server") in words[:4],
        "database": _is_postgres,
    }
    return [_one(target, ours, matchers[target])]


def kill(target: str, processes: list[psutil.Process]) -> None:
    """Send SIGKILL. With "worker and all below", kill until no process of its run is left. Raises psutil.NoSuchProcess if the first has ended."""
    mark = _flow_run(processes) if target == "worker and all below" else None
    processes[0].kill()
    for process in processes[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if mark:
        kill_all(lambda: marked(FLOW_RUN, mark))
    psutil.wait_procs(processes, END_SECONDS)


def _flow_run(processes: list[psutil.Process]) -> str | None:
    """The flow run of these processes."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if mark := process.environ().get(FLOW_RUN):
                return mark
    return None


def _ours(root: Path) -> dict[psutil.Process, list[str]]:
    """The command lines of this checkout's services and of all processes that its worker has started."""
    commands = {}
    for seen in marked(SERVICE_MARK, checkout_mark(Checkout(root))):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(seen.pid)
            if words := process.cmdline():
                commands[process] = words
    return commands


def _one(target: str, ours: dict[psutil.Process, list[str]], is_it: Callable[[list[str]], bool]) -> psutil.Process:
    matches = [process for process, words in ours.items() if is_it(words)]
    # Between fork and exec, a process has its parent's command line.
    tops = [process for process in matches if process.ppid() not in {other.pid for other in matches}]
    return tops[0] if tops else _missing(target)[0]


def _missing(target: str) -> list[psutil.Process]:
    raise LookupError(f"no process of the target '{target}' is running")


def _is_worker(words: list[str]) -> bool:
    return words[1:5] == ["-m", "prefect", "worker", "start"]


def _is_postgres(words: list[str]) -> bool:
    return words[0].endswith("/postgres") and "-D" in words
