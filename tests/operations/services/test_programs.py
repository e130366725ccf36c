"""What a service finds when it starts: what a killed one left behind ends, all else stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.operations.services import programs
from components.operations.services.state import Addresses
from components.processes.marks import SERVICE, SERVICE_MARK, checkout_mark


@contextmanager
def living(checkout: Checkout, service: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, SERVICE_MARK: checkout_mark(checkout), SERVICE: service}
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def umask() -> Iterator[None]:
    """Puts back the umask that a service sets for itself."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_record_ends_what_a_killed_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Became(Exception):
        pass

    def become(*_: object) -> None:
        raise Became

    ours, theirs = Checkout(tmp_path / "ours"), Checkout(tmp_path / "theirs")
    monkeypatch.setattr(programs, "read_addresses", lambda _: Addresses("127.0.0.1", 1, 2, 3))
    monkeypatch.setattr(programs, "read_secrets", lambda _: None)
    monkeypatch.setattr(programs, "_mlflow", become)
    monkeypatch.setattr(programs, "_worker", become)
    with ExitStack() as stack:
        left, flow, other = (stack.enter_context(living(*which)) for which in ((ours, "mlflow"), (ours, "worker"), (theirs, "mlflow")))
        with pytest.raises(Became):
            programs.main("worker", ours)
        assert left.poll() is None
        with pytest.raises(Became):
            programs.main("mlflow", ours)
        assert left.wait(5) != 0
        assert flow.poll() is None, "a run of a killed worker goes on"
        assert other.poll() is None


def test_checkout_without_services_starts_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mmalign up"):
        programs.main("mlflow", Checkout(tmp_path))
