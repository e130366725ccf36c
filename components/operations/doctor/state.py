"""Reads the state of a checkout: activity, the last runs, stale stages, registered models. It changes nothing.

- The parts are independent: a part that can't be read (a silent store, invalid settings) becomes one sentence in `notes`.
- While a run or a stage is under way, the plan is left out: it takes DVC's lock, which a finishing stage needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from components.checkout import Checkout
from components.files import read_json
from components.operations.doctor.activity import Activity, Holder, activity, is_locked, stage_of
from components.operations.doctor.leftovers import LOCK
from components.operations.doctor.services import store_file, store_silence
from components.operations.services.state import copied_from, copy_sentence
from components.processes.marks import checkout_mark
from components.processes.slots.locks import Holder as SlotHolder
from components.processes.slots.taking import machine_slots
from components.registry.aliases import VERDICT
from components.registry.packaging import ModelName
from components.registry.registry import Registry
from components.registry.versions import NAMES
from components.report.run_record import SUMMARY
from components.report.summary import RunRecord, StageRecord, stages_since, summarize
from components.stages import STAGE_NAMES
from components.storage.clones import clones_folder, is_complete
from components.storage.plan import plan
from components.tracking.recorder import PARENT_TAG, PENDING, is_orphan, now_ms
from components.tracking.store import connect, state_folder

RUNS_SHOWN = 5
CHILD_WORDS = {"FINISHED": "ran", "FAILED": "failed", "KILLED": "killed", "RUNNING": "running"}
# The keys of the summary that `mmalign status` shows.
HEADLINE = ("status", "seconds", "mlflow_run_id", "git_sha", "failed_stage", "log", "gate")
HEADLINE_MODEL = ("conversation", "unsafe_rate")  # of base and of aligned
HEADLINE_POLICY = ("win_rate", "preference_accuracy")
HEADLINE_REWARD = ("acc", "acc_plus")


def read_status(checkout: Checkout) -> dict[str, Any]:
    """The state that `mmalign status` shows, by the keys of its JSON. `notes` has a sentence for each part that can't be read."""
    notes: list[str] = []
    original = copied_from(checkout)
    if original is not None:
        notes.append(copy_sentence(checkout, original))
    now = activity(checkout)
    state: dict[str, Any] = {"running": _running(now)}
    state["workspaces"] = _workspaces(checkout)
    state["slots"] = _part(notes, "the holders of this machine's slots can't be read", _slots, [])
    state["runs"], state["registry"] = _part(
        notes, "the store of runs and models can't be read", lambda: _store(checkout), _nothing_stored()
    )
    if now.busy:
        state["plan"] = {}
        notes.append("stale stages are not shown while a run or a stage is under way")
    else:
        state["plan"] = _part(notes, "the stale stages can't be determined", lambda: _plan(checkout), {})
    state["summary"] = _part(notes, "reports/summary.json can't be read", lambda: _headline(checkout), None)
    waiting = len(list(state_folder(checkout).glob(f"{PENDING}*.jsonl")))
    if waiting:
        notes.append(f"{waiting} record{'s' if waiting != 1 else ''} of runs wait for the store; the next run writes them")
    return {**state, "notes": notes}


def _part(notes: list[str], failure: str, read: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return read()
    except Exception as error:  # noqa: BLE001 -- an error in one part becomes a note, and the other parts go on
        notes.append(f"{failure}: {' '.join(str(error).split())[:300] or type(error).__name__}")
        return otherwise


def _running(now: Activity) -> dict[str, Any]:
    def holder(of: Holder) -> dict[str, Any]:
        return {"pid": of.pid, "command": of.command, "started": of.started.isoformat(timespec="seconds")}

    left = {process.pid for process in now.leftovers}
    return {
        "run": None if now.run is None else holder(now.run),
        "stages": [{"stage": name, **holder(of)} for name, of in now.stages.items()],
        "processes": [{"pid": p.pid, "command": p.command, "stage": stage_of(p), "leftover": p.pid in left} for p in now.processes],
    }


def _workspaces(checkout: Checkout) -> list[dict[str, Any]]:
    """What is under way in clones and copies of the checkout."""
    working = ((folder, activity(Checkout(folder))) for folder in sorted(clones_folder(checkout).glob("*")) if is_complete(folder))
    return [{"folder": str(folder), **_running(now)} for folder, now in working if now.busy]


def _slots() -> list[dict[str, Any]]:
    """The slots of the machine's GPUs and of its CPU, each with the stage and checkout that hold it."""
    return [{"slot": name, "holder": None if of is None else _holder(of)} for name, of in machine_slots().items()]


def _holder(holder: SlotHolder) -> dict[str, Any]:
    return {name: value for name, value in asdict(holder).items() if name != "mark"}


def _nothing_stored() -> tuple[list[Any], dict[str, Any]]:
    return [], {name: {"versions": 0, "aliases": {}} for name in NAMES}


def _store(checkout: Checkout) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    file = store_file(checkout)
    if file is not None and not file.exists():
        return _nothing_stored()  # connecting would create it, which takes seconds
    silent = store_silence(checkout)
    if silent is not None:
        raise ConnectionError(silent)
    client, experiment = connect(checkout)
    return _runs(checkout, client, experiment, everybody=file is not None), {name: _model(checkout, name) for name in NAMES}


def _runs(checkout: Checkout, client: Any, experiment: str, *, everybody: bool) -> list[dict[str, Any]]:
    """The last parent runs, newest first: all of a store in the checkout, or only this checkout's on a shared server."""
    chosen = "tags.`mmalign.origin` LIKE '%'"  # children have none
    if not everybody:
        chosen += f" and tags.`mmalign.checkout` = '{checkout_mark(checkout)}'"
    runs = []
    for run in client.search_runs([experiment], chosen, max_results=RUNS_SHOWN, order_by=["attributes.start_time DESC"]):
        info, tags = run.info, run.data.tags
        state = "KILLED" if info.status == "RUNNING" and is_orphan(tags) else info.status
        stages = _recorded_stages(tags) or _child_stages(client, experiment, info.run_id)
        seconds = max(0, (info.end_time or now_ms()) - info.start_time) / 1000  # a clock may have been set back meanwhile
        started = datetime.fromtimestamp(info.start_time / 1000, UTC).isoformat(timespec="seconds")
        runs.append({"mlflow_run_id": info.run_id, "status": state, "started": started, "seconds": round(seconds, 1), "stages": stages})
    return runs


def _recorded_stages(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: tags[f"stage.{name}"] for name in STAGE_NAMES if f"stage.{name}" in tags}


def _child_stages(client: Any, experiment: str, parent: str) -> dict[str, str]:
    """States by the stages' child runs, where the parent has none: a run under way, or stages of a bare `dvc repro`."""
    children = client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{parent}'", order_by=["attributes.start_time ASC"])
    states: dict[str, str] = {}
    for child in children:
        state = "KILLED" if child.info.status == "RUNNING" and is_orphan(child.data.tags) else child.info.status
        states[child.data.tags.get("mmalign.stage", "")] = CHILD_WORDS.get(state, state.lower())
    return {name: states[name] for name in STAGE_NAMES if name in states}


def _model(checkout: Checkout, name: ModelName) -> dict[str, Any]:
    versions = Registry(checkout).versions(name)
    aliases = {alias: version for version in versions for alias in version.aliases}
    return {
        "versions": len(versions),
        "aliases": {
            alias: {"version": version.number, "digest": version.digest or None, "verdict": version.tags.get(VERDICT)}
            for alias, version in sorted(aliases.items())
        },
    }


def _plan(checkout: Checkout) -> dict[str, dict[str, str]]:
    if is_locked(checkout.root / LOCK):
        raise BlockingIOError("DVC works on this checkout at the moment")
    return {name: {"action": step.action, "reason": step.reason} for name, step in plan(checkout).items()}


def _headline(checkout: Checkout) -> dict[str, Any] | None:
    path = checkout.root / SUMMARY
    if not path.is_file():
        return None
    summary = read_json(path)
    newer = stages_since(summary, path.stat().st_mtime, checkout.artifacts) if summary["status"] != "running" else []
    if newer:  # nobody has judged these results, and the old ones are gone
        present = summarize(RunRecord("ok", {name: StageRecord("skipped") for name in STAGE_NAMES}), checkout.artifacts)
        summary |= {key: present[key] for key in ("policy", "reward", "gate")}
    policy: dict[str, Any] = {model: {name: summary["policy"][model].get(name) for name in HEADLINE_MODEL} for model in ("base", "aligned")}
    return {
        **{name: summary.get(name) for name in HEADLINE},
        "stages_since": newer,
        "policy": policy | {name: summary["policy"].get(name) for name in HEADLINE_POLICY},
        "reward": {name: summary["reward"].get(name) for name in HEADLINE_REWARD},
    }
