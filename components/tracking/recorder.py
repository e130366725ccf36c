"""Writes to one MLflow run. An outage of the store loses no record and stops no work.

- Failed writes go to `.mmalign/tracking/pending-*.jsonl`, one operation a line, with the artifacts beside the file. A probe detects a dead
  server in seconds. The process reports the first failure only.
- When the store is back, the next write first sends the run's pending operations. `replay` sends those of all runs: at the end of a stage
  and of a run, and when the next one begins. Operations keep their order and times, and writing one twice changes nothing, so a kill while
  sending is harmless.
- A run that the store has not opened yet has the name of its file (`pending-...`); later its tag `mmalign.pending` has that name.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from components.checkout import Checkout
from components.processes.marks import checkout_mark, identity, is_alive
from components.processes.redaction import Redactor, redactor
from components.tracking.secrets import without_secrets
from components.tracking.store import note_failure, reach, state_folder, store_lock

Status = Literal["FINISHED", "FAILED", "KILLED"]
Operation = dict[str, Any]
PENDING = "pending-"
PARENT_TAG = "mlflow.parentRunId"
PENDING_TAG = "mmalign.pending"
PARAM_LIMIT, TAG_LIMIT = 5000, 4000  # characters that every store of MLflow takes; the parent run has the whole params.yaml
METRICS_A_BATCH, ENTRIES_A_BATCH = 1000, 100  # MLflow's limits

_announced = False


def now_ms() -> int:
    """Milliseconds since the epoch: the unit of MLflow's times."""
    return int(time.time() * 1000)


class Recorder:
    """One run. `run_id` is MLflow's, or `pending-...` if the store was away when the run began."""

    def __init__(self, checkout: Checkout, run_id: str, target: str | None, file: Path | None) -> None:
        self.checkout = checkout
        self.run_id = run_id
        self._target = target  # MLflow's id, once the store has opened the run
        self._file = file  # for operations while the store is away

    @classmethod
    def create(cls, checkout: Checkout, name: str, *, parent: str | None, tags: Mapping[str, str]) -> Recorder:
        """Open a run; `parent` may itself be pending."""
        pending = f"{PENDING}{uuid.uuid4().hex}"
        # The tag identifies the run if the store created it but the reply was lost.
        all_tags = {**tags, **process_tags(checkout), PENDING_TAG: pending}
        header: Operation = {"op": "create", "name": name, "parent": parent, "tags": all_tags, "time": now_ms()}
        try:
            client, experiment = reach(checkout)
            run_id = _create(client, experiment, header)
            return cls(checkout, run_id, run_id, None)
        except Exception as error:  # noqa: BLE001 -- no failure of the store may stop a stage
            recorder = cls(checkout, pending, None, _announce(checkout, pending, error))
            recorder._append(header)
            return recorder

    @classmethod
    def attach(cls, checkout: Checkout, run_id: str) -> Recorder:
        """Continue a run that was opened before."""
        if not run_id.startswith(PENDING):
            return cls(checkout, run_id, run_id, None)
        return cls(checkout, run_id, None, state_folder(checkout) / f"{run_id}.jsonl")

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags; long values are cut."""
        self._write({"op": "tags", "values": {key: _cut(value, TAG_LIMIT) for key, value in values.items()}})

    def params(self, values: Mapping[str, str]) -> None:
        """Set parameters; long values are cut."""
        self._write({"op": "params", "values": {key: _cut(value, PARAM_LIMIT) for key, value in values.items()}})

    def metrics(self, values: Mapping[str, float]) -> None:
        """Log last values."""
        self.points((name, value, 0) for name, value in values.items())

    def points(self, points: Iterable[tuple[str, float, int]]) -> None:
        """Log (name, value, step) points of curves."""
        moment = now_ms()
        self._write({"op": "metrics", "points": [[name, float(value), int(step), moment] for name, value, step in points]})

    def text(self, file: str, text: str) -> None:
        """Store `text` as the artifact `file`."""
        self._write({"op": "text", "file": file, "text": text})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file, or a folder under its name, as an artifact, in the artifact folder `folder` if set."""
        self._write({"op": "artifact", "path": str(path), "folder": folder})

    def end(self, status: Status) -> None:
        """Close the run."""
        self._write({"op": "end", "status": status, "time": now_ms()})

    @cached_property
    def _redactor(self) -> Redactor:
        return redactor(self.checkout)

    def _write(self, operation: Operation) -> None:
        with without_secrets(self._redactor, operation) as clean:
            self._write_clean(clean)

    def _write_clean(self, operation: Operation) -> None:
        try:
            client, experiment = reach(self.checkout)
            if self._file is not None:
                self._target = _send(client, experiment, self.checkout, self._file, self.run_id)
                self._file = None
            assert self._target is not None, "a run without a file has an id"
            apply(client, self._target, operation)
        except Exception as error:  # noqa: BLE001 -- no failure of the store may stop a stage
            if self._file is None:
                self._file = _announce(self.checkout, f"{PENDING}{uuid.uuid4().hex}", error)
            if operation["op"] == "artifact":
                operation = {**operation, "path": str(self._copy(Path(operation["path"])))}
            self._append(operation)

    def _append(self, operation: Operation) -> None:
        assert self._file is not None
        with store_lock(self.checkout):
            lines = [] if self._file.is_file() else [self._header(operation)]
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write("".join(json.dumps(line) + "\n" for line in [*lines, operation] if line))
                stream.flush()
                os.fsync(stream.fileno())

    def _header(self, operation: Operation) -> Operation | None:
        """The first line of a file. Another process may have sent the run's earlier file: then the rest begins a new one."""
        return (
            None
            if operation["op"] == "create"
            else {"op": "attach", "run_id": self._target or self.run_id, "tags": process_tags(self.checkout)}
        )

    def _copy(self, path: Path) -> Path:
        assert self._file is not None
        copy = state_folder(self.checkout) / f"{self._file.stem}-{uuid.uuid4().hex[:8]}" / path.name
        copy.parent.mkdir(parents=True)
        if path.is_dir():
            shutil.copytree(path, copy)
        else:
            shutil.copyfile(path, copy)
        return copy


def process_tags(checkout: Checkout) -> dict[str, str]:
    """Tags of a run's checkout and process."""
    return {
        "mmalign.checkout": checkout_mark(checkout),
        "mmalign.host": socket.gethostname(),
        "mmalign.process": identity(os.getpid()) or "",
    }


def is_orphan(tags: Mapping[str, str]) -> bool:
    """Whether the process that opened a run on this host has ended. A parent that stages share belongs to no process."""
    process = tags.get("mmalign.process")
    here = tags.get("mmalign.host") == socket.gethostname()
    return bool(process) and here and tags.get("mmalign.origin") != "stage" and not is_alive(str(process))


def apply(client: Any, run_id: str, operation: Operation) -> None:
    """Write one operation to the store."""
    from mlflow.entities import Metric, Param, RunTag

    match operation["op"]:
        case "tags" | "params" as kind:
            entry = {"tags": RunTag, "params": Param}[kind]
            for batch in _batches(list(operation["values"].items()), ENTRIES_A_BATCH):
                client.log_batch(run_id, **{kind: [entry(key, value) for key, value in batch]})
        case "metrics":
            for batch in _batches(operation["points"], METRICS_A_BATCH):
                client.log_batch(run_id, metrics=[Metric(name, value, moment, step) for name, value, step, moment in batch])
        case "text":
            client.log_text(run_id, operation["text"], operation["file"])
        case "artifact":
            _log_artifact(client, run_id, Path(operation["path"]), operation["folder"])
        case "end":
            client.set_terminated(run_id, operation["status"], operation["time"])
        case other:
            raise ValueError(f"unknown operation '{other}'")


def _log_artifact(client: Any, run_id: str, path: Path, folder: str | None) -> None:
    if path.is_dir():
        client.log_artifacts(run_id, str(path), f"{folder}/{path.name}" if folder else path.name)
    else:
        client.log_artifact(run_id, str(path), folder)


def replay(checkout: Checkout) -> None:
    """Send the pending operations of this process and earlier ones. A store that is still away is no error: the files stay."""
    if not any(state_folder(checkout).glob(f"{PENDING}*.jsonl")):
        return
    try:
        client, experiment = reach(checkout)
        for file in sorted(state_folder(checkout).glob(f"{PENDING}*.jsonl"), key=lambda path: path.stat().st_mtime_ns):
            try:
                _send(client, experiment, checkout, file, file.stem)
            except Exception as error:  # noqa: BLE001 -- as below
                reach(checkout)  # raises where the store is away; else only this file has a fault, and the others are sent
                print(f"tracking: {file} can't be sent: {_sentence(error)}", file=sys.stderr)
    except Exception as error:  # noqa: BLE001 -- no failure of the store may stop a stage
        print(f"tracking: earlier records stay in {state_folder(checkout)}: {_sentence(error)}", file=sys.stderr)


def _send(client: Any, experiment: str, checkout: Checkout, file: Path, name: str) -> str:
    """Send a file of operations and remove it; returns MLflow's id of its run. `name` is the run's pending name.

    The writing process may still live: its later operations begin a new file. LookupError where the store does not have the run yet.
    """
    with store_lock(checkout):
        if not file.is_file():
            return _recorded(client, experiment, name)
        header, *rest = _operations(file)
        ended = any(operation["op"] == "end" for operation in rest)
        if header["op"] == "create":
            header["tags"][PENDING_TAG] = file.stem
            run_id = find_pending(client, experiment, file.stem) or _create(client, experiment, header)
            _adopt(client, experiment, file.stem, run_id)
            if not ended and not is_alive(header["tags"]["mmalign.process"]) and header["tags"].get("mmalign.origin") != "stage":
                rest.append({"op": "end", "status": "KILLED", "time": now_ms()})
        else:
            run_id = _recorded(client, experiment, header["run_id"])
        for operation in rest:
            apply(client, run_id, operation)
        file.unlink()
        for operation in rest:
            if operation["op"] == "artifact":
                shutil.rmtree(Path(operation["path"]).parent, ignore_errors=True)
        return run_id


def _operations(file: Path) -> list[Operation]:
    """The complete lines of a file: a kill or a full disk truncates one."""
    operations = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            operations.append(json.loads(line))
        except ValueError:
            continue
    return operations


def _recorded(client: Any, experiment: str, run_id: str) -> str:
    recorded = find_pending(client, experiment, run_id) if run_id.startswith(PENDING) else run_id
    if recorded is None:
        raise LookupError(f"the store does not have {run_id} yet")
    return recorded


def find_pending(client: Any, experiment: str, pending: str) -> str | None:
    """MLflow's id of the run with a pending name, None before its replay."""
    runs = client.search_runs([experiment], f"tags.`{PENDING_TAG}` = '{pending}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _create(client: Any, experiment: str, header: Operation) -> str:
    tags = dict(header["tags"])
    parent = header["parent"]
    if parent is not None and parent.startswith(PENDING):
        tags["mmalign.pending_parent"] = parent
        parent = find_pending(client, experiment, parent)
    if parent is not None:
        tags[PARENT_TAG] = parent
    return str(client.create_run(experiment, start_time=header["time"], tags=tags, run_name=header["name"]).info.run_id)


def _adopt(client: Any, experiment: str, pending: str, run_id: str) -> None:
    """Attach the children that were opened before their parent."""
    for child in client.search_runs([experiment], f"tags.`mmalign.pending_parent` = '{pending}'"):
        client.set_tag(child.info.run_id, PARENT_TAG, run_id)


def _announce(checkout: Checkout, name: str, error: Exception) -> Path:
    """The file for failed writes. Reports the failure once: a stage has a dozen writes."""
    global _announced  # noqa: PLW0603 -- once a process
    note_failure(checkout, error)
    folder = state_folder(checkout)
    folder.mkdir(parents=True, exist_ok=True)
    if not _announced:
        _announced = True
        print(
            f"tracking: the store can't be written ({_sentence(error)}); the run continues, and its record waits in {folder}",
            file=sys.stderr,
        )
    return folder / f"{name}.jsonl"


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _cut(value: str, limit: int) -> str:
    return value if len(value) <= limit else value[: limit - 1] + "…"


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
