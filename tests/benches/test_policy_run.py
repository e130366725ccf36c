"""`mmalign bench policy`: its own part with a program that leaves what lmms-eval leaves, and a real task where lmms-eval is installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.benches import policy_run
from components.benches.lmms import REQUIREMENTS, STAMP, environment_of, is_ready
from components.benches.policy_run import PolicyRequest, bench_policy, expand, read_output
from components.benches.rows import read_rows
from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.errors import StageFault, UserError
from components.families.digests import model_digest
from components.processes.guard import try_lock
from components.processes.marks import STAGE_MARK, checkout_mark
from tests.checkout import ROOT, mmalign
from tests.settings import copy_settings

# Leaves results and samples as lmms-eval 0.7.3 does, and notes its arguments.
STAND_IN = """#!{python}
import json, os, pathlib, sys
arguments = sys.argv[3:]
value = lambda name: arguments[arguments.index(name) + 1]
task, out = value("--tasks"), pathlib.Path(value("--output_path")) / "model"
with open({calls!r}, "a") as stream:
    stream.write(json.dumps([arguments, os.environ.get("OPENAI_API_KEY")]) + "\\n")
if task == "broken":
    print("ValueError: no such data set")
    sys.exit(0)
out.mkdir(parents=True)
results = {{task: {{"alias": task, "relaxed,none": 0.75, "exact_match,none": 0.5, "exact_match_stderr,none": 0.1}}}}
(out / "1_results.json").write_text(json.dumps({{"results": results, "higher_is_better": {{task: {{"relaxed": False}}}}}}))
samples = [{{"doc_id": n, "relaxed": n / 2, "exact_match": 0.0, "input": "What  IS it?", "input_media": [f"{{n}}.png"]}} for n in range(2)]
(out / f"1_samples_{{task}}.jsonl").write_text("".join(json.dumps(sample) + "\\n" for sample in samples))
"""


@pytest.fixture
def workspace(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Checkout, Settings, list[Any]]:
    """A checkout with a policy and a stand-in for lmms-eval; what it was called with lands in calls.jsonl, what is recorded in a list."""
    checkout = Checkout(tmp_path)
    shutil.copytree(tiny_base, checkout.policy)
    copy_settings(tmp_path)
    program = environment_of(checkout) / "bin/python"
    program.parent.mkdir(parents=True)
    program.write_text(STAND_IN.format(python=sys.executable, calls=str(tmp_path / "calls.jsonl")))
    program.chmod(0o755)
    (environment_of(checkout) / STAMP).write_text("\n".join(REQUIREMENTS))
    recorded: list[Any] = []
    monkeypatch.setattr(policy_run, "record_result", lambda *call: recorded.append(call))
    return checkout, load_settings(checkout.params), recorded


def calls(checkout: Checkout) -> list[Any]:
    path = checkout.root / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_task_leaves_metrics_and_rows(workspace: tuple[Checkout, Settings, list[Any]]) -> None:
    checkout, settings, recorded = workspace
    (result,) = bench_policy(settings, checkout, PolicyRequest(["mine"], checkout.policy, limit=2), print, {})
    digest = model_digest(checkout.policy)
    assert result["metrics"] == {"relaxed": 0.75, "exact_match": 0.5}
    assert (result["benchmark"], result["direction"]) == ({"name": "mine", "metric": "relaxed", "rows": 2}, "down")
    assert read_rows(checkout.bench_results / f"mine-{digest[:12]}.parquet") == [
        {"id": f"mine/{n}", "category": "mine", "pairs": 1, "correct": n / 2, "clusters": {"picture": f"{n}.png", "wording": "what is it?"}}
        for n in range(2)
    ]
    ((arguments, _),) = calls(checkout)
    assert arguments[arguments.index("--limit") + 1] == "2"
    assert f"pretrained={checkout.policy.resolve()},device=cpu,device_map=cpu,dtype=float32" in arguments
    assert [call[1:3] for call in recorded] == [("mine", ("mm-policy", digest))]


def test_group_has_the_metrics_of_its_parts(tmp_path: Path) -> None:
    output = tmp_path / "output/model"
    output.mkdir(parents=True)
    results = {"group": {"alias": "group"}, "x": {"acc,none": 0.5}, "y": {"acc,none": 1.0}}
    (output / "1_results.json").write_text(json.dumps({"results": results, "group_subtasks": {"group": ["x", "y"]}}))
    for part, value in (("x", 0.5), ("y", 1.0)):
        (output / f"1_samples_{part}.jsonl").write_text(json.dumps({"doc_id": 0, "acc": value, "input": "?"}) + "\n")
    metrics, rows, better = read_output(tmp_path, "group")
    assert (metrics, better) == ({"x.acc": 0.5, "y.acc": 1.0}, True)
    assert [(row["id"], row["category"], row["correct"]) for row in rows] == [("x/0", "x", 0.5), ("y/0", "y", 1.0)]


def test_finished_task_is_not_run_again(workspace: tuple[Checkout, Settings, list[Any]]) -> None:
    checkout, settings, recorded = workspace
    for tasks, limit in ((["one"], 2), (["one", "two"], 2), (["one"], 3)):
        bench_policy(settings, checkout, PolicyRequest(tasks, checkout.policy, limit=limit), print, {})
    assert [arguments[arguments.index("--tasks") + 1] for arguments, _ in calls(checkout)] == ["one", "two", "one"]
    assert len(recorded) == 3


def test_listed_metric_is_the_main_one(workspace: tuple[Checkout, Settings, list[Any]]) -> None:
    checkout, settings, _ = workspace
    (result,) = bench_policy(settings, checkout, PolicyRequest(["ai2d"], checkout.policy), print, {})
    assert (result["benchmark"]["metric"], result["direction"]) == ("exact_match", "up")  # the catalogue's, not lmms-eval's first


def test_endpoint_is_asked_under_the_name_of_the_weights(
    workspace: tuple[Checkout, Settings, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, settings, _ = workspace
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    bench_policy(settings, checkout, PolicyRequest(["mine"], checkout.policy, endpoint="aligned"), print, {})
    ((arguments, key),) = calls(checkout)
    name = f"model=mmalign-{model_digest(checkout.policy)[:12]},base_url=http://127.0.0.1:8002/v1"
    assert arguments[arguments.index("--model") : arguments.index("--model") + 4] == ["--model", "openai", "--model_args", name]
    assert key == "none"


def test_failed_task_names_its_reason_and_log(workspace: tuple[Checkout, Settings, list[Any]]) -> None:
    checkout, settings, recorded = workspace
    with pytest.raises(StageFault, match="lmms-eval failed at broken: ValueError: no such data set") as raised:
        bench_policy(settings, checkout, PolicyRequest(["broken"], checkout.policy), print, {})
    assert raised.value.log is not None
    assert raised.value.log.is_file()
    assert not recorded


def test_evaluator_of_a_killed_run_ends_before_the_next(workspace: tuple[Checkout, Settings, list[Any]]) -> None:
    checkout, settings, _ = workspace
    out = checkout.bench / "policy" / model_digest(checkout.policy)[:12] / "mine-all"
    mark = f"bench:{checkout_mark(checkout)}:{out.parent.name}/mine-all:"
    with subprocess.Popen(["sleep", "600"], env={STAGE_MARK: mark}) as left:
        (result,) = bench_policy(settings, checkout, PolicyRequest(["mine"], checkout.policy), print, {})
        assert left.wait(10) == -signal.SIGKILL
    assert result["metrics"]
    lock = try_lock(out / "lock")
    assert lock is not None, "the run releases its lock"
    next(checkout.bench_results.glob("mine-*.json")).unlink()
    with pytest.raises(UserError, match=f"mine already runs in this checkout: process {os.getpid()}"):
        bench_policy(settings, checkout, PolicyRequest(["mine"], checkout.policy), print, {})
    lock.release()


def test_benchmark_stands_for_its_tasks() -> None:
    assert expand(["pope", "pope_adv", "mine"]) == ["pope_adv", "pope_pop", "pope_random", "mine"]
    assert len(expand(["safetybench"])) == 8


def test_mistakes_are_one_sentence(workspace: tuple[Checkout, Settings, list[Any]]) -> None:
    checkout, settings, _ = workspace
    for changes, sentence in (
        ({"folder": checkout.root}, "holds no whole model"),
        ({"endpoint": "reward"}, "--endpoint 'reward' is neither base nor aligned"),
    ):
        request = PolicyRequest(**{"tasks": ["mine"], "folder": checkout.policy, **changes})
        with pytest.raises(UserError, match=sentence):
            bench_policy(settings, checkout, request, print, {})
    (checkout.policy / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(UserError, match="is of the type 'llava', and lmms-eval runs llava_onevision"):
        bench_policy(settings, checkout, PolicyRequest(["mine"], checkout.policy), print, {})
    (environment_of(checkout) / STAMP).unlink()
    assert not is_ready(checkout)
    with pytest.raises(UserError, match="run `mmalign bench setup`"):
        bench_policy(settings, checkout, PolicyRequest(["mine"], checkout.policy), print, {})


TASK = """
task: local_colors
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 32, temperature: 0, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true, ignore_punctuation: true}}]
metadata: {{version: 1}}
"""
FUNCTIONS = """
from PIL import Image

def visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
"""


@pytest.mark.slow
@pytest.mark.skipif(not is_ready(Checkout(ROOT)), reason="lmms-eval is not set up here: mmalign bench setup")
def test_real_task_of_twenty_rows(data: Path, base: Path, tmp_path: Path) -> None:
    heldout = [json.loads(line) for line in (data / "preferences/heldout.jsonl").read_text().splitlines()]
    rows = [row for row in heldout if row["category"] == "short"][:20]
    lines = [{"image": str(data / "preferences" / row["image"]), "question": row["question"], "answer": row["answer"]} for row in rows]
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tasks / "local_colors.yaml").write_text(TASK.format(rows=tasks / "rows.jsonl"))
    (tasks / "utils.py").write_text(FUNCTIONS)
    checkout = Checkout(tmp_path / "checkout")
    shutil.copytree(base, checkout.root / "data/base")
    copy_settings(checkout.root)
    (checkout.root / "dvc.yaml").write_text("stages: {}\n")
    environment_of(checkout).parent.mkdir(parents=True)
    environment_of(checkout).symlink_to(environment_of(Checkout(ROOT)))
    command = ("bench", "policy", "local_colors", "--include", str(tasks), "--model", "data/base", "--device", "cpu", "--json")
    completed = mmalign(checkout.root, *command, timeout=900)
    assert completed.returncode == 0, completed.stderr
    (result,) = json.loads(completed.stdout)
    table = read_rows(next(checkout.bench_results.glob("local_colors-*.parquet")))
    assert len(table) == result["benchmark"]["rows"] == 20
    assert 0.3 < result["metrics"]["exact_match"] == sum(row["correct"] for row in table) / 20 < 1
