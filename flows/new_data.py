"""Whether data exist that no finished run has used: the cheap poll of `on-new-data`. It trains nothing.

A failed run leaves a note of its inputs: data and settings. While these are the same, a poll starts no other run, which would fail likewise.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Any

import yaml

from components.checkout import Checkout
from components.config.settings import OPS
from components.errors import UserError
from components.files import read_json, write_json
from components.processes.faults import RunOutcome
from components.processes.marks import checkout_mark
from components.processes.secrets import state_folder
from components.registry.policy import POLICY_FILE
from components.storage.data_version import DATA_FILE, data_state
from components.tracking.store import connect
from flows.parameters import RunParameters
from flows.workspace import fetched_file


def describe_new_data(checkout: Checkout, run: RunParameters) -> str | None:
    """A sentence on the new data; None where the last finished run had these very data. Raises MLflow's errors where the store is away."""
    last = last_finished_version(checkout, anywhere=run.source != "checkout")
    if run.source == "git":
        version = pinned_version(fetched_file(checkout, run, DATA_FILE))
    else:
        state = data_state(checkout)
        if state.changed or state.added:
            return f"{len(state.changed)} files of data/ changed and {len(state.added)} are new since version {state.version}"
        version = state.version
    if version is None or version == last:
        return None
    return f"data version {version}; the last finished run had {last or 'none'}"


def pinned_version(text: str | None) -> str | None:
    """The data version in the text of a data.dvc."""
    if text is None:
        return None
    outs = yaml.safe_load(text).get("outs") or [{}]
    return str(outs[0]["md5"]) if outs[0].get("md5") else None


def last_finished_version(checkout: Checkout, *, anywhere: bool) -> str | None:
    """The data version of the last finished run of `checkout`, or with `anywhere` of any checkout that records in its store."""
    client, experiment = connect(checkout)
    query = "tags.`mmalign.origin` = 'mmalign run' and attributes.status = 'FINISHED'"
    if not anywhere:
        query += f" and tags.`mmalign.checkout` = '{checkout_mark(checkout)}'"
    runs = client.search_runs([experiment], query, max_results=1, order_by=["attributes.end_time DESC"])
    return runs[0].data.tags.get("dvc.data") if runs else None


FAILED = "failed-run.json"  # in the state folder: inputs, name and end of the last failed run of each kind
NOTED = 50  # kinds of run with a note
SETTINGS = ("params.yaml", OPS, str(POLICY_FILE))


def note_end(checkout: Checkout, parameters: RunParameters, name: str, outcome: RunOutcome) -> bool:
    """Note how the run `name` ended. Returns whether an earlier run on the same inputs ended by the same kind of fault: people were notified then."""
    notes, kind_of_run = _notes(checkout), _kind_of_run(parameters)
    before = notes.pop(kind_of_run, {})
    repeated = False
    if outcome.kind != "ok":
        try:
            inputs = _inputs(checkout, parameters)
        except (UserError, OSError):  # data or settings can't be read: the next poll says so
            return False
        notes[kind_of_run] = {"inputs": inputs, "name": name, "kind": outcome.kind, "sentence": outcome.sentence}
        repeated = before.get("inputs") == inputs and before.get("kind") == outcome.kind
    write_json(state_folder(checkout) / FAILED, dict([*notes.items()][-NOTED:]))
    return repeated


def describe_failed_run(checkout: Checkout, parameters: RunParameters) -> str | None:
    """A sentence where the last such run failed on these inputs, for a reason that people remove; None where another run may succeed."""
    noted = _notes(checkout).get(_kind_of_run(parameters), {})
    if noted.get("kind") in {None, "infrastructure"} or noted["inputs"] != _inputs(checkout, parameters):
        return None
    return f"no new data since the run that failed ({noted['name']}: {noted['sentence']}); change data or settings, or run `mmalign run`"


def _notes(checkout: Checkout) -> dict[str, dict[str, str]]:
    path = state_folder(checkout) / FAILED
    with suppress(OSError, ValueError):
        notes: dict[str, dict[str, str]] = read_json(path)
        return notes
    return {}


def _kind_of_run(parameters: RunParameters) -> str:
    """What makes runs on the same inputs different."""
    return json.dumps([parameters.source, parameters.repository, parameters.ref, parameters.overrides, list(parameters.stages)])


def _inputs(checkout: Checkout, parameters: RunParameters) -> str:
    """A digest of the data and the settings of a run."""
    if parameters.source == "git":
        parts: list[Any] = [fetched_file(checkout, parameters, name) for name in (DATA_FILE, *SETTINGS)]
    else:
        state = data_state(checkout)
        differing = [checkout.root / name for name in (*state.changed, *state.added)]
        parts = [state.version, state.missing, [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in differing]]
        parts += [(checkout.root / name).read_text(encoding="utf-8") for name in SETTINGS]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
