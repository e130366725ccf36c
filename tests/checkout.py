"""A small checkout with real git, DVC and fast stages, for the tests of flows and commands."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.processes.marks import RUN_MARK, STAGE_MARK, WATCHED, MarkedProcess, checkout_mark, kill_all, marked

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = float(os.environ.get("MMALIGN_TEST_PATIENCE", "1"))  # times the limits of waits, for a machine that does much else

# Every stage copies its settings into its output, so a changed setting changes the output. Files in behaviour/ control how a stage behaves, so
# a test can change that without making the stage stale.
STAGE_SCRIPT = """
import json, os, pathlib, signal, subprocess, sys, time
sys.path.insert(0, {root!r})
import yaml
from components.checkout import Checkout
from components.processes.faults import explain
from components.cli.run.stage import run_guarded
from components.errors import TrainingFault, UserError

name, sources = sys.argv[1], sys.argv[2:]
settings = yaml.safe_load(open("params.yaml"))

def work():
    behaviour = pathlib.Path("behaviour", name)
    words = behaviour.read_text() if behaviour.is_file() else ""
    with open("started.log", "a") as log:
        log.write(name + "\\n")
    if "ignore" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "grandchild" in words:
        subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"],
                         start_new_session=True)
    if "mistake" in words:
        raise UserError("row 7 of the data is wrong: correct it")
    if "full" in words:
        raise OSError(28, "No space left on device")
    if "training" in words:
        raise TrainingFault("the loss is nan at step 3")
    if "killed" in words:
        os.kill(os.getpid(), signal.SIGKILL)
    if "fail" in words:
        print("this is why it failed", flush=True)
        sys.exit(3)
    if "wait" in words:
        pathlib.Path("waiting." + name).touch()
        end = time.monotonic() + 600
        while "wait" in behaviour.read_text() and time.monotonic() < end:
            time.sleep(0.05)
    out = pathlib.Path("artifacts", name)
    out.mkdir(parents=True, exist_ok=True)
    section = {{"align": "alignment"}}.get(name, name)
    made = [json.dumps(settings[section], sort_keys=True)] if name != "validate" else []
    for source in sources:
        made.append(pathlib.Path(source).read_text())
    (out / "result.txt").write_text("\\n".join(made)[-2000:])
    (out / "metrics.json").write_text(json.dumps({{"queries": 3}}))

try:
    run_guarded(name, Checkout(pathlib.Path.cwd()), work)
except UserError as error:
    sys.exit(explain(error))
"""

SHEETS = ("judges/sheets/ground_truth.json", "judges/sheets/rules.json")
STAGE_INPUTS = {
    "validate": ["data/preferences/data.jsonl"],
    "reward": ["artifacts/validate/result.txt"],
    "critique": ["artifacts/reward/result.txt"],
    "reference": ["artifacts/validate/result.txt"],
    "align": ["artifacts/critique/result.txt", "artifacts/reference/result.txt"],
    "evaluate": ["artifacts/align/result.txt", "data/truth"],
}


@pytest.fixture(scope="session")
def checkout_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template that tests copy."""
    return make_checkout(tmp_path_factory.mktemp("template") / "checkout")


@pytest.fixture
def checkout(checkout_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small checkout with real git and DVC, as the current folder. Its processes end with the test."""
    folder = tmp_path / "checkout"
    shutil.copytree(checkout_template, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MMALIGN_GRACE_SECONDS", "3")
    monkeypatch.setenv("MMALIGN_SLOTS", str(tmp_path / "slots"))
    for name in (RUN_MARK, STAGE_MARK, WATCHED, "MLFLOW_RUN_ID", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    kill_all(lambda: alive(folder))


def alive(folder: Path) -> list[MarkedProcess]:
    """Live processes with a mark of this checkout."""
    return marked(RUN_MARK, checkout_mark(Checkout(folder)))


def make_checkout(folder: Path) -> Path:
    """Build the checkout, with committed data in its own infra/bundled-data."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name in (".dvcignore", ".gitignore", "params.yaml", "ops.yaml", "prefect.yaml", "mlflow/registry.yaml", *SHEETS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    with (folder / ".gitignore").open("a") as ignored:
        ignored.write("/behaviour/\n/started.log\n/waiting.*\n")
    (folder / "stage.py").write_text(STAGE_SCRIPT.format(root=str(ROOT)))
    (folder / "dvc.yaml").write_text(pipeline_text())
    ground_truth = json.dumps({"id": "q", "must": [["yes"]], "must_not": ["no"]}) + "\n"
    for name, text in {"preferences/data.jsonl": "1\n2\n", "preferences/heldout.jsonl": "3\n", "truth/truth.jsonl": ground_truth}.items():
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_base(folder / "data/base")
    from components.storage.bundle import bundle

    bundle(Checkout(folder))
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "start")
    (folder / "behaviour").mkdir()
    return folder


def write_base(folder: Path) -> None:
    """A checkpoint that is whole by its files' lengths, with one weight: enough for commands that open no model."""
    from tests.rehearsal.tiny import CONFIGS

    folder.mkdir(parents=True)
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    (folder / "config.json").write_text(json.dumps({"model_type": "llava_onevision", **CONFIGS["llava_onevision"]}))
    weights = json.dumps({"weight": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}).encode()
    (folder / "model.safetensors").write_bytes(len(weights).to_bytes(8, "little") + weights + bytes(256))


def pipeline_text() -> str:
    """dvc.yaml with the six stages."""
    lines = ["stages:"]
    for name, sources in STAGE_INPUTS.items():
        section = {"align": "alignment"}.get(name, name)
        files = [source for source in sources if source != "data/truth"]
        lines += [f"  {name}:", f"    cmd: {sys.executable} stage.py {name} {' '.join(files)}", "    deps:"]
        lines += [f"      - {source}" for source in [*sources, "stage.py"]]
        lines += ["    params:", f"      - {section}", "    outs:", f"      - artifacts/{name}/result.txt"]
        lines += ["    metrics:", f"      - artifacts/{name}/metrics.json"]
    return "\n".join(lines) + "\n"


def git(folder: Path, *arguments: str) -> str:
    """Run git in a checkout, with a test author."""
    who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def clean_environment() -> dict[str, str]:
    """This environment without marks of an outer run, and without a Prefect or MLflow server."""
    dropped = {RUN_MARK, STAGE_MARK, WATCHED, "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"}
    return {key: value for key, value in os.environ.items() if key not in dropped}


def mmalign(folder: Path, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the command in a checkout to its end."""
    command = [sys.executable, "-m", "components.cli.main", *arguments]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout * PATIENCE, check=False)


def mmalign_here(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a checkout within this process, for what does not depend on its start: a process imports for seconds.

    Its output is what Python writes. The environment and the current folder are restored.
    """
    from components.cli.main import main

    environment, where, words = dict(os.environ), Path.cwd(), sys.argv
    output, errors = io.StringIO(), io.StringIO()
    try:
        clean = clean_environment()
        os.environ.clear()
        os.environ.update(clean)
        os.chdir(folder)
        sys.argv = ["mmalign", *arguments]
        with redirect_stdout(output), redirect_stderr(errors):
            code = main()
    finally:
        os.chdir(where)
        sys.argv = words
        os.environ.clear()
        os.environ.update(environment)
    return subprocess.CompletedProcess(["mmalign", *arguments], code, output.getvalue(), errors.getvalue())


def start_mmalign(folder: Path, *arguments: str, out: str = "mmalign.out") -> subprocess.Popen[str]:
    """Start the command in a checkout; its output goes into the file `out` of .git, where nothing looks for a checkout's files."""
    command = [sys.executable, "-m", "components.cli.main", *arguments]
    with (folder / ".git" / out).open("w") as output:
        return subprocess.Popen(
            command, cwd=folder, env={**clean_environment(), "PYTHONPATH": str(ROOT)}, stdout=output, stderr=subprocess.STDOUT, text=True
        )


def write_secrets(checkout: Checkout, auth: str) -> None:
    """Passwords of services whose Prefect server is one of a run, with its `auth`."""
    from components.operations.services.state import create_secrets
    from components.processes.secrets import secrets_file

    made = replace(create_secrets(checkout), prefect=auth.partition(":")[2])
    secrets_file(checkout).write_text(json.dumps(asdict(made)))


def behave(folder: Path, stage: str, *words: str) -> None:
    """Set a stage's behavior: wait, ignore, grandchild, fail, mistake, full, training, killed."""
    (folder / "behaviour" / stage).write_text(" ".join(words))


def started(folder: Path) -> list[str]:
    """The stages that ran, in order."""
    path = folder / "started.log"
    return path.read_text().split() if path.is_file() else []


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until `condition` holds, or fail."""
    until = time.monotonic() + seconds * PATIENCE
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)
