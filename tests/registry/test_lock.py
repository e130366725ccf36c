"""Two checkouts that record in one store change its registry one after the other."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.registry import lock
from components.registry.lock import NAME, registry_lock
from components.registry.store import open_store
from components.storage.clones import complete
from tests.tracking.conftest import checkout, empty_database  # noqa: F401 -- fixtures


@pytest.fixture(name="pair")
def fixture_pair(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Checkout, Checkout]:  # noqa: F811 -- a fixture
    """Two checkouts of one store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{checkout / 'mlflow.db'}")
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.05)
    (tmp_path / "other").mkdir()
    return Checkout(checkout), Checkout(tmp_path / "other")


def exists(of: Checkout) -> bool:
    with open_store(of) as (client, _):
        return lock._state(client) is not None


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_second_checkout_waits_for_the_first(pair: tuple[Checkout, Checkout]) -> None:
    order: list[str] = []
    messages: list[str] = []

    def second() -> None:
        with registry_lock(pair[1], messages.append):
            order.append("second")

    with registry_lock(pair[0]):
        waiting = in_thread(second)
        until = time.monotonic() + 60
        while not messages and time.monotonic() < until:
            time.sleep(0.02)
        order.append("first")
    waiting.join(60)
    assert order == ["first", "second"]
    assert messages[0].startswith(f"waiting for the promotion of {pair[0].root} on ")
    assert not exists(pair[0])


def test_lock_of_killed_holder_is_removed(pair: tuple[Checkout, Checkout], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.5)
    with open_store(pair[0]) as (client, _):
        client.create_registered_model(NAME, tags={lock.TOKEN: "dead", lock.BEAT: "7", lock.HOLDER: "a dead one"})
    messages: list[str] = []
    with registry_lock(pair[1], messages.append):
        assert exists(pair[1])
    assert messages[-1] == "the promotion of a dead one has shown no sign of life for 0.5 s: its lock is removed"
    with open_store(pair[0]) as (client, _):
        assert [model.name for model in client.search_registered_models()] == []


def test_lock_of_own_killed_process_is_removed_at_once(pair: tuple[Checkout, Checkout]) -> None:
    own = f"{pair[0].root.resolve()} on {socket.gethostname()}"
    with open_store(pair[0]) as (client, _):
        client.create_registered_model(NAME, tags={lock.TOKEN: "dead", lock.BEAT: "7", lock.HOLDER: "a dead one", lock.OWNER: own})
    messages: list[str] = []
    began = time.monotonic()
    with registry_lock(pair[0], messages.append):
        assert exists(pair[0])
    assert time.monotonic() - began < lock.BEAT_SECONDS
    assert messages == ["the promotion of a dead one was killed: its lock is removed"]


def test_copies_of_a_checkout_take_turns_by_its_file(pair: tuple[Checkout, Checkout]) -> None:
    copy = pair[1]
    (copy.root / ".git").mkdir()
    complete(pair[0], copy.root)
    entered = threading.Event()

    def second() -> None:
        with lock.local_lock(copy):
            entered.set()

    with lock.local_lock(pair[0]):
        waiting = in_thread(second)
        assert not entered.wait(0.5)
    waiting.join(60)
    assert entered.is_set()
    assert not (copy.locks / "registry.lock").exists()


def test_lock_of_living_holder_stays(pair: tuple[Checkout, Checkout], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)
    entered = threading.Event()

    def second() -> None:
        with registry_lock(pair[1]):
            entered.set()

    with registry_lock(pair[0]):
        waiting = in_thread(second)
        assert not entered.wait(7.0), "more than two leases"
    waiting.join(60)
    assert entered.is_set()


def test_removal_of_dead_lock_spares_its_successor(pair: tuple[Checkout, Checkout]) -> None:
    with registry_lock(pair[0]), open_store(pair[0]) as (client, _):
        lock._remove(client, "dead")
        assert exists(pair[0])


def test_store_of_the_checkout_alone_needs_no_shared_lock(pair: tuple[Checkout, Checkout], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with registry_lock(pair[0]):
        assert not exists(pair[0])


def test_failed_change_releases_the_lock(pair: tuple[Checkout, Checkout]) -> None:
    with pytest.raises(ValueError, match="in the middle"), registry_lock(pair[0]):
        raise ValueError("in the middle")
    assert not exists(pair[0])
