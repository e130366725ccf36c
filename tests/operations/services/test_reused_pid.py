"""PostgreSQL's note of its process, when the machine has given the pid to another program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.operations.services import postgres
from components.operations.services.state import Addresses, create_secrets, free_port
from components.operations.services.temporary_postgres import database
from components.processes.secrets import state_folder


@pytest.fixture(name="state")
def fixture_state(tmp_path: Path) -> Path:
    """The state folder of services whose database was created."""
    create_secrets(Checkout(tmp_path))
    state = state_folder(Checkout(tmp_path))
    (state / "postgres/data").mkdir(parents=True)
    (state / "postgres/initialised").touch()
    return state


@pytest.fixture(name="other")
def fixture_other(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another program."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=tmp_path) as process:
        yield process
        process.kill()


def note(state: Path, pid: object) -> Path:
    path = state / "postgres/data/postmaster.pid"
    path.write_text(f"{pid}\n{state}/postgres/data\n1795954728\n44675\n\n127.0.0.1\n")
    return path


def test_note_of_another_program_is_removed(state: Path, other: subprocess.Popen[bytes]) -> None:
    path = note(state, other.pid)
    postgres.initialize(state, create_secrets(Checkout(state.parents[1])))
    assert not path.exists()


@pytest.mark.parametrize("pid", ["", "no number", "-1", str(2**22 + 1)])
def test_note_without_live_process_is_removed(state: Path, pid: str) -> None:
    path = note(state, pid)
    postgres.initialize(state, create_secrets(Checkout(state.parents[1])))
    assert not path.exists()


def test_note_of_live_server_stays(state: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=state / "postgres/data") as server:
        path = note(state, server.pid)
        postgres.initialize(state, create_secrets(Checkout(state.parents[1])))
        server.kill()
    assert path.exists()


@pytest.mark.slow
def test_database_starts_beside_reused_pid(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    checkout = Checkout(tmp_path / "100%mine with space")
    secrets = create_secrets(checkout)
    state = state_folder(checkout)
    addresses = Addresses("127.0.0.1", 1, 2, free_port(set()))
    with database(checkout, state, addresses, secrets):
        postgres.make_databases(addresses, secrets)
    note(state, other.pid)
    with database(checkout, state, addresses, secrets):
        assert postgres.answers(addresses, secrets)
