"""The lineage of a registered version: its inputs, who promoted it and why, which inputs are still available, how to rebuild it.

Everything comes from the record: the version's tags, its run, the run's settings and DVC files (nobody may have committed them), and the
runs of its stages. What the record lacks is None; the present checkout fills no gap.
"""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from components.checkout import IN_CHECKOUT, Checkout
from components.errors import UserError
from components.files import write_atomic
from components.registry.packaging import ModelName, no_progress
from components.registry.registry import Registry
from components.registry.store import open_store
from components.registry.versions import DVC_MODEL, DVC_PATH, MADE_WHOLE_FROM, Version
from components.stages import STAGE_NAMES
from components.storage.git import ask_git
from components.storage.objects import Whereabouts, locate
from components.tracking.provenance import RUN_FILES
from components.tracking.recorder import PARENT_TAG, PENDING, find_pending

DIFF = "git.diff"
CUT = "\n[cut]\n"  # ends a diff that was too long for the record
REWARD_PATH = IN_CHECKOUT.reward_model.as_posix()


def lineage_of(registry: Registry, checkout: Checkout, name: ModelName, number: int) -> dict[str, Any]:
    """The lineage of a version, ready for JSON. UserError where there is no such version."""
    version = registry.version(name, number)
    run, files = _run_of(checkout, version)
    stages = _stages_of(checkout, run)
    git = {"sha": version.tags.get("mmalign.git_sha"), "dirty": _flag(version.tags.get("mmalign.dirty"))}
    dvc = _dvc_hashes(version, files, stages)
    diff = files.get(DIFF)
    lineage: dict[str, Any] = {
        "version": {
            "name": version.name,
            "number": version.number,
            "aliases": list(version.aliases),
            "digest": version.digest,
            "weights": "registry" if version.whole else "reference",
            "made_whole_from": _number(version.tags.get(MADE_WHOLE_FROM)),
        },
        "promotion": {
            "verdict": version.tags.get("mmalign.verdict"),
            "reasons": _listed(version.tags.get("mmalign.reasons")),
            "by": version.tags.get("mmalign.promoted_by"),
            "because": version.tags.get("mmalign.promoted_because"),
        },
        "run": _describe_run(version, run),
        "stages": stages,
        "git": {**git, "diff": None if diff is None else {"bytes": len(diff.encode()), "whole": not diff.endswith(CUT)}},
        "dvc": dvc,
        "base_digest": version.tags.get("mmalign.base_digest"),
        "reward_model": _reward_model(registry, version, stages, dvc),
        "files": {name: files.get(name) for name in RUN_FILES},
    }
    lineage["available"] = _available(checkout, version, lineage)
    lineage["rebuild"] = rebuild_commands(checkout, lineage, diff)
    return lineage


def write_files(checkout: Checkout, version: Version, folder: Path) -> list[str]:
    """Write the settings, DVC files and uncommitted changes of a version's run into `folder`; returns the names of the files."""
    run, files = _run_of(checkout, version)
    if run is None or not files:
        raise UserError(f"the run of {version} has no files in the record: there is nothing to write into {folder}")
    for name, text in files.items():
        write_atomic(folder / name, text)
    return sorted(files)


def rebuild_commands(checkout: Checkout, lineage: Mapping[str, Any], diff: str | None) -> list[str]:
    """Shell commands for the checkout's root that train the version again. A line with a # at its start says what is missing."""
    version, git, available = lineage["version"], lineage["git"], lineage["available"]
    name = f"{version['name']}/{version['number']}"
    folder = f"{IN_CHECKOUT.state}/lineage/{version['name']}-{version['number']}"
    recorded = [file for file in ("params.yaml", "data.dvc", "dvc.lock") if lineage["files"].get(file) is not None]
    commands = [f"cd {shlex.quote(str(checkout.root.resolve()))}"]
    if recorded or diff is not None:
        commands.append(f"mmalign lineage {name} --files {folder}  # first: an old commit may lack this command")
    if ask_git(checkout.root, "status", "--porcelain"):
        commands.append("git stash push --include-untracked  # your own changes; `git stash pop` brings them back")
    if git["sha"] is None:
        commands.append("# the run took place outside git: its code can't be checked out")
    else:
        if not available["git"]["found"]:
            commands.append("git fetch --all  # the commit is not in this clone")
        commands.append(f"git checkout --detach {git['sha']}")
    commands += _apply(diff, folder)
    if recorded:
        commands.append(f"cp {' '.join(f'{folder}/{file}' for file in recorded)} .")
    commands += [_data_command(available["data"]), "mmalign run"]
    return commands


def _apply(diff: str | None, folder: str) -> list[str]:
    if not diff:
        return []
    if diff.endswith(CUT):
        return [f"# the run's uncommitted changes were too long for the record: {folder}/{DIFF} has their beginning"]
    # The record has texts only, and git refuses a whole diff for one binary file in it.
    binary = re.findall(r"^Binary files .* and (?:b/)?(.+) differ$", diff, re.MULTILINE)
    left_out = "".join(f" --exclude={shlex.quote(path)}" for path in binary)
    note = "  # the record lacks changed binary files" if binary else ""
    return [f"git apply{left_out} {folder}/{DIFF}{note}"]


def _data_command(data: Mapping[str, Any]) -> str:
    if data["cached"]:
        return "dvc checkout data.dvc"
    if data["remotes"]:
        return f"dvc pull -r {shlex.quote(data['remotes'][0])} data.dvc"
    return "dvc pull data.dvc  # neither cache nor remotes have this data version: name another remote with -r"


def _run_of(checkout: Checkout, version: Version) -> tuple[Any | None, dict[str, str]]:
    """The parent run of a version with its recorded texts; None and no texts where the record has no such run."""
    if version.run_id is None:
        return None, {}
    with open_store(checkout) as (client, experiment):
        run = _find_run(client, experiment, version.run_id)
        if run is not None and PARENT_TAG in run.data.tags:
            run = _find_run(client, experiment, run.data.tags[PARENT_TAG]) or run
        return (None, {}) if run is None else (run, _texts(client, run.info.run_id, (*RUN_FILES, DIFF)))


def _find_run(client: Any, experiment: str, run_id: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    recorded = find_pending(client, experiment, run_id) if run_id.startswith(PENDING) else run_id
    if recorded is None:
        return None
    try:
        return client.get_run(recorded)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _texts(client: Any, run_id: str, names: tuple[str, ...]) -> dict[str, str]:
    stored = {item.path for item in client.list_artifacts(run_id)}
    with no_progress(), tempfile.TemporaryDirectory() as folder:
        return {
            name: Path(client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8", errors="replace")
            for name in names
            if name in stored
        }


def _describe_run(version: Version, run: Any | None) -> dict[str, Any]:
    if run is None:
        return {"id": version.run_id, "found": False, "name": None, "started": None, "status": None}
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds")
    return {"id": run.info.run_id, "found": True, "name": run.info.run_name, "started": started, "status": run.info.status}


def _stages_of(checkout: Checkout, run: Any | None) -> dict[str, Any]:
    """Each stage's run: the run that wrote its outs, an earlier one where the stage was skipped or restored."""
    if run is None:
        return {}
    with open_store(checkout) as (client, experiment):
        records: dict[str, Any] = json.loads(_texts(client, run.info.run_id, ("stages.json",)).get("stages.json", "{}"))
        if not records:  # a bare `dvc repro` writes no stages.json
            children = client.search_runs(
                [experiment], f"tags.`{PARENT_TAG}` = '{run.info.run_id}'", order_by=["attributes.start_time ASC"]
            )
            records = {
                child.data.tags["mmalign.stage"]: {"status": "ran", "mlflow_run_id": child.info.run_id, "dvc": {}}
                for child in children
                if "mmalign.stage" in child.data.tags
            }
        return {stage: _stage(client, experiment, records[stage]) for stage in STAGE_NAMES if stage in records}


def _stage(client: Any, experiment: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    run_id = summary.get("mlflow_run_id")
    run = _find_run(client, experiment, run_id) if run_id else None
    record = json.loads(_texts(client, run.info.run_id, ("run.json",)).get("run.json", "{}")) if run is not None else {}
    return {
        "status": summary["status"],
        "run_id": run.info.run_id if run is not None else run_id,
        "found": run is not None,
        "started": record.get("started"),
        "seconds": record.get("seconds"),
        "git_sha": record.get("git_sha"),
        "dirty": record.get("dirty"),
        "digests": record.get("digests", {}),
        "dvc": {**record.get("dvc", {}), **summary.get("dvc", {})},
    }


def _dvc_hashes(version: Version, files: Mapping[str, str], stages: Mapping[str, Any]) -> dict[str, Any]:
    """DVC's hashes of data, base and models. The version's tags take precedence, since they were written with it."""
    hashes: dict[str, str] = {}
    for stage in stages.values():
        hashes |= stage["dvc"]
    for entry in ((yaml.safe_load(files.get("dvc.lock", "")) or {}).get("stages") or {}).values():
        hashes |= {item["path"]: item["md5"] for kind in ("deps", "outs") for item in entry.get(kind, []) if "md5" in item}
    outs = (yaml.safe_load(files.get("data.dvc", "")) or {}).get("outs") or [{}]
    base = ((yaml.safe_load(files.get("params.yaml", "")) or {}).get("model") or {}).get("base")
    path = version.tags.get(DVC_PATH)
    return {
        "data": version.tags.get("dvc.data") or outs[0].get("md5"),
        "model": version.tags.get(DVC_MODEL) or hashes.get(path or ""),
        "path": path,
        "base": hashes.get(str(base)),
        "reward_model": hashes.get(REWARD_PATH),
    }


def _reward_model(registry: Registry, version: Version, stages: Mapping[str, Any], dvc: Mapping[str, Any]) -> dict[str, Any] | None:
    """The reward model whose scores aligned a policy, with its version in the registry; None for a reward model."""
    if version.name == "mm-reward":
        return None
    digest = stages.get("reward", {}).get("digests", {}).get(f"model:{REWARD_PATH}")
    matches = [other.number for other in registry.versions("mm-reward") if digest is not None and other.digest == digest]
    return {"digest": digest, "dvc": dvc["reward_model"], "version": matches[0] if matches else None}


def _available(checkout: Checkout, version: Version, lineage: Mapping[str, Any]) -> dict[str, Any]:
    sha, dvc = lineage["git"]["sha"], lineage["dvc"]
    nowhere = Whereabouts(cached=False, remotes=(), unreachable={})
    in_dvc = checkout.dvc.is_dir()
    wanted = {name: dvc[name] for name in ("data", "model", "reward_model")}
    whereabouts = {name: locate(checkout, value) if in_dvc and value else nowhere for name, value in wanted.items()}
    return {
        "git": {"found": sha is not None and _has_commit(checkout, sha)},
        "run": {"found": lineage["run"]["found"]},
        **{
            name: {"found": each.is_available, "cached": each.cached, "remotes": list(each.remotes), "unreachable": dict(each.unreachable)}
            for name, each in whereabouts.items()
        },
        "registry": {"found": version.whole},
    }


def _has_commit(checkout: Checkout, sha: str) -> bool:
    return ask_git(checkout.root, "cat-file", "-e", f"{sha}^{{commit}}") is not None


def _flag(value: str | None) -> bool | None:
    return None if value is None else value == "true"


def _number(value: str | None) -> int | None:
    return int(value) if value else None


def _listed(value: str | None) -> list[str]:
    """Reasons as a list, from JSON or from lines."""
    if not value:
        return []
    try:
        read = json.loads(value)
    except ValueError:
        return value.splitlines()
    return [str(item) for item in read] if isinstance(read, list) else [str(read)]
