"""The preconditions through the real commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.config.profiles import PROFILES, header, names
from tests.checkout import ROOT, alive, clean_environment, mmalign
from tests.namespaces import FEW_FILES, SMALL_SHARED_MEMORY, mmalign_where

OTHERS = [name for name in names(ROOT / PROFILES) if name != "demo"]
# Runs the command line once for each line of stdin, in a fork that has imported what commands import: once each would take a minute.
COMMANDS = """
import os, sys
import components.cli.run.flow_process, components.storage.plan, components.operations.preconditions.checks, dvc.repo
from components.cli.main import main
for line in sys.stdin:
    sys.stdout.flush()
    if os.fork() == 0:
        sys.argv = ["mmalign", *line.split()]
        code = main()
        sys.stdout.flush(); sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    print(f"=> {code}", file=sys.stderr, flush=True)
"""


@pytest.fixture(autouse=True)
def profiles(checkout: Path) -> None:
    shutil.copytree(ROOT / PROFILES, checkout / PROFILES)


def test_profile_without_checkpoint_is_refused_by_run(checkout: Path) -> None:
    lines = "".join(f"configure --profile {name}\nrun\n" for name in OTHERS)
    completed = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        cwd=checkout,
        env={**clean_environment(), "PYTHONPATH": str(ROOT)},
        input=lines,
        capture_output=True,
        text=True,
        check=True,
    )
    sentences = iter(completed.stderr.splitlines())
    for name in OTHERS:
        checkpoint = header(ROOT / PROFILES / f"{name}.yaml")["checkpoint"]
        base = f"data/models/{checkpoint.split('/')[1]}"
        assert next(sentences) == "=> 0"  # configure writes the profile all the same, and says what is missing
        assert next(sentences) == (
            f"mmalign: the checkpoint of model.base, {base}, is missing: fetch it with `mmalign model fetch {checkpoint}`"
        )
        assert next(sentences) == "=> 2"
        assert f"mmalign model fetch {checkpoint}" in " ".join(completed.stdout.split())
    assert list(sentences) == []
    assert not (checkout / "logs").exists()  # no server was started
    assert not (checkout / "reports").exists()
    assert not (checkout / "mlflow.db").exists()


def test_refused_run_ends_at_once_and_writes_nothing(checkout: Path) -> None:
    before = (checkout / "params.yaml").read_bytes()
    began = time.monotonic()
    refused = mmalign(checkout, "run", "--set", "model.base=data/models/Qwen3-VL-8B-Instruct")
    assert time.monotonic() - began < 60
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "mmalign model fetch Qwen/Qwen3-VL-8B-Instruct" in refused.stderr
    assert (checkout / "params.yaml").read_bytes() == before
    assert alive(checkout) == []


def test_plan_and_configure_list_what_is_missing_as_json(checkout: Path) -> None:
    configured = mmalign(checkout, "configure", "--profile", "qwen3-vl-8b", "--json")
    planned = mmalign(checkout, "plan", "--json")
    for completed in (configured, planned):
        assert completed.returncode == 0
        first = json.loads(completed.stdout)["preconditions"][0]
        assert first == {
            "name": "base model",
            "state": "problem",
            "found": "the checkpoint of model.base, data/models/Qwen3-VL-8B-Instruct, is missing",
            "cure": "fetch it with `mmalign model fetch Qwen/Qwen3-VL-8B-Instruct`",
        }
    assert json.loads(configured.stdout)["changed"]["model.base"] == {"from": "data/base", "to": "data/models/Qwen3-VL-8B-Instruct"}
    assert json.loads(planned.stdout)["stages"]["validate"]["action"] == "run"
    assert json.loads(planned.stdout)["gate_rules"] is None, "the template's rows can't be read"


@pytest.fixture
def small_disk(checkout: Path) -> Iterator[None]:
    """A real file system of 64 MB below the checkout, at .mmalign."""
    folder = checkout / ".mmalign"
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may mount nothing")
    yield
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.usefixtures("small_disk")
def test_run_on_a_small_disk_is_refused(checkout: Path) -> None:
    refused = mmalign(checkout, "run")
    assert refused.returncode == 2
    assert refused.stderr.startswith("mmalign: too little disk for .mmalign/scratch: 67 MB free, and the run still writes 9 MB there")
    assert refused.stderr.count("\n") == 1
    assert not (checkout / "logs").exists()
    assert "disk" in {finding["name"] for finding in json.loads(mmalign(checkout, "plan", "--json").stdout)["preconditions"]}
    memory = mmalign(checkout, "plan", "--memory")
    assert memory.returncode == 1
    assert "does not fit the disk of .mmalign/scratch/reward: 67 MB free, 942 MB more to free" in " ".join(memory.stdout.split())
    assert "fits the disk of mlruns" in " ".join(memory.stdout.split())
    assert [volume["fits"] for volume in json.loads(mmalign(checkout, "plan", "--memory", "--json").stdout)["disk"]] == [False, True]


def test_run_without_free_bytes_is_refused(checkout: Path) -> None:
    script = "import shutil; from types import SimpleNamespace; shutil.disk_usage = lambda _: SimpleNamespace(free=500_000_000)\n"
    refused = subprocess.run(
        [sys.executable, "-c", f"{script}import sys; from components.cli.main import main; sys.argv[1:] = ['run']; sys.exit(main())"],
        cwd=checkout,
        env={**clean_environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "500 MB free, and the run still writes 15 MB there" in refused.stderr
    assert not (checkout / "logs").exists()


@pytest.mark.parametrize(
    ("setup", "sentence"),
    [
        (
            SMALL_SHARED_MEMORY,
            "1 MB free in /dev/shm, where 2 ranks of training map 138 MB, and hang or die without it: start",
        ),
        (
            FEW_FILES.format(number=60),
            "a process may have 60 files open here, and the stages that will run need 64: raise the limit",
        ),
    ],
    ids=["shared memory of 1 MB", "60 open files"],
)
def test_run_on_a_narrow_machine_is_refused(checkout: Path, setup: str, sentence: str) -> None:
    refused = mmalign_where(checkout, setup, "run")
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.startswith(f"mmalign: {sentence}")
    assert refused.stderr.count("\n") == 1
    assert not (checkout / "logs").exists(), "no server may have started"


@pytest.mark.slow
@pytest.mark.parametrize("command", [("plan",), ("status",), ("doctor",), ("data", "validate", "rows.jsonl"), ("run",)])
def test_command_works_with_64_open_files(checkout: Path, command: tuple[str, ...]) -> None:
    (checkout / "rows.jsonl").write_text('{"id": "q"}\n')  # a row of no use: refused for itself
    completed = mmalign_where(checkout, FEW_FILES.format(number=64), *command)
    assert "open files" not in completed.stdout + completed.stderr if command != ("doctor",) else "64 files open" in completed.stdout
    assert "Too many" not in completed.stdout + completed.stderr
    assert completed.returncode == {"data": 2}.get(command[0], 0), completed.stdout + completed.stderr
