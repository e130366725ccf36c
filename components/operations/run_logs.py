"""The logs of runs. Each run has a folder in logs/, named by its start, with one file a stage and a note of the run's ids.

Runs with source git have their logs in their clones, runs with overrides in their copies.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from components.checkout import Checkout
from components.files import read_json, write_json
from components.processes.marks import FLOW_RUN, identity, is_alive
from components.storage.clones import clones_folder

NOTE = "run.json"
NAMED = re.compile(r"\d{8}-\d{6}")  # name of a run's folder, in this machine's time


@dataclass(frozen=True)
class RunLogs:
    """The logs of one run. The ids are None where the run wrote no note, or belongs to no deployment."""

    folder: Path
    flow_run: str | None
    mlflow_run: str | None
    process: str | None

    @property
    def name(self) -> str:
        """The name of the run's folder: the time of its start."""
        return self.folder.name

    @property
    def under_way(self) -> bool:
        """Whether the run's process lives."""
        return self.process is not None and is_alive(self.process)

    @property
    def files(self) -> list[Path]:
        """The stages' logs, in the order in which they ended."""
        return sorted(self.folder.glob("*.log"), key=_ended)


def note_run(folder: Path, mlflow_run: str | None) -> None:
    """Write the note of the logs in `folder`: the ids of the run, and this process."""
    note = {"flow_run": os.environ.get(FLOW_RUN), "mlflow_run": mlflow_run, "process": identity(os.getpid())}
    write_json(folder / NOTE, note)


def all_logs(checkout: Checkout) -> list[RunLogs]:
    """The logs of all runs of a checkout, its clones included, newest first."""
    folders = [*checkout.logs.glob("*"), *clones_folder(checkout).glob("*/logs/*")]
    logs = [_read(folder) for folder in folders if folder.is_dir() and NAMED.fullmatch(folder.name)]
    return sorted(logs, key=lambda run: run.name, reverse=True)


def _read(folder: Path) -> RunLogs:
    try:
        note = read_json(folder / NOTE)
        return RunLogs(folder, note["flow_run"], note["mlflow_run"], note["process"])
    except (OSError, ValueError, KeyError, TypeError):
        return RunLogs(folder, None, None, None)  # the run ended before it could write its note


def _ended(path: Path) -> tuple[float, str]:
    return path.stat().st_mtime, path.name
