"""The store of runs: a database in the checkout, or the server of MLFLOW_TRACKING_URI.

- Without a server, runs lie in `mlflow.db` and their artifacts in `mlruns/`, both at the checkout's root: `mlflow ui` there shows them.
- A lock protects the creation of the experiment, before the first run: two clients at once would put a run into experiment 0.
"""

from __future__ import annotations

import logging
import os
import re
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from components.checkout import Checkout
from components.files import is_writable

EXPERIMENT = "mmalign"
RETRY_SECONDS = 60.0  # pause before the next attempt at a failed store, since each may wait for a minute
PROBE_SECONDS = 3.0  # that a server has to answer
SERVER_FAILED = 500  # HTTP's codes from here on are faults of the server

_failures: dict[str, tuple[float, Exception]] = {}  # store to the time and reason of its last failure

# Set before mlflow is imported, unless the caller has set them.
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",  # with doubling pauses about a minute: enough for a server that restarts
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}


def tracking_uri(checkout: Checkout) -> str:
    """The store of this checkout's runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{checkout.root.resolve() / 'mlflow.db'}"


def state_folder(checkout: Checkout) -> Path:
    """The checkout's folder of operations that wait for the store."""
    return checkout.tracking


@contextmanager
def store_lock(checkout: Checkout) -> Iterator[None]:
    """A lock for look-up and creation, so that two processes of one checkout don't create a thing twice. Who can't write creates nothing."""
    if not is_writable(state_folder(checkout)):
        yield
        return
    state_folder(checkout).mkdir(parents=True, exist_ok=True)
    with FileLock(state_folder(checkout) / "store.lock", is_singleton=True):  # one a process: taken again inside
        yield


class StoreAway(RuntimeError):
    """The server of the record does not answer."""


class ExperimentDeleted(RuntimeError):
    """Somebody deleted the experiment in MLflow, which refuses records then. `cure` is the command that restores it."""

    def __init__(self, uri: str, number: str) -> None:
        remote = uri.startswith(("http://", "https://"))
        access = "MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD=... " if remote else ""
        address = re.sub(r"//[^/@\s]*@", "//", uri)  # without a password
        self.cure = f"MLFLOW_TRACKING_URI={address} {access}mlflow experiments restore --experiment-id {number}"
        super().__init__(f"the experiment {EXPERIMENT} was deleted in MLflow; restore it with: {self.cure}")


def reach(checkout: Checkout) -> tuple[Any, str]:
    """As `connect`, for writes that can wait: raises StoreAway for a dead server within seconds, not after a minute of retries."""
    uri = tracking_uri(checkout)
    if uri.startswith(("http://", "https://")) and not answers(uri):
        raise StoreAway(f"{uri} does not answer")
    return connect(checkout)


def note_failure(checkout: Checkout, error: Exception) -> None:
    """Note a failed write. The next write probes a dead server at once. A server that answers but fails (its database may be away) would
    delay each write, so writes skip it for RETRY_SECONDS."""
    uri = tracking_uri(checkout)
    if not uri.startswith(("http://", "https://")) or answers(uri):
        _failures[uri] = (time.monotonic(), error)


def answers(uri: str) -> bool:
    """Whether a server answers with anything but a fault of its own."""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS):  # noqa: S310 -- http to a server that settings name
            return True
    except urllib.error.HTTPError as error:
        return error.code < SERVER_FAILED
    except (OSError, ValueError):
        return False


def connect(checkout: Checkout) -> tuple[Any, str]:
    """An `MlflowClient` and the experiment's id. Raises whatever mlflow raises when the store can't be reached."""
    uri = tracking_uri(checkout)
    failed_at, failure = _failures.get(uri, (0.0, None))
    if failure is not None and time.monotonic() - failed_at < RETRY_SECONDS:
        raise failure
    try:
        return _connect(checkout.absolute(), uri)
    except Exception as error:
        _failures[uri] = (time.monotonic(), error)
        raise


@lru_cache(maxsize=4)
def _connect(checkout: Checkout, uri: str) -> tuple[Any, str]:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for chatty in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(chatty).setLevel(logging.WARNING)  # they log each table of a new database
    with store_lock(checkout):
        _create_database(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return client, _experiment(client, checkout, uri)


def _create_database(uri: str) -> None:
    """Make a new database beside its place, then move it there: a kill while MLflow makes the tables leaves nothing that later runs fail on.

    In a run's workspace the place is a link to that of the checkout's database, which may not be there yet.
    """
    path = Path(uri.removeprefix("sqlite:///")).resolve()
    if not uri.startswith("sqlite:///") or path.exists():
        return
    from mlflow import MlflowClient

    for left in path.parent.glob(f"{path.name}.new-*"):
        left.unlink()
    beside = path.with_name(f"{path.name}.new-{uuid.uuid4().hex}")  # MLflow caches a store by its address
    MlflowClient(tracking_uri=f"sqlite:///{beside}").search_experiments(max_results=1)
    beside.replace(path)


def _experiment(client: Any, checkout: Checkout, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        remote = uri.startswith(("http://", "https://"))  # a server has its own folder for artifacts
        try:
            return str(client.create_experiment(EXPERIMENT, artifact_location=None if remote else checkout.mlruns.as_uri()))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        raise ExperimentDeleted(uri, str(experiment.experiment_id))
    return str(experiment.experiment_id)
