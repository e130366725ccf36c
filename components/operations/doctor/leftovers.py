"""Checks for leftovers of earlier runs: locks of dead processes, live processes, unfinished checkpoints."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil

from components.checkout import IN_CHECKOUT, Checkout
from components.engine.checkpoints import COMMITTED, PREFIX, scratch_root
from components.files import read_json
from components.operations.doctor.activity import Activity, activity, is_locked
from components.operations.doctor.findings import Finding, ok, problem, warning
from components.stages import STAGE_NAMES

RWLOCK, LOCK = Path(".dvc/tmp/rwlock"), Path(".dvc/tmp/lock")


def dvc_locks(checkout: Checkout) -> Finding:
    """No dead process holds a lock of DVC. (The system releases mmalign's locks with their holder.)"""
    return _claim(checkout) or _path_locks(checkout)


def processes(checkout: Checkout) -> Finding:
    """No process of an earlier run lives."""
    now = activity(checkout)
    left = now.leftovers
    if left:
        names = "; ".join(f"{process.pid} ({process.command[:80]})" for process in left[:5])
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        return problem(
            f"{len(left)} process{'es' if len(left) != 1 else ''} of an earlier run still live{'s' if len(left) == 1 else ''}: {names}{more}",
            f"no run starts before they have ended: kill -9 {' '.join(str(process.pid) for process in left)}",
        )
    return ok(_under_way(now))


def scratch(checkout: Checkout) -> Finding:
    """No stage that is not running has an unfinished checkpoint."""
    running = activity(checkout).stages
    sizes: dict[str, int] = {}
    for stage in STAGE_NAMES:
        folders = [folder for folder in scratch_root(checkout, stage).glob(f"*/{PREFIX}*") if not (folder / COMMITTED).is_file()]
        if folders and stage not in running:
            sizes[stage] = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    if sizes:
        listed = ", ".join(f"{stage} ({size / 1e6:.0f} MB)" for stage, size in sizes.items())
        return warning(
            f"unfinished checkpoints, left by a kill: {listed}",
            "the stage's next run resumes from its last committed checkpoint and removes them; to free the disk now: rm -r "
            + " ".join(IN_CHECKOUT.scratch(stage).as_posix() for stage in sizes),
        )
    return ok("no unfinished checkpoints")


def _claim(checkout: Checkout) -> Finding | None:
    """With core.hardlink_lock, DVC's lock is a file that names its holder (path|host|pid|number) and survives a kill."""
    try:
        fields = (checkout.root / LOCK).read_text(encoding="utf-8").strip().split("|")
    except (OSError, ValueError):
        return None
    if len(fields) != 4 or fields[1] != socket.gethostname() or not fields[2].isdecimal() or psutil.pid_exists(int(fields[2])):
        return None
    return problem(f"{LOCK} names process {fields[2]}, which has ended", f"rm {LOCK}")


def _path_locks(checkout: Checkout) -> Finding:
    try:
        entries = read_json(checkout.root / RWLOCK)
        holders = [*entries.get("write", {}).values(), *(one for readers in entries.get("read", {}).values() for one in readers)]
        pids = sorted({int(holder["pid"]) for holder in holders})
    except FileNotFoundError:
        pids = []
    except (ValueError, KeyError, TypeError, AttributeError):
        return problem(f"{RWLOCK} is damaged, and DVC refuses to work with it", f"rm {RWLOCK}")
    written = (checkout.root / RWLOCK).stat().st_mtime if pids else 0.0
    states = {pid: _state(pid, written) for pid in pids}
    # DVC only tests whether a process with that pid lives: a new process with the same pid blocks a run as long as it lives.
    strangers = [pid for pid, state in states.items() if state == "other"]
    if strangers:
        return problem(
            f"{RWLOCK} names process {_pids(strangers)}, a pid that now belongs to another program or a zombie, and DVC takes it for the holder",
            f"rm {RWLOCK}",
        )
    dead = [pid for pid, state in states.items() if state == "dead"]
    if dead:
        return warning(f"{RWLOCK} names process {_pids(dead)}, which has ended", f"DVC removes the entry itself; or now: rm {RWLOCK}")
    holds = [f"process {_pids(pids)} works on files"] if pids else []
    holds += ["DVC works on the repository"] if is_locked(checkout.root / LOCK) else []
    return ok("; ".join(holds) or "none is locked")


def _state(pid: int, written: float) -> str:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return "other"  # DVC takes a zombie for alive
        return "other" if process.create_time() > written + 1 else "live"
    except psutil.NoSuchProcess:
        return "dead"


def _under_way(now: Activity) -> str:
    if not now.busy:
        return "no process of an earlier run lives"
    who = f"process {now.run.pid}" if now.run else ", ".join(now.stages)
    return f"a run is under way ({who}, {len(now.processes)} processes)"


def _pids(pids: list[int]) -> str:
    return ", ".join(str(pid) for pid in pids)
