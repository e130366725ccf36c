"""Runs a training stage as DVC would, in a process of its own, and measures its ranks from outside: time, memory, and who opens pictures."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks._harness import ROOT
from components.checkout import Checkout
from components.engine.curves import CURVES
from components.operations.environment import KEEP_MEMORY
from components.stages import STAGES, StageName, load, module

OPENED = 0x20  # IN_OPEN
EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
SAMPLE_SECONDS = 0.5
LIMIT_SECONDS = 1800
STEPS = 3  # that are taken


@dataclass(frozen=True)
class Start:
    """Seconds from the stage's start to its first step; the ranks' summed PSS in bytes at its highest, from the first step to the last."""

    seconds: float
    pss: int


class Openings:
    """Counts who opens a file of a folder, in this process or another, as Linux tells it (inotify)."""

    def __init__(self, folder: Path) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self._file = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0 or library.inotify_add_watch(self._file, os.fsencode(folder), OPENED) < 0:
            raise OSError(ctypes.get_errno(), f"{folder} can't be watched")
        self.count = 0
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self._ended.wait(0.05):
            self._drain()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while content := os.read(self._file, 1 << 20):
                position = 0
                while position < len(content):
                    watch, mask, _, length = EVENT.unpack_from(content, position)
                    if watch < 0:
                        raise OSError("events were lost")
                    self.count += bool(mask & OPENED and length)  # without a name it is the folder itself
                    position += EVENT.size + length

    def close(self) -> int:
        """How many openings there were."""
        self._ended.set()
        self._reader.join()
        self._drain()
        os.close(self._file)
        return self.count


def start(checkout: Checkout, stage: str) -> Start:
    """Run a training stage until its last step. Raises RuntimeError with its last lines where it fails."""
    operators = os.environ.get("TORCH_EXTENSIONS_DIR", str(Checkout(ROOT).torch_extensions))  # built once, not for every run
    environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": "1", "TORCH_EXTENSIONS_DIR": operators}
    shutil.rmtree(checkout.scratch(stage), ignore_errors=True)  # an earlier run's curves and checkpoints
    log = checkout.root / f"{stage}.log"
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._scale_ranks", str(checkout.root), stage],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return _watch(process, checkout.scratch(stage), began)
        except RuntimeError as error:
            raise RuntimeError(f"{stage}: {error}\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}") from error
        finally:
            _end(process)


def _watch(process: subprocess.Popen[bytes], scratch: Path, began: float) -> Start:
    seconds, pss = None, 0
    while True:
        ended = process.poll() is not None
        steps = sum(len(path.read_bytes().splitlines()) for path in scratch.glob(f"*/{CURVES}"))
        if steps and seconds is None:
            seconds = time.perf_counter() - began
        if steps:
            pss = max(pss, _pss(process.pid))
        if seconds is not None and steps >= STEPS:
            return Start(seconds, pss)
        if ended or time.perf_counter() - began > LIMIT_SECONDS:
            raise RuntimeError(f"ended with {process.returncode}" if ended else "it took too long")
        time.sleep(SAMPLE_SECONDS if steps else 0.05)


def _pss(pid: int) -> int:
    """Summed PSS of the ranks among the descendants of a process."""
    total = 0
    for child in psutil.Process(pid).children(recursive=True) if psutil.pid_exists(pid) else []:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, FileNotFoundError, ProcessLookupError):
            line = child.cmdline()
            if module("worker") in line and "torch.distributed.run" not in line and "--nproc-per-node" not in " ".join(line):
                total += child.memory_full_info().pss
    return total


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the stage and its ranks, which end with it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(root: str, stage: StageName) -> None:
    """Run a stage's training in this process, as the stage would."""
    checkout = Checkout(Path(root))
    load(STAGES[stage].function)(checkout.settings(), checkout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])  # type: ignore[arg-type]
