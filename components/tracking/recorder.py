"""Writes to one MLflow run. Losing the store loses no record and stops no work.

- What can't be written goes to `.mmalign/tracking/pending-*.jsonl`, one operation a line, with the artifacts beside it; the first failure
  is said once, and the rest of that run goes to the file at once, without waiting for the store again.
- `replay` writes such files to the store when it is back, in order, with the first times: writing one twice changes nothing.
- A run that was never opened is named by its file (`pending-...`) until then; its MLflow run keeps that name as the tag `mmalign.pending`.
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
from pathlib import Path
from typing import Any, Literal

from components.processes import checkout_mark, identity, is_alive
from components.tracking.store import connect, state_folder, store_lock

Status = Literal["FINISHED", "FAILED", "KILLED"]
Operation = dict[str, Any]
PENDING = "pending-"
PARENT_TAG = "mlflow.parentRunId"
PARAM_LIMIT, TAG_LIMIT = 5000, 4000  # characters that every store of MLflow takes; the whole params.yaml is kept with the parent run
METRICS_A_BATCH, ENTRIES_A_BATCH = 1000, 100  # MLflow's limits


def now_ms() -> int:
    """Milliseconds since the epoch: the unit of MLflow's times."""
    return int(time.time() * 1000)


class Recorder:
    """One run. `run_id` is MLflow's, or `pending-...` while it could not be opened."""

    def __init__(self, root: Path, run_id: str, file: Path | None) -> None:
        self.root = root
        self.run_id = run_id
        self._file = file

    @classmethod
    def create(cls, root: Path, name: str, *, parent: str | None, tags: Mapping[str, str]) -> Recorder:
        """Open a run; `parent` may itself be pending."""
        header: Operation = {"op": "create", "name": name, "parent": parent, "tags": {**tags, **process_tags(root)}, "time": now_ms()}
        try:
            client, experiment = connect(root)
            return cls(root, _create(client, experiment, header), None)
        except Exception as error:  # noqa: BLE001 -- no failure of the store may stop a stage
            run_id = f"{PENDING}{uuid.uuid4().hex}"
            recorder = cls(root, run_id, _announce(root, run_id, error))
            recorder._keep(header)
            return recorder

    @classmethod
    def attach(cls, root: Path, run_id: str) -> Recorder:
        """Go on with a run that was opened before."""
        return cls(root, run_id, state_folder(root) / f"{run_id}.jsonl" if run_id.startswith(PENDING) else None)

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
        """Keep `text` as the artifact `file`."""
        self._write({"op": "text", "file": file, "text": text})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or a folder under its own name, as an artifact, in `folder` where given."""
        self._write({"op": "artifact", "path": str(path), "folder": folder})

    def end(self, status: Status) -> None:
        """Close the run."""
        self._write({"op": "end", "status": status, "time": now_ms()})

    def _write(self, operation: Operation) -> None:
        if self._file is None:
            try:
                client, _ = connect(self.root)
                apply(client, self.run_id, operation)
            except Exception as error:  # noqa: BLE001 -- no failure of the store may stop a stage
                self._file = _announce(self.root, f"{PENDING}{uuid.uuid4().hex}", error)
                self._keep({"op": "attach", "run_id": self.run_id, "tags": process_tags(self.root)})
            else:
                return
        if operation["op"] == "artifact":
            operation = {**operation, "path": str(self._copy(Path(operation["path"])))}
        self._keep(operation)

    def _keep(self, operation: Operation) -> None:
        assert self._file is not None
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(operation) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _copy(self, path: Path) -> Path:
        assert self._file is not None
        kept = self._file.with_suffix("") / uuid.uuid4().hex[:8] / path.name
        kept.parent.mkdir(parents=True)
        if path.is_dir():
            shutil.copytree(path, kept)
        else:
            shutil.copyfile(path, kept)
        return kept


def process_tags(root: Path) -> dict[str, str]:
    """Which checkout and which live process a run belongs to."""
    return {
        "mmalign.checkout": checkout_mark(root),
        "mmalign.host": socket.gethostname(),
        "mmalign.process": identity(os.getpid()) or "",
    }


def is_orphan(tags: Mapping[str, str]) -> bool:
    """Whether the process that opened a run on this host is gone. Parents that stages share belong to no process."""
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


def replay(root: Path) -> None:
    """Write what earlier processes could not. A store that is still away is no error: the files stay."""
    if not any(state_folder(root).glob(f"{PENDING}*.jsonl")):
        return
    try:
        client, experiment = connect(root)
        with store_lock(root):
            for file in sorted(state_folder(root).glob(f"{PENDING}*.jsonl"), key=lambda path: path.stat().st_mtime_ns):
                _replay_file(client, experiment, file)
    except Exception as error:  # noqa: BLE001 -- no failure of the store may stop a stage
        print(f"tracking: earlier records stay in {state_folder(root)}: {_sentence(error)}", file=sys.stderr)


def _replay_file(client: Any, experiment: str, file: Path) -> None:
    operations = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    header, rest = operations[0], operations[1:]
    ended = any(operation["op"] == "end" for operation in rest)
    if not ended and is_alive(header["tags"]["mmalign.process"]):
        return
    if header["op"] == "create":
        header["tags"]["mmalign.pending"] = file.stem
        run_id = find_pending(client, experiment, file.stem) or _create(client, experiment, header)
        if not ended and header["tags"].get("mmalign.origin") != "stage":
            rest.append({"op": "end", "status": "KILLED", "time": now_ms()})
    else:
        run_id = header["run_id"]
    for operation in rest:
        apply(client, run_id, operation)
    file.unlink()
    shutil.rmtree(file.with_suffix(""), ignore_errors=True)


def find_pending(client: Any, experiment: str, pending: str) -> str | None:
    """The MLflow run that a pending name became, once replayed."""
    runs = client.search_runs([experiment], f"tags.`mmalign.pending` = '{pending}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _create(client: Any, experiment: str, header: Operation) -> str:
    tags = dict(header["tags"])
    parent = header["parent"]
    if parent is not None and parent.startswith(PENDING):
        tags["mmalign.pending_parent"] = parent
        parent = find_pending(client, experiment, parent)
    if parent is not None:
        tags[PARENT_TAG] = parent
    run_id = str(client.create_run(experiment, start_time=header["time"], tags=tags, run_name=header["name"]).info.run_id)
    pending = tags.get("mmalign.pending")
    if pending:  # children that were opened before their parent could be
        for child in client.search_runs([experiment], f"tags.`mmalign.pending_parent` = '{pending}'"):
            client.set_tag(child.info.run_id, PARENT_TAG, run_id)
    return run_id


def _announce(root: Path, name: str, error: Exception) -> Path:
    file = state_folder(root) / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    print(f"tracking: the store can't be written ({_sentence(error)}); the run goes on and its record is kept in {file}", file=sys.stderr)
    return file


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _cut(value: str, limit: int) -> str:
    return value if len(value) <= limit else value[: limit - 1] + "…"


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
