"""Finds ranks that have stopped making progress, from their heartbeats: a collective that waits for ever says nothing on a GPU.

- Ranks in step wait for the one that is furthest back. So only its silence counts, and a rank that waits for it is never blamed.
- Announced work counts as progress. A stopped process makes none, whatever it has announced.
- On a CPU a rank that waits uses no processor time, so one that uses some still computes.
- Where ranks made different calls of a part, they wait for each other for ever, or the library has ended them: a fault of the code, which
  no run retries. Any other silence is the machine's.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import psutil

from components.processes.fault_kinds import FaultKind
from components.processes.heartbeat import Reader, Sign, file_of

STALL_SECONDS = float(os.environ.get("MMALIGN_STALL_SECONDS", "120"))  # of silence after which ranks are ended
LONGEST_WAIT = 30.0  # seconds between two checks that count as silence at most: this process may have been stopped itself
BUSY = 0.02  # share of a core that a rank on a CPU uses while it computes, at least: one that waits uses a tenth of that


@dataclass(frozen=True)
class Stall:
    """Ranks that make no progress: a sentence with rank, module and step, and the kind of its fault."""

    sentence: str
    kind: FaultKind


@dataclass
class _Rank:
    """What has been seen of a rank."""

    reader: Reader
    beats: int = -1
    silent: float = 0.0  # seconds without a beat
    stopped: float = 0.0  # seconds as a stopped process
    processor: float = 0.0  # seconds of processor time at the last beat or computation that was seen
    process: psutil.Process | None = field(default=None)


class Stalls:
    """Follows the heartbeats of `count` ranks in `folder`. Remove those of an earlier start with `forget` first."""

    def __init__(self, folder: Path, count: int, seconds: float = STALL_SECONDS) -> None:
        self.folder, self._count, self._seconds = folder, count, seconds
        self._ranks: dict[int, _Rank] = {}
        self._checked = time.monotonic()

    def forget(self) -> None:
        """Remove the heartbeats of an earlier start."""
        for rank in range(self._count):
            for path in self.folder.glob(f"{file_of(self.folder, rank).name}*"):
                path.unlink()

    def check(self) -> Stall | None:
        """Look at all ranks, some times a second; the stall where they make no progress."""
        now = time.monotonic()
        passed, self._checked = min(now - self._checked, LONGEST_WAIT), now
        for number in range(self._count):
            if number not in self._ranks and (reader := Reader.open(self.folder, number)) is not None:
                self._ranks[number] = _Rank(reader)
        for rank in self._ranks.values():
            beats = rank.reader.beats()
            rank.silent = 0.0 if beats != rank.beats else rank.silent + passed
            rank.beats = beats
        silent = [number for number, rank in self._ranks.items() if rank.silent >= min(1.0, self._seconds / 4)]
        for number in silent:
            self._examine(self._ranks[number], passed)
        stopped = [number for number, rank in self._ranks.items() if number in silent and rank.stopped >= self._seconds]
        if stopped:
            return self._stall(stopped)
        if not any(self._ranks[number].silent >= self._seconds for number in silent):
            return None
        return self._stall(blamed) if (blamed := self._blamed()) else None

    def mismatch(self) -> Stall | None:
        """Whether ranks in step have made different calls in one step, and the first one that differs."""
        if not all(rank.reader.in_step for rank in self._ranks.values()):
            return None
        signs = {number: rank.reader.read(with_calls=True) for number, rank in sorted(self._ranks.items())}
        for (number, sign), (other, other_sign) in combinations(signs.items(), 2):
            same_step = sign.step == other_sign.step if sign.step else sign.parts == other_sign.parts
            if same_step and (call := _first_difference(sign, other_sign)):
                index, one, another = call
                return Stall(
                    f"ranks {number} and {other} do not call the same modules in {_part(sign)}: call {index + 1} of the step is {one} on rank "
                    f"{number} and {another} on rank {other}. Under ZeRO-3 each waits for the other for ever: this is a fault of the code",
                    "fault",
                )
        return None

    def kill(self) -> None:
        """End all ranks, also those that wait in a collective or are stopped."""
        for rank in self._ranks.values():
            if (process := _process(rank)) is not None:
                os.kill(process.pid, signal.SIGKILL)

    def _examine(self, rank: _Rank, passed: float) -> None:
        """What the system says of a silent rank: whether it is stopped, and, where waiting takes no processor time, whether it computes."""
        process = _process(rank)
        if process is None:
            return
        try:
            rank.stopped = rank.stopped + passed if process.status() == psutil.STATUS_STOPPED else 0.0
            times = process.cpu_times()
        except psutil.Error:
            return
        used = times.user + times.system
        if not rank.reader.busy_waits and used - rank.processor > BUSY * max(rank.silent, 1.0):
            rank.silent = 0.0
        if rank.silent == 0.0:
            rank.processor = used

    def _blamed(self) -> list[int]:
        """The ranks that the others wait for, where all of them are silent."""
        signs = {number: rank.reader.read() for number, rank in self._ranks.items()}
        working = {number: sign for number, sign in signs.items() if not sign.ended}
        quiet = [number for number, sign in working.items() if self._ranks[number].silent >= self._seconds and not sign.announced]
        if not all(rank.reader.in_step for rank in self._ranks.values()):
            return quiet
        if len(signs) < self._count:  # one has not begun
            return []
        furthest_back = min(((sign.parts, sign.count) for sign in working.values()), default=(0, 0))
        last = [number for number, sign in working.items() if (sign.parts, sign.count) == furthest_back]
        return last if set(last) <= set(quiet) else []

    def _stall(self, blamed: list[int]) -> Stall:
        if (mismatch := self.mismatch()) is not None:
            return mismatch
        parts = []
        for number in sorted(blamed):
            rank = self._ranks[number]
            sign = rank.reader.read()
            state = f"process {rank.reader.pid}, {_state(rank)}"
            module = f", at {sign.module}" if sign.module else ""
            parts.append(f"rank {number} ({state}) gave its last sign {rank.silent:.0f} s ago in {_part(sign)}{module}")
        return Stall(f"{'; '.join(parts)}, so all ranks were ended", "infrastructure")


def _first_difference(one: Sign, other: Sign) -> tuple[int, str, str] | None:
    """The first call that both ranks made and that differs; None where one rank has only not come as far."""
    first_one, first_other = one.count - len(one.calls), other.count - len(other.calls)
    for index in range(max(first_one, first_other), min(one.count, other.count)):
        pair = one.calls[index - first_one], other.calls[index - first_other]
        if pair[0] != pair[1]:
            return index, *pair
    return None


def _part(sign: Sign) -> str:
    what = sign.work if sign.announced else sign.part
    return f"step {sign.step}, {what}" if sign.step else what


def _process(rank: _Rank) -> psutil.Process | None:
    """The rank's process, unless it has ended."""
    try:
        if rank.process is None:
            rank.process = psutil.Process(rank.reader.pid)
        same = abs(rank.process.create_time() - rank.reader.started) < 0.01
        return rank.process if same and rank.process.is_running() and rank.process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _state(rank: _Rank) -> str:
    process = _process(rank)
    try:
        return "ended" if process is None else str(process.status())
    except psutil.Error:
        return "ended"
