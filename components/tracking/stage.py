"""Runs one stage and records it: what `mmalign stage NAME` calls.

1. reads the settings; opens a run, as a child of MLFLOW_RUN_ID or of a parent that the stages of a bare `dvc repro` share;
2. calls the stage's function, `run(settings, root, recorder) -> StageResult`, with the sections of settings that the stage may read;
3. writes artifacts/STAGE/metrics.json (equal for equal inputs) and artifacts/STAGE/run.json (run id, times, git, digests);
4. logs parameters, metrics, times and digests; curves and artifacts the stage hands to the recorder itself. A store that is away stops
   nothing: see `recorder`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.checkout import IN_CHECKOUT, Checkout
from components.closures import code_digest
from components.engine.result import StageResult
from components.errors import TrainingFault, UserError
from components.files import digest_file, write_json
from components.rehearsal.rate import store_training_rate
from components.stages import STAGES, TRAINING, StageName, load
from components.tracking.provenance import git_state, known_hashes, stage_params, stage_paths
from components.tracking.recorder import Recorder, replay
from components.tracking.runs import base_tags, close_parent, is_shared, join_or_open_parent


def run_stage(name: StageName, checkout: Checkout) -> None:
    """Run stage `name` on what lies in `checkout`, and record it. What the stage raises is raised."""
    settings = checkout.settings()
    replay(checkout)
    parent = os.environ.get("MLFLOW_RUN_ID") or join_or_open_parent(checkout)
    hashes = known_hashes(checkout, name)
    tags = {"mmalign.stage": name, **base_tags(checkout), **{f"dvc.{path}": md5 for path, md5 in hashes.items()}}
    recorder = Recorder.create(checkout, name, parent=parent, tags=tags)
    recorder.params(stage_params(checkout, name))
    started, clock = datetime.now(UTC), time.monotonic()
    try:
        result: StageResult = load(STAGES[name].function)(settings.for_stage(name), checkout, recorder)
        seconds = time.monotonic() - clock
        bad = sorted(key for key, value in result.metrics.items() if value is not None and not math.isfinite(value))
        folder = checkout.artifacts / name
        write_json(folder / "metrics.json", {key: None if key in bad else value for key, value in result.metrics.items()})
        write_json(folder / "run.json", _run_record(checkout, name, recorder.run_id, result, started, seconds, hashes))
        _record(recorder, result, folder, seconds)
        if name in TRAINING and result.times.get("tokens_per_second"):
            store_training_rate(checkout, settings, name, result.times["tokens_per_second"])
        _refuse(name, bad)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        # A mistake has a sentence that says all; only a fault needs its trace.
        recorder.text("failure.txt", str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error)))
        recorder.end("KILLED" if stopped else "FAILED")
        raise
    recorder.end("FINISHED")
    replay(checkout)  # what waited while the store was away
    if name == "evaluate" and is_shared(checkout, parent):
        close_parent(checkout, parent, "FINISHED")


def _refuse(name: StageName, bad: list[str]) -> None:
    if bad:
        raise TrainingFault(
            f"stage {name} ended with metrics that are not numbers: {', '.join(bad)}; {IN_CHECKOUT.artifact(name, 'metrics.json')} has the rest"
        )


def _run_record(
    checkout: Checkout, name: StageName, run_id: str, result: StageResult, started: datetime, seconds: float, hashes: dict[str, str]
) -> dict[str, Any]:
    git = git_state(checkout)
    lock = checkout.requirements
    return {
        "mlflow_run_id": run_id,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "times": {key: value if math.isfinite(value) else None for key, value in result.times.items()},
        "git_sha": git.sha,
        "dirty": git.dirty,
        "dvc": hashes,
        "digests": {"code": code_digest(name), **result.digests, **_model_digests(checkout, name)},
        "python": platform.python_version(),
        "lock_sha256": digest_file(lock) if lock.is_file() else None,
    }


def _model_digests(checkout: Checkout, name: StageName) -> dict[str, str]:
    """Digests of the models that a stage wrote. DVC holds the files: the record names them by path and digest."""
    models = [path for path in stage_paths(checkout, name, "outs") if any((checkout.root / path).glob("*.safetensors"))]
    if not models:
        return {}
    from components.families.digests import model_digest

    return {f"model:{path}": model_digest(checkout.root / path) for path in models}


def _record(recorder: Recorder, result: StageResult, folder: Path, seconds: float) -> None:
    finite = {key: float(value) for key, value in result.metrics.items() if value is not None and math.isfinite(value)}
    times = {f"time.{key}": float(value) for key, value in result.times.items() if math.isfinite(value)}
    recorder.metrics({**finite, **times, "time.seconds": seconds})
    recorder.tags(result.digests)
    for path in (folder / "metrics.json", folder / "run.json"):
        recorder.artifact(path)
    recorder.tags({f"artifact.{key}": value for key, value in json.loads((folder / "run.json").read_text())["digests"].items()})
