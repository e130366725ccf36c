"""One change to the registry at a time: among the processes of a checkout, and among all checkouts that record on one server.

MLflow has no locks, but it creates a registered model of a name only once. So the lock of a shared store is the registered model `NAME`, which
its holder creates, marks every BEAT_SECONDS, and deletes at its end. A holder that was killed marks no more: who waits removes its lock after
LEASE_SECONDS, by its own clock. Within a checkout, its clones and its copies a file is locked first, which the system frees at a kill: who has
that, and meets a lock of the same checkout on the same machine, meets a dead one's.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from filelock import FileLock

from components.checkout import Checkout
from components.registry.store import open_store
from components.storage.clones import deployed_checkout

NAME = "mmalign-registry-lock"
TOKEN, BEAT, HOLDER, OWNER = "mmalign.token", "mmalign.beat", "mmalign.holder", "mmalign.owner"
BEAT_SECONDS, LEASE_SECONDS, POLL_SECONDS = 20.0, 120.0, 1.0


@contextmanager
def registry_lock(checkout: Checkout, log: Callable[[str], None] = print) -> Iterator[None]:
    """One change to the registry at a time. Waits without a limit, and logs for whom."""
    with local_lock(checkout):
        if "MLFLOW_TRACKING_URI" not in os.environ:  # the store is this checkout's own
            yield
            return
        with open_store(checkout) as (client, _):
            owner = f"{deployed_checkout(checkout).absolute().root} on {socket.gethostname()}"
            token = _take(client, owner, f"{checkout.root} on {socket.gethostname()}, process {os.getpid()}", log)
        ended = threading.Event()
        marking = threading.Thread(target=_mark, args=(client, token, ended), name="registry lock", daemon=True)
        marking.start()
        try:
            yield
        finally:
            ended.set()
            marking.join()
            with open_store(checkout) as (client, _):
                if (_state(client) or {}).get(TOKEN) == token:
                    client.delete_registered_model(NAME)


@contextmanager
def local_lock(checkout: Checkout) -> Iterator[None]:
    """One process of this checkout, its clones and its copies at a time: enough for reading."""
    path = deployed_checkout(checkout).locks / "registry.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, is_singleton=True):
        yield


def _take(client: Any, owner: str, holder: str, log: Callable[[str], None]) -> str:
    """Create the lock, once it is free; returns its token."""
    from mlflow.exceptions import MlflowException

    token = uuid4().hex
    seen: dict[str, str] | None = None
    since, logged = time.monotonic(), False
    while True:
        try:
            client.create_registered_model(NAME, tags={TOKEN: token, BEAT: "0", HOLDER: holder, OWNER: owner})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        else:
            return token
        state = _state(client)
        if state is None:
            continue  # released meanwhile
        if state.get(OWNER) == owner:
            log(f"the promotion of {state.get(HOLDER)} was killed: its lock is removed")
            _remove(client, state.get(TOKEN, ""))
            continue
        if state != seen:
            seen, since = state, time.monotonic()
        elif time.monotonic() - since > LEASE_SECONDS:
            log(f"the promotion of {state.get(HOLDER)} has shown no sign of life for {LEASE_SECONDS:g} s: its lock is removed")
            _remove(client, state.get(TOKEN, ""))
            continue
        if not logged:
            log(f"waiting for the promotion of {state.get(HOLDER)}")
            logged = True
        time.sleep(POLL_SECONDS)


def _remove(client: Any, token: str) -> None:
    """Remove a dead holder's lock, and no other's: the lock gets its token's name first, which a second process can't give once more."""
    from mlflow.exceptions import MlflowException

    if (_state(client) or {}).get(TOKEN) != token:
        return  # another process was faster
    dead = f"{NAME}-{token}"
    try:
        client.rename_registered_model(NAME, dead)
        client.delete_registered_model(dead)
    except MlflowException as error:
        if error.error_code not in {"RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"}:
            raise


def _mark(client: Any, token: str, ended: threading.Event) -> None:
    from mlflow.exceptions import MlflowException

    beats = 0
    while not ended.wait(BEAT_SECONDS):
        beats += 1
        try:
            if (_state(client) or {}).get(TOKEN) == token:
                client.set_registered_model_tag(NAME, BEAT, str(beats))
        except MlflowException:
            continue  # a silent store answers at the next beat, or the promotion fails by itself


def _state(client: Any) -> dict[str, str] | None:
    """The tags of the lock; None where nobody has it."""
    from mlflow.exceptions import MlflowException

    try:
        return {str(key): str(value) for key, value in client.get_registered_model(NAME).tags.items()}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
