"""How every benchmark measures and prints.

- The sides of a comparison alternate, in changing order, so that drift and load of the machine affect them equally. Reports give medians.
- Reports also give user CPU time: it shows how much of a difference comes from other processes' load.
- A report leaves a ratio out if its runs are scattered, if other processes worked beside them, or if the ratio exceeds what the arithmetic
  allows: `refused` then names the reason. The runs themselves stay in the report.
- A separate process measures the peak memory of each side, since a high-water mark never decreases.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Report = dict[str, Any]
# A ratio is refused beyond these.
SPREAD = 0.2  # distance of a side's quartiles, as a share of its median
OTHERS = 0.3  # CPU cores that other processes use while a side runs


@dataclass(frozen=True)
class Timing:
    """Every run of one side, in seconds: wall-clock, user CPU time summed over threads, and other processes' CPU time meanwhile."""

    wall: tuple[float, ...]
    user: tuple[float, ...]
    others: tuple[float, ...] = ()

    @property
    def seconds(self) -> float:
        """Median wall-clock time."""
        return median(self.wall)

    @property
    def user_seconds(self) -> float:
        """Median user CPU time."""
        return median(self.user)

    def joined(self, other: Timing) -> Timing:
        """The runs of both."""
        return Timing(self.wall + other.wall, self.user + other.user, self.others + other.others)

    @property
    def spread(self) -> float:
        """Distance of the quartiles of wall-clock time, as a share of the median."""
        low, _, high = quantiles(self.wall, n=4, method="inclusive") if len(self.wall) > 1 else self.wall * 3
        return (high - low) / self.seconds

    @property
    def others_cores(self) -> float:
        """Cores that other processes used."""
        return sum(self.others) / sum(self.wall)


@dataclass(frozen=True)
class Ratio:
    """How many times longer `slow` takes than `fast`; beyond `ceiling` no correct measurement can get."""

    slow: Timing
    fast: Timing
    ceiling: float | None = None

    @property
    def value(self) -> float:
        """The ratio of the medians."""
        return self.slow.seconds / self.fast.seconds

    @property
    def user(self) -> float | None:
        """The ratio of user CPU times; None where the faster side takes less than the clock's tick."""
        return self.slow.user_seconds / self.fast.user_seconds if self.fast.user_seconds else None

    @property
    def refusal(self) -> str | None:
        """Why the ratio is not to be believed; None if it is."""
        spread = max(self.slow.spread, self.fast.spread)
        others = max(self.slow.others_cores, self.fast.others_cores)
        if others > OTHERS:
            return f"other processes used {others:.1f} cores meanwhile, more than {OTHERS}: run it on an idle machine"
        if spread > SPREAD:
            return f"a side's runs differ by {spread:.0%} between their quartiles, more than {SPREAD:.0%}: run it again, with more --rounds"
        if self.ceiling is not None and self.value > self.ceiling:
            return f"{self.value:.3g} exceeds {self.ceiling:.3g}, which the arithmetic allows at most: a side was disturbed, run it again"
        return None


def ratios(named: Mapping[str, Ratio], *, small: bool) -> Report:
    """The entries of a report: each ratio, or None where it is refused, and `refused` with the reasons. `small` sizes refuse nothing."""
    refused = {name: reason for name, ratio in named.items() if not small and (reason := ratio.refusal) is not None}
    return {**{name: None if name in refused else ratio.value for name, ratio in named.items()}, "refused": refused}


def keep_memory(module: str, arguments: Sequence[str]) -> None:
    """Restart this benchmark with the memory settings of a stage, or return if they are set already.

    glibc reads them when a process starts. Without them a step's time depends on whether freed memory went back to the system before.
    """
    from components.operations.environment import KEEP_MEMORY

    if all(os.environ.get(name) == value for name, value in KEEP_MEMORY.items()):
        return
    os.chdir(ROOT)
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], {**os.environ, **KEEP_MEMORY})  # noqa: S606


def interleave(sides: Mapping[str, Callable[[], object]], rounds: int, wait: Callable[[], object] | None = None) -> dict[str, Timing]:
    """Time each side once a round, in reversed order every other round. `wait` waits for the device's outstanding work before each reading.

    The caller warms the sides up: it runs each of them to check its result before it calls this.
    """
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            started, before, others = time.perf_counter(), os.times().user, _others_seconds()
            sides[name]()
            if wait is not None:
                wait()
            runs[name].append((time.perf_counter() - started, os.times().user - before, _others_seconds() - others))
    return {name: Timing(*zip(*runs[name], strict=True)) for name in sides}


def _others_seconds() -> float:
    """CPU seconds of all processes but this one since the machine's start."""
    import psutil

    machine, own = psutil.cpu_times(), os.times()
    return float(machine.user + machine.nice + machine.system - own.user - own.system)


def seconds_of(timings: Mapping[str, Timing]) -> Report:
    """Each side's entries in a report: median wall-clock and user seconds, and every run."""
    return {
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "user_seconds": {name: timing.user_seconds for name, timing in timings.items()},
        "runs": {name: list(timing.wall) for name, timing in timings.items()},
    }


def peak_bytes(arguments: list[str], threads: int) -> int:
    """The peak in bytes above its inputs that `python -m ARGUMENTS` prints by `print_peak` in its last line."""
    from components.operations.environment import KEEP_MEMORY

    # Memory that the process retains after building its inputs would hide as much of the work's own.
    environment = {**{name: value for name, value in os.environ.items() if name not in KEEP_MEMORY}, "OMP_NUM_THREADS": str(threads)}
    completed = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if completed.returncode != 0:
        raise RuntimeError(f"python -m {' '.join(arguments)} ended with {completed.returncode}:\n{completed.stderr[-2000:]}")
    return int(completed.stdout.strip().splitlines()[-1])


def print_peak(work: Callable[[], object]) -> None:
    """Run `work` and print the rise in bytes from this process's resident memory before to its peak during `work`."""
    import psutil

    before = psutil.Process().memory_info().rss
    mark = high_water_bytes()
    work()
    peak = high_water_bytes()
    # If importing or building inputs set a higher mark, it would hide the work's own peak.
    assert peak > mark, "the inputs took more memory than the work and hide its peak"
    print(peak - before)


def high_water_bytes() -> int:
    """The peak resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would also count the parent's memory from before exec.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine(threads: int) -> Report:
    """The machine, the versions and the date of a measurement."""
    import psutil

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("torch", "transformers", "trl")},
        "date": datetime.now(UTC).date().isoformat(),
    }


def _processor() -> str:
    """The CPU's name, and the widest vector instructions that torch uses on it."""
    import torch

    path = Path("/proc/cpuinfo")
    named = (
        [line.split(":", 1)[1].strip() for line in path.read_text().splitlines() if line.startswith("model name")] if path.exists() else []
    )
    return f"{(named or [platform.processor() or platform.machine()])[0]} ({torch.backends.cpu.get_cpu_capability()})"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options.add_argument("--small", action="store_true", help="minute sizes: run the checks; the ratios mean nothing")
    options.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads on both sides (default: every core)")
    options.add_argument("--rounds", type=int, default=None, help="timed runs of each side")
    return options


def use_threads(threads: int) -> None:
    """Set torch's CPU threads, and stop libraries from asking the hub."""
    import torch

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(threads)


def show(measure: Callable[[], Report] | Report, as_json: bool) -> None:
    """Print a report: numbers by name, nested ones below their heading.

    Standard output gets nothing else: while `measure` runs, library messages go to standard error.
    """
    if callable(measure):
        with contextlib.redirect_stdout(sys.stderr):
            report = measure()
    else:
        report = measure
    if as_json:
        print(json.dumps(report))
        return
    _show(report, 0)


def _show(report: Report, depth: int) -> None:
    width = max(len(name) for name in report)
    for name, value in report.items():
        if isinstance(value, dict) and value:
            print(f"{'  ' * depth}{name}")
            _show(value, depth + 1)
        else:
            print(f"{'  ' * depth}{name:<{width}}  {_text(value)}")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(_text(item) for item in value)
    return "-" if value is None or value == {} else str(value)
