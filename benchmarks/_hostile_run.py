"""Runs the commands of `mmalign` on hostile input: each in a process forked from one that has the libraries loaded, on a terminal that says "y".

A forked process does all that the command does, without the seconds that imports take.
"""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 60.0  # after which a command hangs
ANSWER = b"y\n" * 8
MEMORY_BYTES = 24 * 2**30  # of address space, so that no probe takes the machine's memory
REFUSED = 2


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, None after SECONDS, and what it wrote."""

    code: int | None
    output: str
    error: str

    @property
    def text(self) -> str:
        """All that it wrote."""
        return self.output + self.error


def preload() -> None:
    """Load what the commands load, without running any of it."""
    import torch
    import transformers.models.auto.processing_auto
    import transformers.models.llava_onevision.modeling_llava_onevision  # noqa: F401 -- loaded for the processes that are forked

    import components.cli.main
    import components.families.hub.compare
    import components.families.loading
    import components.families.processing
    import components.features.keys
    import components.preferences.importing.run
    import components.validation.outside
    import components.validation.reader
    import components.validation.stage  # noqa: F401 -- as above

    torch.set_num_threads(1)  # a pool of threads would not survive a fork


def mmalign(*arguments: str) -> Callable[[], int]:
    """The command line with these arguments."""

    def run() -> int:
        from components.cli.main import main
        from components.printable import print_codes

        sys.argv = ["mmalign", *arguments]
        print_codes()  # as the command does
        return main()

    return run


def opened(folder: Path) -> Callable[[], int]:
    """What a stage does with a checkpoint: open its processor and its weights."""

    def run() -> int:
        from components.config.features import FeatureSettings
        from components.config.model import ModelSettings
        from components.families.loading import load_model
        from components.families.processing import Preprocessor
        from components.processes.faults import explain

        try:
            settings = ModelSettings(base=folder, attention="sdpa", max_length=64, max_frames=1)
            Preprocessor(folder, folder, settings, FeatureSettings(pixels_max_gb=0.01)).refuse_unusable_template()
            load_model(folder)
        except Exception as error:  # noqa: BLE001 -- as the command line ends
            return explain(error)
        return 0

    return run


def run(work: Callable[[], int], folder: Path, scratch: Path, environment: dict[str, str], seconds: float = SECONDS) -> Ended:
    """Do `work` in `folder` in a process of its own."""
    with started(work, folder, scratch, environment) as (pid, ends):
        code = _wait(pid, seconds)
        output, error = ((scratch / name).read_bytes().decode("utf-8", "surrogateescape") for name in ("out", "err"))
        del ends
    return Ended(code, output, error)


@contextlib.contextmanager
def started(work: Callable[[], int], folder: Path, scratch: Path, environment: dict[str, str]) -> Iterator[tuple[int, Any]]:
    """A process that does `work`; its standard input is a terminal on which somebody has typed "y"."""
    scratch.mkdir(parents=True, exist_ok=True)
    terminal, child_side = pty.openpty()
    os.write(terminal, ANSWER)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(work, folder, scratch, environment, child_side)
    os.close(child_side)
    try:
        yield pid, terminal
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        os.close(terminal)


def _child(work: Callable[[], int], folder: Path, scratch: Path, environment: dict[str, str], terminal: int) -> None:
    code = 1
    try:
        import resource

        os.login_tty(terminal)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(scratch / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        os.environ.update(environment)
        os.chdir(folder)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 -- the process ends with them
        code = work()
    except BaseException:  # noqa: BLE001 -- counted as a trace
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, seconds: float) -> int | None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def texts_below(folders: Sequence[Path]) -> Iterator[tuple[Path, bytes]]:
    """The contents of all files of some folders."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path, path.read_bytes()
