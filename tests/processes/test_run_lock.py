from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.processes.guard import run_lock
from components.processes.marks import RUN_MARK, new_run_mark


@pytest.fixture
def leftover(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of an earlier run in the checkout `tmp_path`."""
    environment = {**os.environ, RUN_MARK: new_run_mark(Checkout(tmp_path))}
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_run_without_wait_refuses_leftovers(tmp_path: Path, leftover: subprocess.Popen[bytes]) -> None:
    with pytest.raises(UserError, match=f"still live: {leftover.pid} "), run_lock(Checkout(tmp_path)):
        pytest.fail("the lock was given")


def test_run_that_may_wait_begins_when_leftovers_have_ended(tmp_path: Path, leftover: subprocess.Popen[bytes]) -> None:
    def end() -> None:
        leftover.kill()
        leftover.wait()

    timer = threading.Timer(0.5, end)
    timer.start()
    with run_lock(Checkout(tmp_path), wait_seconds=30):
        assert leftover.poll() is not None
    timer.join()


def test_leftovers_that_stay_are_refused_after_the_wait(tmp_path: Path, leftover: subprocess.Popen[bytes]) -> None:
    with pytest.raises(UserError, match=f"kill -9 {leftover.pid}"), run_lock(Checkout(tmp_path), wait_seconds=0.3):
        pytest.fail("the lock was given")
