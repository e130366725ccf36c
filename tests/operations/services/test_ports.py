"""Ports of the services that other programs hold: before a start, and between its check and the services' own bind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.config.ops import ServicesSettings
from components.errors import StageFault, UserError
from components.operations.services import up
from components.operations.services.ports import is_free, listeners
from components.operations.services.state import free_port, read_addresses
from tests.settings import copy_settings

LISTEN = "import socket, sys; bound = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print(flush=True); sys.stdin.read()"
Listen = Callable[[int], subprocess.Popen[str]]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Start a foreign program that listens on a port of the loopback."""
    programs = []

    def begin(port: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LISTEN, str(port)]
        program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        programs.append(program)
        assert program.stdout is not None
        program.stdout.readline()
        return program

    yield begin
    for program in programs:
        program.communicate("")


@pytest.fixture(name="checkout")
def fixture_checkout(tmp_path: Path) -> Checkout:
    copy_settings(tmp_path)
    return Checkout(tmp_path)


def settings_with(checkout: Checkout, **ports: int) -> ServicesSettings:
    return checkout.settings().services.model_copy(update=ports)


@pytest.mark.parametrize("name", ["prefect", "mlflow", "postgres"])
def test_start_on_taken_port_names_program_and_setting(
    checkout: Checkout, listen: Listen, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    port = free_port(set())
    foreign = listen(port)
    monkeypatch.setattr(up, "import_existing_record", lambda *_: pytest.fail("something was started"))
    with pytest.raises(UserError) as refusal:
        up.bring_up(checkout, settings_with(checkout, **{f"{name}_port": port}), lambda _: None)
    assert str(refusal.value).startswith(f"port {port} of {name} is taken by process {foreign.pid} (")
    assert str(refusal.value).endswith(f"end that process, or set services.{name}_port in ops.yaml to another port")
    assert read_addresses(checkout) is None, "a first start that failed leaves no services"


def test_port_taken_after_check_ends_the_start(checkout: Checkout, listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    port, foreign, ended = free_port(set()), [], []
    monkeypatch.setattr(up, "import_existing_record", lambda *_: foreign.append(listen(port)) or {})
    monkeypatch.setattr(up, "_wait", lambda *_: None)  # the foreign program may answer as a service would
    monkeypatch.setattr(up.supervision, "start", lambda *_: None)
    monkeypatch.setattr(up.supervision, "stop", lambda *_: ended.append("services"))
    with pytest.raises(StageFault, match=f"port {port} of prefect is taken by process .*, which answers in its place"):
        up.bring_up(checkout, settings_with(checkout, prefect_port=port), lambda _: None)
    assert ended == ["services"]
    assert foreign[0].poll() is None, "only own processes are ended"


def test_listeners_of_a_port_are_its_processes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        assert listeners(port) == {os.getpid()}
        assert not is_free("127.0.0.1", port)
    assert listeners(port) == set()
    assert is_free("127.0.0.1", port)
