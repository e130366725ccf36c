"""The way back from a registered version: what it was made of, who promoted it and why, what of that can still be had, how to rebuild it.

Everything comes from the record: the version's tags, its run, the run's own settings and DVC files (a run's settings may never have been
committed), and the runs of its stages. What a record lacks is None; nothing is guessed from the checkout as it is now.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from components.errors import UserError
from components.files import write_atomic
from components.registry.packaging import ModelName, no_progress
from components.registry.registry import Registry
from components.registry.store import open_store
from components.registry.versions import DVC_MODEL, DVC_PATH, MADE_WHOLE_FROM, Version
from components.stages import STAGE_NAMES
from components.storage.objects import Whereabouts, locate
from components.tracking.provenance import RUN_FILES
from components.tracking.recorder import PARENT_TAG, PENDING, find_pending

DIFF = "git.diff"
CUT = "\n[cut]\n"  # ends a diff that was too long to be kept whole
REWARD_PATH = "artifacts/reward/model"


def lineage_of(registry: Registry, root: Path, name: ModelName, number: int) -> dict[str, Any]:
    """The lineage of a version, as JSON holds it. UserError where there is no such version."""
    version = registry.version(name, number)
    run, files = _run_of(root, version)
    stages = _stages_of(root, run)
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
    lineage["available"] = _available(root, version, lineage)
    lineage["rebuild"] = rebuild_commands(root, lineage, diff)
    return lineage


def write_files(root: Path, version: Version, folder: Path) -> list[str]:
    """Write the settings, DVC files and uncommitted changes of a version's run into `folder`; the names of what was written."""
    run, files = _run_of(root, version)
    if run is None or not files:
        raise UserError(f"the run of {version} keeps no files: there is nothing to write into {folder}")
    for name, text in files.items():
        write_atomic(folder / name, text)
    return sorted(files)


def rebuild_commands(root: Path, lineage: Mapping[str, Any], diff: str | None) -> list[str]:
    """Shell commands, run at the checkout's root, that train the version again; a line that begins with # says what is missing."""
    version, git, available = lineage["version"], lineage["git"], lineage["available"]
    name = f"{version['name']}/{version['number']}"
    folder = f".mmalign/lineage/{version['name']}-{version['number']}"
    kept = [file for file in ("params.yaml", "data.dvc", "dvc.lock") if lineage["files"].get(file) is not None]
    commands = [f"cd {shlex.quote(str(root.resolve()))}"]
    if kept or diff is not None:
        commands.append(f"mmalign lineage {name} --files {folder}  # first: the commit to go back to may not know this command")
    if _git(root, "status", "--porcelain"):
        commands.append("git stash push --include-untracked  # your own changes; `git stash pop` brings them back")
    if git["sha"] is None:
        commands.append("# the run was made outside git: its code can't be checked out")
    else:
        if not available["git"]["found"]:
            commands.append("git fetch --all  # the commit is not in this clone")
        commands.append(f"git checkout --detach {git['sha']}")
    commands += _apply(diff, folder)
    if kept:
        commands.append(f"cp {' '.join(f'{folder}/{file}' for file in kept)} .")
    commands += [_data_command(available["data"]), "mmalign run"]
    return commands


def _apply(diff: str | None, folder: str) -> list[str]:
    if not diff:
        return []
    if diff.endswith(CUT):
        return [f"# the uncommitted changes of the run were too long to be kept whole: {folder}/{DIFF} holds their beginning"]
    # The record holds texts only, and git refuses a whole diff for one binary file in it.
    binary = re.findall(r"^Binary files .* and (?:b/)?(.+) differ$", diff, re.MULTILINE)
    left_out = "".join(f" --exclude={shlex.quote(path)}" for path in binary)
    note = "  # binary files that were changed are not in the record" if binary else ""
    return [f"git apply{left_out} {folder}/{DIFF}{note}"]


def _data_command(data: Mapping[str, Any]) -> str:
    if data["cached"]:
        return "dvc checkout data.dvc"
    if data["remotes"]:
        return f"dvc pull -r {shlex.quote(data['remotes'][0])} data.dvc"
    return "dvc pull data.dvc  # this version of the data was found nowhere: name the remote that has it with -r"


def _run_of(root: Path, version: Version) -> tuple[Any | None, dict[str, str]]:
    """The parent run that a version belongs to, and the texts that it keeps; None and nothing where the run is gone."""
    if version.run_id is None:
        return None, {}
    with open_store(root) as (client, experiment):
        run = _find_run(client, experiment, version.run_id)
        if run is not None and PARENT_TAG in run.data.tags:
            run = _find_run(client, experiment, run.data.tags[PARENT_TAG]) or run
        return (None, {}) if run is None else (run, _texts(client, run.info.run_id, (*RUN_FILES, DIFF)))


def _find_run(client: Any, experiment: str, run_id: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    known = find_pending(client, experiment, run_id) if run_id.startswith(PENDING) else run_id
    if known is None:
        return None
    try:
        return client.get_run(known)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _texts(client: Any, run_id: str, names: tuple[str, ...]) -> dict[str, str]:
    kept = {item.path for item in client.list_artifacts(run_id)}
    with no_progress(), tempfile.TemporaryDirectory() as folder:
        return {
            name: Path(client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8", errors="replace")
            for name in names
            if name in kept
        }


def _describe_run(version: Version, run: Any | None) -> dict[str, Any]:
    if run is None:
        return {"id": version.run_id, "found": False, "name": None, "started": None, "status": None}
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds")
    return {"id": run.info.run_id, "found": True, "name": run.info.run_name, "started": started, "status": run.info.status}


def _stages_of(root: Path, run: Any | None) -> dict[str, Any]:
    """Each stage's run: the one that made its outs, which for a skipped or restored stage is of an earlier time."""
    if run is None:
        return {}
    with open_store(root) as (client, experiment):
        told: dict[str, Any] = json.loads(_texts(client, run.info.run_id, ("stages.json",)).get("stages.json", "{}"))
        if not told:  # stages of a bare `dvc repro`, which nobody sums up
            children = client.search_runs(
                [experiment], f"tags.`{PARENT_TAG}` = '{run.info.run_id}'", order_by=["attributes.start_time ASC"]
            )
            told = {
                child.data.tags["mmalign.stage"]: {"status": "ran", "mlflow_run_id": child.info.run_id, "dvc": {}}
                for child in children
                if "mmalign.stage" in child.data.tags
            }
        return {stage: _stage(client, experiment, told[stage]) for stage in STAGE_NAMES if stage in told}


def _stage(client: Any, experiment: str, told: Mapping[str, Any]) -> dict[str, Any]:
    run_id = told.get("mlflow_run_id")
    run = _find_run(client, experiment, run_id) if run_id else None
    record = json.loads(_texts(client, run.info.run_id, ("run.json",)).get("run.json", "{}")) if run is not None else {}
    return {
        "status": told["status"],
        "run_id": run.info.run_id if run is not None else run_id,
        "found": run is not None,
        "started": record.get("started"),
        "seconds": record.get("seconds"),
        "git_sha": record.get("git_sha"),
        "dirty": record.get("dirty"),
        "digests": record.get("digests", {}),
        "dvc": {**record.get("dvc", {}), **told.get("dvc", {})},
    }


def _dvc_hashes(version: Version, files: Mapping[str, str], stages: Mapping[str, Any]) -> dict[str, Any]:
    """DVC's hashes of data, base and models. The version's own tags go first: they were written with it."""
    known: dict[str, str] = {}
    for stage in stages.values():
        known |= stage["dvc"]
    for entry in ((yaml.safe_load(files.get("dvc.lock", "")) or {}).get("stages") or {}).values():
        known |= {item["path"]: item["md5"] for kind in ("deps", "outs") for item in entry.get(kind, []) if "md5" in item}
    outs = (yaml.safe_load(files.get("data.dvc", "")) or {}).get("outs") or [{}]
    base = ((yaml.safe_load(files.get("params.yaml", "")) or {}).get("model") or {}).get("base")
    path = version.tags.get(DVC_PATH)
    return {
        "data": version.tags.get("dvc.data") or outs[0].get("md5"),
        "model": version.tags.get(DVC_MODEL) or known.get(path or ""),
        "path": path,
        "base": known.get(str(base)),
        "reward_model": known.get(REWARD_PATH),
    }


def _reward_model(registry: Registry, version: Version, stages: Mapping[str, Any], dvc: Mapping[str, Any]) -> dict[str, Any] | None:
    """The reward model whose critiques and scores a policy was aligned by, and its version in the registry; None for a reward model."""
    if version.name == "mm-reward":
        return None
    digest = stages.get("reward", {}).get("digests", {}).get(f"model:{REWARD_PATH}")
    matches = [other.number for other in registry.versions("mm-reward") if digest is not None and other.digest == digest]
    return {"digest": digest, "dvc": dvc["reward_model"], "version": matches[0] if matches else None}


def _available(root: Path, version: Version, lineage: Mapping[str, Any]) -> dict[str, Any]:
    sha, dvc = lineage["git"]["sha"], lineage["dvc"]
    nowhere = Whereabouts(cached=False, remotes=(), unreachable={})
    in_dvc = (root / ".dvc").is_dir()
    wanted = {name: dvc[name] for name in ("data", "model", "reward_model")}
    places = {name: locate(root, value) if in_dvc and value else nowhere for name, value in wanted.items()}
    return {
        "git": {"found": sha is not None and _has_commit(root, sha)},
        "run": {"found": lineage["run"]["found"]},
        **{
            name: {
                "found": place.is_available,
                "cached": place.cached,
                "remotes": list(place.remotes),
                "unreachable": dict(place.unreachable),
            }
            for name, place in places.items()
        },
        "registry": {"found": version.whole},
    }


def _has_commit(root: Path, sha: str) -> bool:
    return _git(root, "cat-file", "-e", f"{sha}^{{commit}}") is not None


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout if done.returncode == 0 else None


def _flag(value: str | None) -> bool | None:
    return None if value is None else value == "true"


def _number(value: str | None) -> int | None:
    return int(value) if value else None


def _listed(value: str | None) -> list[str]:
    """Reasons as a list, whether they were written as JSON or as a line each."""
    if not value:
        return []
    try:
        read = json.loads(value)
    except ValueError:
        return value.splitlines()
    return [str(item) for item in read] if isinstance(read, list) else [str(read)]
