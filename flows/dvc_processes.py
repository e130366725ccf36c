"""DVC's commands of one run, in processes that stay loaded (components/storage/dvc_process.py): one for each command at a time."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from components.checkout import Checkout
from components.processes.marks import end_process
from components.stages import command


class DvcProcesses:
    """The processes of a run in `checkout`. They inherit the environment of their start; `environment` is added to it for all commands."""

    def __init__(self, checkout: Checkout) -> None:
        self.environment: dict[str, str] = {}
        self._checkout = checkout
        self._lock = threading.Lock()
        self._idle = [self._start()]

    def run(self, words: Sequence[str], log: Path, environment: Mapping[str, str]) -> DvcCommand:
        """Start a command of DVC, with its output into `log`."""
        with self._lock:
            while self._idle and self._idle[-1].poll() is not None:
                self._idle.pop()
            process = self._idle.pop() if self._idle else self._start()
        order = {"words": list(words), "environment": {**self.environment, **environment}, "log": str(log.absolute())}
        return DvcCommand(process, json.dumps(order), self._take_back)

    def close(self) -> None:
        """End the idle processes."""
        with self._lock:
            for process in self._idle:
                end_process(process)
            self._idle = []

    def _take_back(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._idle.append(process)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command("dvc"), cwd=self._checkout.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
        )


class DvcCommand:
    """A command under way, with what the supervisor asks of a process. Its process runs other commands after it."""

    def __init__(self, process: subprocess.Popen[bytes], order: str, take_back: Callable[[subprocess.Popen[bytes]], None]) -> None:
        self._process = process
        self._take_back = take_back
        self.pid = process.pid
        self.returncode: int | None = None
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        try:
            process.stdin.write(f"{order}\n".encode())
        except BrokenPipeError:
            pass  # it has been killed: `poll` finds that

    def poll(self) -> int | None:
        """The exit code; None while the command runs."""
        if self.returncode is None:
            assert self._process.stdout is not None
            answer = self._process.stdout.read()
            if answer:
                self.returncode = int(answer)
                self._take_back(self._process)
            else:
                self.returncode = self._process.poll()
        return self.returncode

    def wait(self) -> int:
        """Wait for the command's end; returns the exit code."""
        if self.returncode is None:
            self.returncode = self._process.wait()
        return self.returncode
