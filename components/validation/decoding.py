"""Processes that examine media, each within bounds of memory and of CPU time a medium.

- A medium that takes too much of either costs its process, which is replaced; the others' results are not touched.
- Requests go ahead in batches, and answers come back as small JSON lines: no pixels, and no wait for each medium.
- A process ends when its input does, so that none outlives its owner, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.errors import StageFault
from components.preferences.bounds import MediaBounds, MediaError
from components.stages import command
from components.storage.content_cache import ContentCache
from components.validation.examination import Examined, Examiner, Fault, Kind, Medium

AHEAD = 32  # requests that a process has before it; their answers fit into a pipe
COALESCE_SECONDS = 0.008  # that the owner waits for more answers at once
READY = b"ready"  # the first line of a process
STALL_SECONDS = 120.0  # without an answer, however little CPU time is used: a file system that hangs
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # stacks of threads would count as memory
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),  # the C library uses the memory of one picture for the next: a fifth less time
    "MALLOC_TRIM_THRESHOLD_": str(8 << 20),
    "MALLOC_TOP_PAD_": str(128 << 10),  # a stage's own setting reserves more than a process may have here
}
CODE_ROOT = Path(__file__).resolve().parents[2]

Request = tuple[str, Kind]


class Decoders:
    """`count` processes, which start when there are requests for them."""

    def __init__(self, examiner: Examiner, arguments: dict[str, Any], bounds: MediaBounds, count: int) -> None:
        self._examiner, self._arguments, self._bounds = examiner, arguments, bounds
        self._count = count
        self._waiting: deque[Request] = deque()
        self._workers: list[_Worker] = []

    def submit(self, request: Request) -> None:
        """Take a request; it is sent when a process has room for it."""
        self._waiting.append(request)

    def answers(self, *, block: bool) -> list[tuple[Request, Examined]]:
        """Answers in no order: those that have come, or, with `block`, at least one where any request is open.

        Raises StageFault where a process can't start.
        """
        while True:
            self._feed()
            busy = [worker for worker in self._workers if worker.open]
            if not busy:
                return []
            answers = [answer for worker in busy for answer in worker.read(self._bounds)]
            answers += [self._replace(worker) for worker in busy if worker.fault is not None]
            if answers or not block:
                return answers
            select.select(busy, [], [], 1.0)
            time.sleep(COALESCE_SECONDS)

    def close(self) -> None:
        """End all processes, and forget open requests."""
        for worker in self._workers:
            worker.close()
        self._workers, self._waiting = [], deque()

    def _feed(self) -> None:
        while self._waiting and len(self._workers) < self._count and len(self._workers) * AHEAD < len(self._waiting):
            self._workers.append(_Worker(self._arguments))
        for worker in self._workers:
            room = AHEAD - len(worker.open)
            if room >= AHEAD // 2:
                worker.send([self._waiting.popleft() for _ in range(min(room, len(self._waiting)))])

    def _replace(self, worker: _Worker) -> tuple[Request, Examined]:
        assert worker.fault is not None
        path, kind = worker.open.popleft()
        self._waiting.extendleft(reversed(worker.open))
        worker.close()
        self._workers[self._workers.index(worker)] = _Worker(self._arguments)
        return (path, kind), self._examiner.give_up(path, kind, worker.fault)


class _Worker:
    """One process, and the requests that it has not answered, in order."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the process
        self._process = subprocess.Popen(
            [*command("decoding"), json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,  # libraries write warnings there
            cwd=CODE_ROOT,
            env=os.environ | ENVIRONMENT,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        self._rest = b""
        self._answered = time.monotonic()
        self._ready = False
        self.open: deque[Request] = deque()
        self.fault: MediaError | None = None  # of the first open request, once the process has ended

    def fileno(self) -> int:
        """Where the answers come from."""
        return self._output

    def send(self, requests: list[Request]) -> None:
        """Hand over requests."""
        if not self.open:
            self._answered = time.monotonic()
        self.open.extend(requests)
        with contextlib.suppress(BrokenPipeError):  # `read` sees that the process has ended
            os.write(self._input, b"".join(json.dumps(request).encode() + b"\n" for request in requests))

    def read(self, bounds: MediaBounds) -> list[tuple[Request, Examined]]:
        """The answers that have come; sets `fault` where the process has ended."""
        try:
            content = os.read(self._output, 1 << 16)
        except BlockingIOError:
            if time.monotonic() - self._answered > STALL_SECONDS:
                self.fault = MediaError("media_too_large", f"was not read within {STALL_SECONDS:.0f} seconds")
            return []
        if not content:
            code = self._process.wait()
            if not self._ready:
                raise StageFault(f"a process that reads media ended at its start (code {code}{self._last_words()})")
            self.fault = _cause(code, bounds)
            return []
        self._answered = time.monotonic()
        *lines, self._rest = (self._rest + content).split(b"\n")
        if not self._ready and lines:
            self._ready = lines.pop(0) == READY
        return [(self.open.popleft(), _parsed(line)) for line in lines]

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        words = next((line for line in reversed(lines) if line.strip()), "")
        return (f": {words[:300]}" if words else "") + ("; is validate.max_media_gb too small?" if "Memory" in words or not words else "")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def _cause(code: int, bounds: MediaBounds) -> MediaError:
    if code == -signal.SIGPROF:
        return MediaError("media_too_large", f"takes more than validate.max_media_seconds {bounds.seconds:g} of CPU time to read")
    if code == -signal.SIGKILL:
        return MediaError("media_too_large", "takes more memory than the machine has")
    return MediaError("media_undecodable", f"makes its decoder crash ({signal.strsignal(-code) if code < 0 else f'exit code {code}'})")


def _parsed(line: bytes) -> Examined:
    value = json.loads(line)
    return Examined(Medium(**value["medium"]) if "medium" in value else Fault(**value["fault"]), value["fresh"])


def work(arguments: dict[str, Any]) -> None:
    """The loop of a process: a request a line in, an answer a line out."""
    bounds = MediaBounds(**arguments["bounds"])
    size = int(bounds.gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.ExitStack() as stack:
        cache = (
            stack.enter_context(ContentCache(Checkout(Path(arguments["checkout"])), arguments["kind"])) if arguments["checkout"] else None
        )
        examiner = Examiner(Path(arguments["root"]), bounds, cache, arguments["reader"])
        os.write(1, READY + b"\n")
        for path, kind in _requests():
            signal.setitimer(signal.ITIMER_PROF, bounds.seconds)  # its signal ends the process, also inside a decoder
            examined = examiner.examine(path, kind)
            signal.setitimer(signal.ITIMER_PROF, 0)
            result = {"medium" if isinstance(examined.result, Medium) else "fault": vars(examined.result), "fresh": examined.fresh}
            os.write(1, json.dumps(result).encode() + b"\n")


def _requests() -> Iterator[Request]:
    for line in sys.stdin.buffer:
        path, kind = json.loads(line)
        yield path, kind


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
