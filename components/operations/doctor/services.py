"""Checks of what a run talks to: MLflow's store, Prefect's server, and records that are still to be written."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path

from components.operations.doctor.findings import Finding, ok, problem, warning
from components.processes.marks import is_alive
from components.tracking.recorder import PENDING
from components.tracking.store import connect, state_folder, tracking_uri

ANSWER_SECONDS = 3.0
# A question to the store that can wait for an answer only as long as a person does. Set before MLflow is asked anything.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


def be_quick() -> None:
    """Make this process give up soon on a store that does not answer: for commands that only look."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)


def store_file(root: Path) -> Path | None:
    """The file of a store on this machine; None for a server."""
    uri = tracking_uri(root)
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def store_silence(root: Path) -> str | None:
    """In words, that the store is a server that does not answer; None when it does, or lies in a database."""
    uri = tracking_uri(root)
    silent = _silence(f"{uri.rstrip('/')}/health") if uri.startswith(("http://", "https://")) else None
    return None if silent is None else f"{_without_password(uri)} does not answer: {silent}"


def mlflow_store(root: Path) -> Finding:
    """Runs can be recorded where they are meant to be."""
    uri = tracking_uri(root)
    file = store_file(root)
    if file is not None and not file.exists():
        return ok(f"no run is recorded yet; {_short(file, root)} is made by the first one")
    shown = _short(file, root) if file is not None else _without_password(uri)
    cure = "mend or move that file away; a run makes a new one"
    if file is None:
        cure = "start that server, or unset MLFLOW_TRACKING_URI to record in the checkout; until then records wait in .mmalign/tracking"
        silent = store_silence(root)
        if silent is not None:
            return problem(silent, cure)
    try:
        connect(root)
    except Exception as error:  # noqa: BLE001 -- a database's driver raises what it likes
        return problem(f"{shown} can't be used: {type(error).__name__}: {' '.join(str(error).split())[:200]}", cure)
    return ok(f"{shown} answers")


def pickled_models(root: Path) -> Finding:  # noqa: ARG001 -- every check takes the checkout
    """MLflow refuses models that are pickles, since opening one runs whatever code is in it."""
    value = os.environ.get("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    if value.strip().lower() in {"true", "1"}:
        return warning(
            f"MLFLOW_ALLOW_PICKLE_DESERIALIZATION is {value}: opening a model from the registry can run its author's code",
            "unset MLFLOW_ALLOW_PICKLE_DESERIALIZATION",
        )
    return ok("models that are pickles are refused")


def waiting_records(root: Path) -> Finding:
    """Nothing waits to be written to the store."""
    files = sorted(state_folder(root).glob(f"{PENDING}*.jsonl"))
    left = [path for path in files if not _in_use(path)]
    if not left:
        return ok("nothing waits for the store" + (f" but {len(files)} of a run that is under way" if files else ""))
    return warning(
        f"{len(left)} record{'s' if len(left) != 1 else ''} of runs could not be written and wait in {state_folder(root).relative_to(root)}",
        "the next run writes them once the store answers",
    )


def prefect(root: Path) -> Finding:
    """The server that PREFECT_API_URL names answers; without one, a run starts its own."""
    url = os.environ.get("PREFECT_API_URL")
    version = f"Prefect {metadata.version('prefect')}"
    if not url:
        home = root / ".mmalign" / "prefect"
        return ok(f"{version}; each run starts a server of its own" + ("" if home.is_dir() else ", and the first makes its database"))
    cure = "start that server, or unset PREFECT_API_URL: a run then starts its own"
    if not url.startswith(("http://", "https://")):
        return problem(f"PREFECT_API_URL is '{url}', which is no address", "set it to http://HOST:PORT/api, or unset it")
    silent = _silence(f"{url.rstrip('/')}/health")
    if silent is not None:
        return problem(f"{_without_password(url)} does not answer: {silent}", cure)
    return ok(f"{version}; {_without_password(url)} answers")


def _silence(url: str) -> str | None:
    """Why `url` gives no healthy answer; None when it does. A server that asks who is there answers as well."""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS):  # noqa: S310 -- the callers see to it that it is http
            return None
    except urllib.error.HTTPError as error:
        return None if error.code in {401, 403} else f"status {error.code} from {url}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def _in_use(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as stream:
            return is_alive(json.loads(stream.readline())["tags"]["mmalign.process"])
    except (OSError, ValueError, KeyError):
        return False


def _short(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _without_password(uri: str) -> str:
    scheme, marked, rest = uri.partition("://")
    return f"{scheme}{marked}{rest.rpartition('@')[2]}" if marked else uri
