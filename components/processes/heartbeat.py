"""A rank's signs of progress, in a small file that its launcher reads (components/processes/stalls.py).

- A beat says that the process progresses: it costs a microsecond, since the file is mapped into memory and nothing is written to disk.
- `enter` begins the next part of the work. Ranks in step enter the same parts in the same order, so counts of parts can be compared.
- `gather` records a call that all ranks must make in the same order: under ZeRO-3 each use of a module. Of a step all are remembered, parts
  and gathers in one sequence: on a GPU the process runs ahead of its calls, so the last one says little of the one that waits.
- Work that rightly gives no sign for long (a checkpoint, a model's file, a compilation) is announced. It counts as progress meanwhile.
- A process without an open heartbeat, such as a stage by itself, writes nothing.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.files import read_json, write_json

RING = 1 << 14  # the last calls of a step that are remembered
NEXT_PART = (1 << 32) - 1  # in place of a gather: a new part began
TEXT = 160  # bytes of a text
# beats, parts entered, step (0: none), calls of this step, last module, announced, ended
HEADER = struct.Struct("<QQQQq??")
PART_AT = HEADER.size
WORK_AT = PART_AT + TEXT
RING_AT = -(-(WORK_AT + TEXT) // 4) * 4
SIZE = RING_AT + 4 * RING
NO_MODULE = -1


def file_of(folder: Path, rank: int) -> Path:
    """The mapped file of a rank. Beside it lies a `.json` with its process and the names of its modules."""
    return folder / f"heartbeat-{rank}"


class Heartbeat:
    """The heartbeat of this process as one rank, in `folder`. It starts as announced work."""

    def __init__(self, folder: Path, rank: int, *, in_step: bool = True, busy_waits: bool = False) -> None:
        import psutil

        self._path = file_of(folder, rank)
        process = psutil.Process()
        self._about = {"pid": process.pid, "started": process.create_time(), "in_step": in_step, "busy_waits": busy_waits}
        self._numbers: dict[str, int] = {}
        self._beats = self._parts = self._step = self._calls = 0
        self._module = NO_MODULE
        self._work = ["the start"]
        with self._path.open("w+b") as stream:
            stream.truncate(SIZE)
            self._map = mmap.mmap(stream.fileno(), SIZE)
        self._write_text(WORK_AT, self._work[-1])
        self._write()
        write_json(self._about_path(), self._about | {"modules": []})

    def names(self, modules: Sequence[str]) -> None:
        """The modules that beats and gathers name by their indices, in the same order on every rank."""
        self._numbers = {name: number for number, name in enumerate(modules)}
        write_json(self._about_path(), self._about | {"modules": list(modules)})

    def beat(self, module: int | None = None) -> None:
        """A sign of progress, at the module of an index where one is named, else at the last one."""
        self._beats += 1
        self._module = self._module if module is None else module
        self._write()

    def gather(self, module: int, *, backward: bool) -> None:
        """A beat at a module whose weights all ranks gather in the same order."""
        self._call(2 * module + backward)
        self.beat(module)

    def enter(self, part: str, step: int = 0) -> None:
        """Begin the next part of the work, of an optimizer step where it has a number. The start ends."""
        self._parts += 1
        if step == 0 or step != self._step:
            self._calls = 0
        self._step = step
        self._work = []
        self._write_text(PART_AT, part)
        self._call(NEXT_PART)
        self.beat(NO_MODULE)

    @contextmanager
    def work(self, what: str) -> Iterator[None]:
        """Inside, no sign is expected: the process does `what`, and waits for no other rank."""
        with self._working([*self._work, what]):
            yield

    @contextmanager
    def attentive(self) -> Iterator[None]:
        """Inside, signs are expected of ranks in step, whatever is announced around it. Others may wait there for each other."""
        with self._working([] if self._about["in_step"] else self._work):
            yield

    def end(self) -> None:
        """The rank has done all of its work."""
        self._write(ended=True)

    @contextmanager
    def _working(self, work: list[str]) -> Iterator[None]:
        before, self._work = self._work, work
        self._announce()
        try:
            yield
        finally:
            self._work = before
            self._announce()

    def _call(self, entry: int) -> None:
        struct.pack_into("<I", self._map, RING_AT + 4 * (self._calls % RING), entry)
        self._calls += 1

    def _announce(self) -> None:
        self._write_text(WORK_AT, self._work[-1] if self._work else "")
        self._beats += 1
        self._write()

    def _write(self, *, ended: bool = False) -> None:
        HEADER.pack_into(self._map, 0, self._beats, self._parts, self._step, self._calls, self._module, bool(self._work), ended)

    def _write_text(self, at: int, text: str) -> None:
        self._map[at : at + TEXT] = text.encode()[:TEXT].ljust(TEXT, b"\0")

    def _about_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}.json")


@dataclass(frozen=True)
class Sign:
    """What a rank's heartbeat says at one time. `calls` are the last RING of the `count` calls of this step, in words."""

    beats: int
    parts: int
    step: int
    count: int
    module: str
    part: str
    work: str
    announced: bool
    ended: bool
    calls: tuple[str, ...] = ()


class Reader:
    """Reads a rank's heartbeat from another process."""

    def __init__(self, folder: Path, rank: int) -> None:
        path = file_of(folder, rank)
        self._about = path.with_name(f"{path.name}.json")
        about = read_json(self._about)
        self.pid: int = about["pid"]
        self.started: float = about["started"]
        self.in_step: bool = about["in_step"]
        self.busy_waits: bool = about["busy_waits"]
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), SIZE, access=mmap.ACCESS_READ)

    @staticmethod
    def open(folder: Path, rank: int) -> Reader | None:
        """The reader of a rank; None until the rank has begun its heartbeat."""
        path = file_of(folder, rank)
        return Reader(folder, rank) if path.with_name(f"{path.name}.json").is_file() else None

    def beats(self) -> int:
        """The number of beats so far."""
        return int(HEADER.unpack_from(self._map)[0])

    def read(self, *, with_calls: bool = False) -> Sign:
        """The whole sign."""
        beats, parts, step, count, module, announced, ended = HEADER.unpack_from(self._map)
        names: list[str] = read_json(self._about)["modules"]
        calls = []
        for number in range(max(0, count - RING), count) if with_calls else ():
            (entry,) = struct.unpack_from("<I", self._map, RING_AT + 4 * (number % RING))
            calls.append("its next part" if entry == NEXT_PART else f"{names[entry // 2]}{' (backward)' if entry % 2 else ''}")
        name = names[module] if 0 <= module < len(names) else ""
        return Sign(beats, parts, step, count, name, self._text(PART_AT), self._text(WORK_AT), announced, ended, tuple(calls))

    def _text(self, at: int) -> str:
        return self._map[at : at + TEXT].rstrip(b"\0").decode(errors="replace")


def announce_compilations() -> None:
    """Have torch announce each of its compilations as work, also those that a backward pass starts."""
    from torch._dynamo.callback import callback_handler

    working = ExitStack()
    callback_handler.register_start_callback(lambda *_: working.enter_context(work("a compilation")))
    callback_handler.register_end_callback(lambda *_: working.close())


_own: Heartbeat | None = None


def open_heartbeat(folder: Path, *, in_step: bool, busy_waits: bool) -> None:
    """Begin this process's heartbeat: torchrun names its rank. `in_step` says that ranks wait for each other in every part.

    `busy_waits` says that waiting for another rank takes processor time, as it does for a GPU.
    """
    global _own  # noqa: PLW0603 -- a process is one rank, and whatever runs in it beats for it
    _own = Heartbeat(folder, int(os.environ["RANK"]), in_step=in_step, busy_waits=busy_waits)


def own() -> Heartbeat | None:
    """This process's heartbeat, where it is a rank."""
    return _own


def beat() -> None:
    """A sign of progress of this process."""
    if _own is not None:
        _own.beat()


def enter(part: str, step: int = 0) -> None:
    """Begin the next part of this process's work: see `Heartbeat.enter`."""
    if _own is not None:
        _own.enter(part, step)


def end() -> None:
    """This process has done all of its work as a rank."""
    if _own is not None:
        _own.end()


@contextmanager
def work(what: str) -> Iterator[None]:
    """Inside, this process does `what` for as long as it takes, and waits for no other rank."""
    if _own is None:
        yield
        return
    with _own.work(what):
        yield


@contextmanager
def attentive() -> Iterator[None]:
    """Inside, this process gives signs, whatever is announced around it."""
    if _own is None:
        yield
        return
    with _own.attentive():
        yield
