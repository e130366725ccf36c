"""Where runs are recorded: a database in the checkout, or the server that MLFLOW_TRACKING_URI names.

- Without a server, runs lie in `mlflow.db` and their artifacts in `mlruns/`, both at the checkout's root: `mlflow ui` there shows them.
- The experiment is made under a lock, before the first run: two clients that make it at once would put a run into experiment 0.
"""

from __future__ import annotations

import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

EXPERIMENT = "mmalign"
RETRY_SECONDS = 60.0  # a store that failed is not tried again sooner: each try may wait for a minute
PROBE_SECONDS = 3.0  # that a server has to say that it is there
SERVER_FAILED = 500  # HTTP's codes from here on say that the server is not well

_failures: dict[str, tuple[float, Exception]] = {}  # store to the time and reason of its last failure

# Set before mlflow is imported, and only where the caller has set nothing.
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",  # with doubling pauses about a minute: enough for a server that restarts
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}


def tracking_uri(root: Path) -> str:
    """The store of this checkout's runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def state_folder(root: Path) -> Path:
    """Where this checkout keeps what could not be recorded yet."""
    return root / ".mmalign" / "tracking"


@contextmanager
def store_lock(root: Path) -> Iterator[None]:
    """Held while something is looked up and then made, so that two processes of one checkout don't both make it."""
    state_folder(root).mkdir(parents=True, exist_ok=True)
    with FileLock(state_folder(root) / "store.lock", is_singleton=True):  # one a process: taken again inside
        yield


class StoreAway(RuntimeError):
    """The server that keeps the record does not answer."""


def reach(root: Path) -> tuple[Any, str]:
    """As `connect`, for what can wait: a server that does not answer is found out in seconds, not after a minute of retries. StoreAway."""
    uri = tracking_uri(root)
    if uri.startswith(("http://", "https://")) and not answers(uri):
        raise StoreAway(f"{uri} does not answer")
    return connect(root)


def note_failure(root: Path, error: Exception) -> None:
    """Remember a write that failed. A server that is gone is asked again at once; one that is there and fails, its database may be gone,
    would let each further write wait, and is left alone for a while."""
    uri = tracking_uri(root)
    if not uri.startswith(("http://", "https://")) or answers(uri):
        _failures[uri] = (time.monotonic(), error)


def answers(uri: str) -> bool:
    """Whether a server is there: any answer but one that says that it is not well."""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS):  # noqa: S310 -- http to a server that settings name
            return True
    except urllib.error.HTTPError as error:
        return error.code < SERVER_FAILED
    except (OSError, ValueError):
        return False


def connect(root: Path) -> tuple[Any, str]:
    """An `MlflowClient` and the experiment's id. Raises whatever mlflow raises when the store can't be reached."""
    uri = tracking_uri(root)
    failed_at, failure = _failures.get(uri, (0.0, None))
    if failure is not None and time.monotonic() - failed_at < RETRY_SECONDS:
        raise failure
    try:
        return _connect(root.resolve(), uri)
    except Exception as error:
        _failures[uri] = (time.monotonic(), error)
        raise


@lru_cache(maxsize=4)
def _connect(root: Path, uri: str) -> tuple[Any, str]:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for chatty in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(chatty).setLevel(logging.WARNING)  # a new database is no news
    with store_lock(root):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return client, _experiment(client, root, uri)


def _experiment(client: Any, root: Path, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        remote = uri.startswith(("http://", "https://"))  # a server knows its own place for artifacts
        try:
            return str(client.create_experiment(EXPERIMENT, artifact_location=None if remote else (root / "mlruns").as_uri()))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(EXPERIMENT)
    assert found is not None
    return str(found.experiment_id)
