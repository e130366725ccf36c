"""What a run would do to each stage, and why, without doing it.

- What the code of each stage means is computed anew here, whatever the files of the stage `code` say; that stage is no step.
- A stage whose command, settings, inputs and outputs are as recorded in dvc.lock is skipped.
- A stale stage is restored where DVC's run-cache knows its outputs for these very inputs; its new output hashes then stand in for the files
  on disk when the stages below are judged.
- A stale stage that can't be restored runs. Below it, inputs are not known yet: those stages run if their inputs come out changed.
- A stage of CHECKS with new code or a new setting runs too, and its outputs are expected to stay as they are: below it, stages are skipped
  unless they change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from components.checkout import IN_CHECKOUT, Checkout
from components.closures import CODE_STAGE, digest_path, digest_text, digests
from components.config.overrides import flatten
from components.stages import CHECKS
from components.storage.repository import open_repository

Action = Literal["run", "run_if_changed", "restore", "skip"]


@dataclass(frozen=True)
class Step:
    """What a run would do to one stage, and why; of a stage that is restored the hashes of its outputs."""

    action: Action
    reason: str
    objects: tuple[str, ...] = ()


@dataclass
class _Expected:
    """Hashes of outputs after the planned steps so far; None is not known before the stage has run."""

    outputs: dict[str, Any] = field(default_factory=dict)  # absolute path -> HashInfo of a restored output, or None
    waits_for: dict[str, str] = field(default_factory=dict)  # absolute path -> stage
    unproven: dict[str, str] = field(default_factory=dict)  # absolute path -> stage of CHECKS that runs and should leave it as it is


def plan(checkout: Checkout, settings_text: str | None = None) -> dict[str, Step]:
    """The step of each stage of dvc.yaml, in an order in which they can run; as if params.yaml held `settings_text`, where given."""
    with open_repository(checkout, settings_text) as repository, repository.lock:
        expected = _Expected(outputs=_code_digests(repository))
        return {stage.name: _judge(repository, stage, expected) for stage in _ordered(repository)}


def stage_parents(checkout: Checkout) -> dict[str, set[str]]:
    """For each stage of dvc.yaml, in an order in which they can run, the stages whose outputs it reads."""
    with open_repository(checkout) as repository:
        stages = _ordered(repository)
        return {stage.name: {up.name for up in repository.index.graph.successors(stage) if up in stages} for stage in stages}


def _code_digests(repository: Any) -> dict[str, Any]:
    """Absolute path to hash of each output that the stage `code` would write now; none where the pipeline has no such stage."""
    from dvc_data.hashfile.hash_info import HashInfo

    outs = [out for stage in repository.index.stages if getattr(stage, "name", None) == CODE_STAGE for out in stage.outs]
    if not outs:
        return {}
    current = {digest_path(Checkout(Path(repository.root_dir)), stage): digest_text(digest) for stage, digest in digests().items()}
    return {
        out.fs_path: HashInfo("md5", hashlib.md5(current[Path(out.fs_path)].encode(), usedforsecurity=False).hexdigest()) for out in outs
    }


def _ordered(repository: Any) -> list[Any]:
    """Pipeline stages without `code`, each after the stages that it reads from; else in the order of dvc.yaml. Building the graph checks it as well."""
    from dvc.stage import PipelineStage

    graph = repository.index.graph
    named = {stage.name: stage for stage in graph if isinstance(stage, PipelineStage) and stage.name != CODE_STAGE}
    ordered: list[Any] = []

    def visit(stage: Any) -> None:
        if stage in ordered:
            return
        for other in named.values():
            if other in set(graph.successors(stage)):
                visit(other)
        ordered.append(stage)

    written = list(yaml.safe_load(Path(repository.root_dir, "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    for name in sorted(named, key=lambda name: written.index(name) if name in written else len(written)):
        visit(named[name])
    return ordered


def _judge(repository: Any, stage: Any, expected: _Expected) -> Step:
    inputs, waits = _inputs(stage, expected)
    recorded = any(dependency.hash_info for dependency in stage.deps)
    reasons = _input_reasons(inputs) if recorded else ["has no record in dvc.lock"]
    if recorded and stage.changed_stage():
        reasons.insert(0, "its command changed")
    additions = stage.name in CHECKS and recorded and not waits and bool(reasons) and _only_additions(stage, inputs)
    recorded_outputs = {out.fs_path: out.hash_info for out in stage.outs}  # the look into the run-cache overwrites the stage's
    # Outputs are looked at only where inputs are as recorded: hashing a large model to say no more than "stale" is a waste.
    if not reasons and not waits:
        reasons = _output_reasons(stage)
        if not reasons:
            checks = {name for path, name in expected.unproven.items() if any(_overlap(path, dependency.fs_path) for dependency in inputs)}
            return Step("skip", f"nothing changed, unless {_list(sorted(checks))} changes its outputs" if checks else "nothing changed")
        if stage.outs_cached():
            expected.outputs.update({out.fs_path: out.hash_info for out in stage.outs})
            return Step("restore", f"{_list(reasons)}; the same outputs are in DVC's cache", _objects(stage))
    elif not waits and (entry := _run_cache_entry(repository, stage, inputs, expected)) is not None:
        expected.outputs.update(entry)
        return Step("restore", f"{_list(reasons)}; outputs for these inputs are in DVC's cache", _objects(stage))
    if additions:
        expected.outputs.update(recorded_outputs)
        expected.unproven.update(dict.fromkeys(recorded_outputs, stage.name))
        return Step("run", _list(reasons))
    for out in stage.outs:
        expected.outputs[out.fs_path] = None
        expected.waits_for[out.fs_path] = stage.name
    lost = [] if reasons or stage.outs_cached() else [f"{out.def_path} is missing" for out in stage.outs if not out.exists]
    if reasons or lost:
        return Step("run", _list(reasons + lost))
    return Step("run_if_changed", f"runs if what {_list(sorted(waits))} makes comes out changed")


def _inputs(stage: Any, expected: _Expected) -> tuple[dict[Any, Any], set[str]]:
    """Hash of each dependency after the steps so far (None: missing), and the stages that have to run before one is known."""
    hashes: dict[Any, Any] = {}
    waits: set[str] = set()
    for dependency in stage.deps:
        maker = next((path for path in expected.outputs if _overlap(path, dependency.fs_path)), None)
        if maker is None:
            hashes[dependency] = dependency.get_hash() if dependency.exists else None
        elif expected.outputs[maker] is not None and maker == dependency.fs_path:
            hashes[dependency] = expected.outputs[maker]
        else:
            waits |= {name for path, name in expected.waits_for.items() if _overlap(path, dependency.fs_path)} or {"an earlier stage"}
    return hashes, waits


def _overlap(one: str, other: str) -> bool:
    return one == other or Path(one).is_relative_to(other) or Path(other).is_relative_to(one)


def _input_reasons(inputs: Mapping[Any, Any]) -> list[str]:
    reasons = []
    for dependency, now in inputs.items():
        before = dependency.hash_info
        if dependency.def_path.startswith(f"{IN_CHECKOUT.digests.as_posix()}/"):
            if before != now:
                reasons.append("its code changed" if before else "its code has no record")
        elif now is None:
            reasons.append(f"{dependency.def_path} is missing")
        elif isinstance(now.value, dict):
            reasons += _setting_reasons(before.value or {}, now.value)
        elif not before:
            reasons.append(f"{dependency.def_path} is a new input")
        elif before != now:
            reasons.append(f"{dependency.def_path} changed")
    return reasons


def _only_additions(stage: Any, inputs: Mapping[Any, Any]) -> bool:
    """Whether nothing but code and added settings differs from the record: the same command, the same data, the same outputs on disk."""
    for dependency, now in inputs.items():
        before = dependency.hash_info
        if dependency.def_path.startswith(f"{IN_CHECKOUT.digests.as_posix()}/"):
            continue
        if now is not None and isinstance(now.value, dict):
            old, new = flatten(before.value or {}), flatten(now.value)
            if any(key not in new or new[key] != value for key, value in old.items()):
                return False
        elif now is None or before != now:
            return False
    return not stage.changed_stage() and not _output_reasons(stage)


def _setting_reasons(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = flatten(before), flatten(now)
    reasons = [f"{key} changed from {old[key]} to {new[key]}" for key in new if key in old and old[key] != new[key]]
    reasons += [f"{key} is a new setting" for key in new if key not in old]
    return reasons + [f"{key} is no setting any more" for key in old if key not in new]


def _output_reasons(stage: Any) -> list[str]:
    words = {"deleted": "is missing", "modified": "was changed by hand", "new": "has no record", "not in cache": "is not in DVC's cache"}
    return [f"{out.def_path} {words.get(state, state)}" for out in stage.outs for state in out.status().values()]


def _run_cache_entry(repository: Any, stage: Any, inputs: Mapping[Any, Any], expected: _Expected) -> dict[str, Any] | None:
    """Output hashes that the run-cache holds for `inputs`, by absolute path, when all of their bytes are in the cache.

    Fills `stage` in memory with those hashes, as DVC does before it looks there.
    """
    from dvc.stage.serialize import to_single_stage_lockfile
    from dvc.utils import dict_sha256
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.meta import Meta

    if any(value is None for value in inputs.values()):
        return None
    for dependency, value in inputs.items():
        dependency.hash_info = value
        if not isinstance(value.value, dict):  # what dvc.lock says of the file (its md5 among it) is of the recorded one
            dependency.meta = Meta() if dependency.fs_path in expected.outputs else dependency.get_meta()
    locked = to_single_stage_lockfile(stage)
    locked["outs"] = [out["path"] for out in locked["outs"]]
    key = dict_sha256(locked, exclude=[Meta.PARAM_SIZE, Meta.PARAM_NFILES])
    folder = Path(repository.stage_cache.cache_dir, key[:2], key)
    entries = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime) if folder.is_dir() else []
    entry = yaml.safe_load(entries[-1].read_text(encoding="utf-8")) if entries else None
    if entry is None:  # an entry that met a full disk is empty; DVC removes it when it meets it
        return None
    recorded = {out["path"]: out["md5"] for out in entry["outs"]}
    for out in stage.outs:
        out.hash_info, out.obj = HashInfo("md5", recorded[out.def_path]), None
    return {out.fs_path: out.hash_info for out in stage.outs} if stage.outs_cached() else None


def _objects(stage: Any) -> tuple[str, ...]:
    return tuple(str(out.hash_info.value) for out in stage.outs if out.hash_info)


def _list(words: list[str]) -> str:
    shown = words[:4] + ([f"{len(words) - 4} more"] if len(words) > 4 else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
