"""Runs tasks of lmms-eval on a checkpoint or an endpoint: `mmalign bench policy`.

Reads  a checkpoint of ours, or a server of section `endpoint`; task definitions of lmms-eval, of `tasks` beside this file, and of a folder of
       one's own. A judge (`endpoint.judge`) reads the samples of MMHal-Bench and MM-RLHF-SafetyBench (judged_tasks.py).
Writes reports/bench/TASK-DIGEST.json with the task's metrics, and a table with one row a question beside it, by which models are compared.
       .mmalign/bench/policy has the samples: every question with the model's answer, and lmms-eval's own results.

A task that was finished with the same model, limit and lmms-eval is not run again. A stopped one begins with its first row, since lmms-eval stores
answers at a task's end alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.benches import judge_questions, judged_tasks
from components.benches.catalogue import catalogue
from components.benches.lmms import VERSION, environment_of, is_ready
from components.benches.record import DIGEST_CHARACTERS, record_result
from components.benches.rows import write_rows
from components.checkout import Checkout
from components.config.endpoint import AUTO
from components.config.settings import Settings
from components.endpoints.client import served_name
from components.errors import StageFault, UserError
from components.families.digests import is_checkpoint, model_digest
from components.files import digest_folder, read_json, write_json
from components.processes.guard import lock_holder, try_lock
from components.processes.marks import STAGE_MARK, checkout_mark, kill_all, marked

ADAPTERS = "adapter_config.json"
MODELS = {  # a configuration's type to lmms-eval's name; the first was tried, the others take the same arguments
    "llava_onevision": "llava_hf",
    "qwen2_vl": "qwen2_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "internvl": "internvl_hf",
}
SKIPPED = ("stderr", "alias", "samples")  # of lmms-eval's results, what is no metric


@dataclass(frozen=True)
class PolicyRequest:
    """What to run: tasks of lmms-eval or benchmarks of the catalogue, the model's folder or the role of a server, and on how many rows."""

    tasks: Sequence[str]
    folder: Path
    endpoint: str | None = None
    limit: int | None = None
    include: Path | None = None
    device: str = "cpu"


def bench_policy(
    settings: Settings, checkout: Checkout, request: PolicyRequest, log: Callable[[str], None], environment: dict[str, str]
) -> list[dict[str, Any]]:
    """Run the tasks one by one; returns their results. Raises UserError, and StageFault where lmms-eval fails."""
    if not is_ready(checkout):
        raise UserError("lmms-eval is not set up in this checkout: run `mmalign bench setup`")
    digest, model = _model(settings, request)
    tasks = expand(request.tasks)
    asker = _asker(settings, checkout, tasks)
    results = []
    for task in tasks:
        key = _key_of(settings, checkout, request, task)
        target = checkout.bench_results / f"{task}-{digest[:DIGEST_CHARACTERS]}.json"
        if target.is_file() and (present := read_json(target)).get("run") == key:
            log(f"bench policy: {task} has its result already")
            results.append(present)
            continue
        out = checkout.bench / "policy" / digest[:DIGEST_CHARACTERS] / f"{task}-{request.limit or 'all'}"
        include = judged_tasks.definitions(checkout) if task in judged_tasks.own_tasks() else request.include
        variables = environment | _api_key(settings, request.endpoint)
        _evaluate(checkout, task, [*model, *_options(replace(request, include=include), out)], out, variables)
        result, rows = _result(task, out, asker)
        result |= {"model": {"digest": digest}, "run": key}
        write_rows(target.with_suffix(".parquet"), rows)
        write_json(target, result)
        record_result(checkout, task, ("mm-policy", digest), result["metrics"], [target, target.with_suffix(".parquet")])
        results.append(result)
    return results


def _asker(settings: Settings, checkout: Checkout, tasks: Sequence[str]) -> judged_tasks.Asker | None:
    """The judge of the tasks that have one. Raises UserError before anything runs where its key is not set."""
    judged = [task for task in tasks if task in judged_tasks.JUDGED]
    if not judged:
        return None
    if settings.endpoint.judge.model == AUTO:
        raise UserError(
            f"{judged[0]} is judged by endpoint.judge, whose model is 'auto': set endpoint.judge.model to its server's name for it"
        )
    asker = judged_tasks.Asker(settings, checkout)
    asker.client.api_key()
    return asker


def _key_of(settings: Settings, checkout: Checkout, request: PolicyRequest, task: str) -> dict[str, Any]:
    """What a task's result depends on beside the model: a result with the same key stands."""
    own = task in judged_tasks.own_tasks()
    include = judged_tasks.DEFINITIONS if own else request.include
    key = {
        "lmms_eval": VERSION,
        "limit": request.limit,
        "endpoint": request.endpoint,
        "include": None if include is None else digest_folder(include, _definitions(include)),
    }
    if own:
        key["data"] = judged_tasks.data_digest(checkout, task)
    if task in judged_tasks.JUDGED:
        key |= {"judge": settings.endpoint.judge.model, "questions": judge_questions.DIGEST}
    return key


def _result(task: str, out: Path, asker: judged_tasks.Asker | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A finished task's metrics with what of them is better, and a row a question."""
    metrics, rows, better = read_output(out, task)
    unjudged = {}
    if asker is not None and task in judged_tasks.JUDGED:
        samples = _samples(out, task)
        judged = judged_tasks.judge_samples(asker, task, samples)
        metrics, better = {**judged["metrics"], **metrics}, judged["better"]
        rows = [_row(s, task, value) for s, value in zip(samples, judged["values"], strict=True) if value is not None]
        unjudged = {"unjudged": judged["unjudged"]}
    head = {"name": task, "metric": next(iter(metrics), None), "rows": len(rows)}
    return {"benchmark": head, "metrics": metrics, "direction": "up" if better else "down", **unjudged}, rows


def expand(names: Sequence[str]) -> list[str]:
    """lmms-eval's tasks: those of a benchmark in the catalogue, or the name itself."""
    benchmarks = {benchmark.name: benchmark.tasks for benchmark in catalogue().benchmarks}
    return list(dict.fromkeys(task for name in names for task in benchmarks.get(name, (name,))))


def _model(settings: Settings, request: PolicyRequest) -> tuple[str, list[str]]:
    """The digest of the policy's weights, and lmms-eval's arguments for it."""
    folder = request.folder
    if not is_checkpoint(folder) or (folder / ADAPTERS).is_file():
        raise UserError(f"{folder} holds no whole model: name its folder with --model, and train with model.lora.merge true")
    digest = model_digest(folder)
    if request.endpoint is not None:
        if request.endpoint not in {"base", "aligned"}:
            raise UserError(f"--endpoint {request.endpoint!a} is neither base nor aligned, the servers of policies in section endpoint")
        server = getattr(settings.endpoint, request.endpoint)
        name = served_name(digest) if server.model == AUTO else server.model
        return digest, ["--model", "openai", "--model_args", f"model={name},base_url={server.url}"]
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in MODELS:
        raise UserError(f"{folder} is of the type {kind!a}, and lmms-eval runs {', '.join(MODELS)}: serve it, and use --endpoint")
    arguments = f"pretrained={folder.resolve()},device={request.device},device_map={request.device}"
    dtype = ",dtype=float32" if MODELS[kind] == "llava_hf" and settings.training.precision != "bf16" else ""
    return digest, ["--model", MODELS[kind], "--model_args", f"{arguments}{dtype}"]


def _api_key(settings: Settings, endpoint: str | None) -> dict[str, str]:
    """The server's key, under the name by which lmms-eval's client reads it."""
    if endpoint is None:
        return {}
    name = getattr(settings.endpoint, endpoint).key
    return {"OPENAI_API_KEY": os.environ.get(name or "OPENAI_API_KEY") or "none"}


def _options(request: PolicyRequest, out: Path) -> list[str]:
    options = ["--batch_size", "1", "--log_samples", "--output_path", str(out / "output"), "--use_cache", str(out / "answers")]
    options += [] if request.limit is None else ["--limit", str(request.limit)]
    return options + ([] if request.include is None else ["--include_path", str(request.include)])


def _evaluate(checkout: Checkout, task: str, arguments: list[str], out: Path, environment: dict[str, str]) -> None:
    """One task in lmms-eval's environment, its output in a log. An lmms-eval that outlived a killed run ends first: both would write one cache."""
    out.mkdir(parents=True, exist_ok=True)
    log = out / "log.txt"
    mark = f"bench:{checkout_mark(checkout)}:{out.parent.name}/{out.name}:"
    lock = try_lock(out / "lock")
    if lock is None:
        raise UserError(f"{task} already runs in this checkout: {lock_holder(out / 'lock')}; wait for it or end it")
    try:
        kill_all(lambda: marked(STAGE_MARK, mark))
        shutil.rmtree(out / "output", ignore_errors=True)
        with log.open("w", encoding="utf-8") as stream:
            command = [str(environment_of(checkout) / "bin/python"), "-m", "lmms_eval", "--tasks", task, *arguments]
            variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment | {STAGE_MARK: mark}
            completed = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=variables, check=False)
    finally:
        lock.release()
    if completed.returncode or not list((out / "output").rglob("*_results.json")):
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if "Error" in line]
        reason = lines[-1].strip()[:300] if lines else f"exit code {completed.returncode}"
        raise StageFault(f"lmms-eval failed at {task}: {reason}", log=log)


def read_output(out: Path, task: str) -> tuple[dict[str, float], list[dict[str, Any]], bool]:
    """Metrics by name, the first the task's main one; a row a question by that one; and whether more of it is better.

    A group of tasks has the metrics and the rows of its parts. A main metric that the samples don't have, such as a judge's score of the whole, leaves no rows.
    """
    values = read_json(next((out / "output").rglob("*_results.json")))
    metrics: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    better = True
    for part in values.get("group_subtasks", {}).get(task) or [task]:
        of_part = {
            name.removesuffix(",none"): float(value)
            for name, value in values["results"].get(part, {}).items()
            if isinstance(value, int | float) and not any(word in name for word in SKIPPED)
        }
        main = next((name for name in _listed(task) if name in of_part), next(iter(of_part), None))
        ordered = sorted(of_part, key=lambda name: name != main)
        metrics |= {name if part == task else f"{part}.{name}": of_part[name] for name in ordered}
        better = bool(values.get("higher_is_better", {}).get(part, {}).get(main, True))
        if main is not None:
            rows += [_row(s, part, float(s[main])) for s in _samples(out, part) if isinstance(s.get(main), int | float)]
    return metrics, rows, better


def _listed(task: str) -> list[str | None]:
    """The catalogue's metrics of a task."""
    return [metric.value for benchmark in catalogue().benchmarks for metric in benchmark.metrics if metric.task == task]


def _samples(out: Path, task: str) -> list[dict[str, Any]]:
    paths = sorted((out / "output").rglob(f"*_samples_{task}.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").split("\n") if line]


def _row(sample: dict[str, Any], task: str, value: float) -> dict[str, Any]:
    media = [str(path) for path in sample.get("input_media") or [] if isinstance(path, str)]
    clusters = {"wording": " ".join(str(sample.get("input", "")).split()).casefold()} | ({"picture": " ".join(media)} if media else {})
    return {"id": f"{task}/{sample['doc_id']}", "category": task, "pairs": 1, "correct": value, "clusters": clusters}


def _definitions(include: Path) -> list[str]:
    return [path.relative_to(include).as_posix() for path in include.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
