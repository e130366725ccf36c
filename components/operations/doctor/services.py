"""Checks of MLflow's store, Prefect's server, and records that wait for the store."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path

from components.checkout import IN_CHECKOUT, Checkout
from components.errors import StageFault
from components.operations.doctor.findings import Finding, ok, problem, warning
from components.operations.services.health import silence
from components.processes.marks import is_alive
from components.tracking.recorder import PENDING
from components.tracking.store import ExperimentDeleted, connect, state_folder, tracking_uri

ANSWER_SECONDS = 3.0
# Short limits for commands that only read. Set them before the first request to MLflow.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


def be_quick() -> None:
    """Make this process give up soon on a silent store. For commands that only read."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)


def store_file(checkout: Checkout) -> Path | None:
    """The file of a store on this machine; None for a server."""
    uri = tracking_uri(checkout)
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def store_silence(checkout: Checkout) -> str | None:
    """A sentence about a store server that does not answer; None where it answers, or where the store is a database."""
    uri = tracking_uri(checkout)
    silent = silence(f"{uri.rstrip('/')}/health", ANSWER_SECONDS) if uri.startswith(("http://", "https://")) else None
    return None if silent is None else f"{_without_password(uri)} does not answer: {silent}"


def mlflow_store(checkout: Checkout) -> Finding:
    """The store accepts records of runs."""
    uri = tracking_uri(checkout)
    file = store_file(checkout)
    if file is not None and not file.exists():
        return ok(f"no run is recorded yet; the first run creates {_short(file, checkout)}")
    shown = _short(file, checkout) if file is not None else _without_password(uri)
    cure = "repair the file, or move it away; the next run creates a new one"
    if file is None:
        cure = (
            f"start that server, or unset MLFLOW_TRACKING_URI to record in the checkout; until then records wait in {IN_CHECKOUT.tracking}"
        )
        silent = store_silence(checkout)
        if silent is not None:
            return problem(silent, cure)
    try:
        connect(checkout)
    except ExperimentDeleted as error:
        return problem(f"the experiment of this checkout was deleted in MLflow, and new records wait in {IN_CHECKOUT.tracking}", error.cure)
    except Exception as error:  # noqa: BLE001 -- a database driver raises any error
        return problem(f"{shown} can't be used: {type(error).__name__}: {' '.join(str(error).split())[:200]}", cure)
    return ok(f"{shown} answers")


def registered_models(checkout: Checkout) -> Finding:
    """The files of every champion are in the registry."""
    from components.registry.registry import Registry
    from components.registry.versions import NAMES

    file = store_file(checkout)
    if file is not None and not file.exists():
        return ok("no model is registered yet")
    registry = Registry(checkout)
    try:
        lost = [version for name in NAMES for version in registry.without_files(name)]
    except StageFault as error:
        return warning(f"whether the files of the registered models are there is unknown: {error}", "see the check 'mlflow'")
    if not lost:
        return ok("the files of all versions with an alias are there")
    names = ", ".join(f"{version} ({', '.join(version.aliases)})" for version in lost)
    return problem(f"the registry lost the files of {names}", "mmalign run: it puts them back from DVC's cache, a remote or the checkout")


def pickled_models(checkout: Checkout) -> Finding:  # noqa: ARG001 -- every check takes the checkout
    """MLflow refuses pickled models, since loading a pickle runs the code in it."""
    value = os.environ.get("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    if value.strip().lower() in {"true", "1"}:
        return warning(
            f"MLFLOW_ALLOW_PICKLE_DESERIALIZATION is {value}: loading a model from the registry can run its author's code",
            "unset MLFLOW_ALLOW_PICKLE_DESERIALIZATION",
        )
    return ok("MLflow refuses pickled models")


def waiting_records(checkout: Checkout) -> Finding:
    """No record waits for the store."""
    files = sorted(state_folder(checkout).glob(f"{PENDING}*.jsonl"))
    left = [path for path in files if not _in_use(path)]
    if not left:
        return ok("no record waits for the store" + (f", except {len(files)} of a run that is under way" if files else ""))
    return warning(
        f"{len(left)} record{'s' if len(left) != 1 else ''} of runs wait for the store in {state_folder(checkout).relative_to(checkout.root)}",
        "start the store; the next run then writes them",
    )


def prefect(checkout: Checkout) -> Finding:
    """The server in PREFECT_API_URL answers. Without that variable, a run starts its own server."""
    url = os.environ.get("PREFECT_API_URL")
    version = f"Prefect {metadata.version('prefect')}"
    if not url:
        home = checkout.state / "prefect"
        return ok(f"{version}; each run starts its own server" + ("" if home.is_dir() else ", and the first run creates its database"))
    cure = "start that server, or unset PREFECT_API_URL: a run then starts its own"
    if not url.startswith(("http://", "https://")):
        return problem(f"PREFECT_API_URL is '{url}', which is no address", "set it to http://HOST:PORT/api, or unset it")
    silent = silence(f"{url.rstrip('/')}/health", ANSWER_SECONDS)
    if silent is not None:
        return problem(f"{_without_password(url)} does not answer: {silent}", cure)
    return ok(f"{version}; {_without_password(url)} answers")


def _in_use(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as stream:
            return is_alive(json.loads(stream.readline())["tags"]["mmalign.process"])
    except (OSError, ValueError, KeyError):
        return False


def _short(path: Path, checkout: Checkout) -> str:
    return str(path.relative_to(checkout.root)) if path.is_relative_to(checkout.root) else str(path)


def _without_password(uri: str) -> str:
    scheme, marked, rest = uri.partition("://")
    return f"{scheme}{marked}{rest.rpartition('@')[2]}" if marked else uri
