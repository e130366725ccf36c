from __future__ import annotations

import fcntl
import http.server
import io
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from safetensors.numpy import save_file

from components.cli.doctor import render
from components.config import load_settings
from components.doctor import checkout as of_checkout
from components.doctor import environment, leftovers, machine, services
from components.doctor.checks import BESIDE, CHECKS
from components.doctor.findings import Finding, as_json, ok, problem, run_checks, settings_of, warning
from components.files import write_json
from components.processes import RUN_MARK, STAGE_MARK, identity, new_run_mark, new_stage_mark
from components.tracking import store
from components.training.ops import OP
from tests.checkout import ROOT, behave, clean_environment, git, mmalign
from tests.cli.test_status import start_stage

BASE = Path("data/base")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "PREFECT_API_URL", "CUDA_VISIBLE_DEVICES", "CXX"):
        monkeypatch.delenv(name, raising=False)
    yield
    store._failures.clear()
    store._connect.cache_clear()


@pytest.fixture
def whole(checkout: Path) -> Path:
    """A checkout with a base model, a lock file and a built op beside what every test's checkout has."""
    (checkout / BASE).mkdir()
    for name in of_checkout.BASE_FILES:
        (checkout / BASE / name).write_text(json.dumps({"model_type": "llava_onevision"}))
    save_file({"weight": np.zeros((8, 8), dtype=np.float32)}, checkout / BASE / "model.safetensors")
    (checkout / "requirements.txt").write_text(f"numpy=={metadata.version('numpy')}\n")
    op = checkout / ".mmalign/torch_extensions" / OP / f"{OP}.so"
    op.parent.mkdir(parents=True)
    op.touch()
    return checkout


def settings_changed(root: Path, section: str, **values: object) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params[section] |= values
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def only_tools(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """A PATH on which nothing but `names` is found."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))


# --- the command


def test_the_command_finds_no_problem_in_a_checkout_that_works_and_says_so_in_json(whole: Path) -> None:
    began = time.monotonic()
    done = mmalign(whole, "doctor", "--json")
    found = json.loads(done.stdout)
    assert found["problems"] == 0, found
    assert done.returncode == 0
    assert [check["name"] for check in found["checks"]] == list(CHECKS)
    assert all(check.keys() == {"name", "state", "found", "cure"} for check in found["checks"])
    assert all((check["cure"] is None) == (check["state"] == "ok") for check in found["checks"])
    assert time.monotonic() - began < 60, "ten seconds are usual; it waited for something"
    assert not (whole / "mlflow.db").exists()


def test_a_problem_is_exit_code_1_and_the_other_checks_are_made(whole: Path) -> None:
    (whole / "requirements.txt").write_text("numpy==0.1\n")
    (whole / "params.yaml").write_text("model: [")
    done = mmalign(whole, "doctor", "--json")
    states = {check["name"]: check["state"] for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert states["packages"] == states["settings"] == "problem"
    assert states["base model"] == "warning", "there is nothing to go by"
    assert states["git"] in {"ok", "warning"}
    assert states["torch"] == "ok"


def test_a_check_that_raises_is_a_problem_of_that_check(tmp_path: Path) -> None:
    def breaks(root: Path) -> Finding:
        raise OSError(f"{root} is on fire")

    findings = run_checks(tmp_path, {"first": breaks, "second": lambda _: ok("fine"), "third": breaks}, frozenset({"first"}))
    assert list(findings) == ["first", "second", "third"]
    assert [finding.state for finding in findings.values()] == ["problem", "ok", "problem"]
    assert f"OSError: {tmp_path} is on fire" in findings["third"].found
    assert as_json(findings)["problems"] == 2


def test_checks_that_wait_for_a_process_are_known_ones() -> None:
    assert CHECKS.keys() >= BESIDE


@pytest.mark.parametrize("width", [80, 40])
def test_the_table_fits_the_terminal_and_shows_each_cure(width: int) -> None:
    findings = dict.fromkeys(CHECKS, ok("fine"))
    findings["git"] = warning("3 files changed", "commit them")
    findings["packages"] = problem("numpy 0.1 (not ==2.0)", "make install")
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(render(findings))
    text = stream.getvalue()
    assert max(len(line) for line in text.splitlines()) <= width
    assert "cure: commit them" in text
    assert "cure: make install" in text
    assert text.splitlines()[-1] == "1 problem and 1 warning"


# --- what is installed


def test_python_that_is_not_supported_is_a_problem(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.python_version(checkout).state == "ok"
    monkeypatch.setattr(platform, "python_version", lambda: "3.10.4")
    found = environment.python_version(checkout)
    assert found.state == "problem"
    assert "Python 3.10.4" in found.found


def test_packages_are_compared_with_the_lock_file(whole: Path) -> None:
    assert environment.packages(whole).state == "ok"
    lines = ["numpy==0.1", "pandas==0.2 ; python_version < '3'", "no-such-package==1.0", "# a comment"]
    (whole / "requirements.txt").write_text("\n".join(lines))
    found = environment.packages(whole)
    assert found.state == "problem"
    assert "of 2 packages" in found.found, "the one for another Python does not count"
    assert "1 missing (no-such-package)" in found.found
    assert f"numpy {metadata.version('numpy')} (not ==0.1)" in found.found
    (whole / "requirements.txt").unlink()
    assert environment.packages(whole).state == "warning"


def test_every_line_of_the_repositorys_lock_file_is_understood() -> None:
    assert re.search(r"\b\d{3} packages", environment.packages(ROOT).found)


def test_a_version_that_is_known_to_break_a_run_is_a_problem(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.version_pins(checkout).state == "ok"
    true_version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.1.3" if name == "sqlalchemy" else true_version(name))
    found = environment.version_pins(checkout)
    assert found.state == "problem"
    assert "sqlalchemy 2.1.3 is not <2.1" in found.found


def test_pins_and_python_are_those_of_the_package() -> None:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {(one := Requirement(line)).name: set(one.specifier) for line in project["dependencies"]}
    for package, works, _ in environment.PINS:
        assert set(SpecifierSet(works)) <= declared[package]
    assert SpecifierSet(environment.PYTHON) == SpecifierSet(project["requires-python"])


def test_a_missing_compiler_is_a_problem_only_while_something_has_to_be_built(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "has_gpu", lambda: False)
    only_tools(tmp_path / "with", monkeypatch, "c++")
    assert environment.compiler(whole).state == "ok"
    only_tools(tmp_path / "without", monkeypatch)
    assert environment.compiler(whole).state == "warning"
    environment._op_file(whole).unlink()
    found = environment.compiler(whole)
    assert found.state == "problem"
    assert "apt install g++" in str(found.cure)
    settings_changed(whole, "training", engine="ddp")
    assert environment.compiler(whole).state == "warning"


def test_ninja_is_needed_for_deepspeed_even_where_the_op_is_built(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_tools(tmp_path / "with", monkeypatch, "ninja")
    assert environment.ninja(whole).state == "ok"
    only_tools(tmp_path / "without", monkeypatch)
    assert environment.ninja(whole).state == "problem"
    settings_changed(whole, "training", engine="ddp")
    assert environment.ninja(whole).state == "ok"


def test_an_op_that_is_not_built_is_a_warning_on_a_machine_without_a_gpu(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.cpu_op(whole).state == "ok"
    environment._op_file(whole).unlink()
    monkeypatch.setattr(environment, "has_gpu", lambda: False)
    assert environment.cpu_op(whole).state == "warning"
    monkeypatch.setattr(environment, "has_gpu", lambda: True)
    assert environment.cpu_op(whole).state == "ok"


def torch_says(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(environment, "TORCH_QUESTIONS", said)


def test_torch_is_asked_in_a_process_of_its_own(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_says(monkeypatch, 'print(\'["2.15.0", "13.2", ["H100"]]\')')
    assert environment.torch_state(whole) == ok("torch 2.15.0, CUDA 13.2: H100")
    torch_says(monkeypatch, "raise ImportError('libcudart.so.13: not found')")
    found = environment.torch_state(whole)
    assert found.state == "problem"
    assert "libcudart.so.13: not found" in found.found
    monkeypatch.setattr(environment, "TORCH_SECONDS", 0.3)
    torch_says(monkeypatch, "import time; time.sleep(30)")
    assert "did not load within" in environment.torch_state(whole).found


def test_gpus_that_torch_does_not_see_or_that_are_not_there_are_problems(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_says(monkeypatch, "print('[\"2.15.0\", null, []]')")
    monkeypatch.setattr(environment, "has_gpu", lambda: True)
    assert "sees no GPU" in environment.torch_state(whole).found
    monkeypatch.setattr(environment, "has_gpu", lambda: False)
    assert environment.torch_state(whole).state == "ok"
    settings_changed(whole, "stages", align={"deadline_minutes": 5, "gpus": 2})
    found = environment.torch_state(whole)
    assert found.state == "problem"
    assert "stages.align.gpus is 2" in found.found


# --- the machine


def test_fewer_cores_than_threads_is_a_warning(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert machine.cores(whole).state == "ok"
    settings_changed(whole, "training", ranks=4)
    assert machine.cores(whole).state == "warning"


def test_a_containers_limits_count(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    for name, text in {
        "cpu.max": "150000 100000\n",
        "memory.max": "1000000000\n",
        "memory.current": "900000000\n",
        "memory.stat": "anon 5\ninactive_file 300000000\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert machine.available_cores() == (1.5, " (the container's limit; the machine shows 8)")
    assert machine.available_memory() == (400_000_000, 1_000_000_000)
    assert machine.cores(whole).state == "warning"
    assert machine.memory(whole).state == "warning"


def test_memory_that_holds_the_ranks_is_enough(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: (int(2.1e9), int(8e9)))
    assert machine.memory(whole).state == "ok"
    settings_changed(whole, "training", ranks=3)
    found = machine.memory(whole)
    assert found.state == "warning"
    assert "training may take 3.0 GB (3 ranks)" in found.found


def test_a_full_disk_is_a_problem_and_a_nearly_full_one_a_warning(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((100e9, "ok"), (2e9, "warning"), (0.2e9, "problem")):
        monkeypatch.setattr(machine, "free_bytes", lambda _, free=free: int(free))
        assert machine.disk(whole).state == state
    assert ".dvc/cache, artifacts, .mmalign" in machine.disk(whole).found


def test_room_is_asked_for_where_dvc_keeps_its_cache(whole: Path, tmp_path: Path) -> None:
    (whole / ".dvc/config.local").write_text(f"[cache]\n    dir = {tmp_path}/elsewhere\n")
    assert machine.dvc_cache(whole) == tmp_path / "elsewhere"
    assert f"{tmp_path}/elsewhere" in machine.disk(whole).found


def test_too_little_shared_memory_for_the_ranks_is_a_problem(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda _: 64 * 2**20)
    found = machine.shared_memory(whole)
    assert found.state == "problem"
    assert "--shm-size" in str(found.cure)
    monkeypatch.setattr(machine, "free_bytes", lambda _: 2**30)
    assert machine.shared_memory(whole).state == "ok"


def test_what_a_rank_maps_is_what_deepspeed_declares() -> None:
    source = Path(sys.prefix).glob("lib/python*/site-packages/deepspeed/ops/csrc/cpu/comm/shm.cpp")
    text = next(source).read_text()
    large = re.search(r"#define MAX_BUF_SIZE 1048576 \* (\d+)", text)
    assert large is not None
    assert "#define NAIVE_ALLREDUCE_THRESHOLD 1048576\n" in text
    assert "buffer[2 * NAIVE_ALLREDUCE_THRESHOLD + 2 * MAX_BUF_SIZE]" in text
    assert 2 * 2**20 + 2 * int(large[1]) * 2**20 == machine.SHARED_BYTES_A_RANK


# --- the checkout


def test_git_needs_a_repository_a_commit_an_identity_and_likes_a_clean_tree(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    found = of_checkout.git(checkout)
    assert found.state == "warning"
    assert "user.name and user.email not set" in found.found
    git(checkout, "config", "user.name", "Somebody")
    git(checkout, "config", "user.email", "somebody@example.org")
    assert of_checkout.git(checkout).state == "ok"
    (checkout / "params.yaml").write_text((checkout / "params.yaml").read_text() + "# changed\n")
    assert "1 changed file (params.yaml)" in of_checkout.git(checkout).found
    shutil.rmtree(checkout / ".git")
    assert of_checkout.git(checkout).state == "problem"
    git(checkout, "init", "-q")
    assert "no commit" in of_checkout.git(checkout).found
    only_tools(tmp_path / "nothing", monkeypatch)
    assert of_checkout.git(checkout).found == "git is not on PATH"


def test_settings_that_are_not_valid_are_a_problem_that_names_the_key(checkout: Path) -> None:
    assert of_checkout.settings(checkout).state == "ok"
    settings_changed(checkout, "alignment", bta=0.2)
    found = of_checkout.settings(checkout)
    assert found.state == "problem"
    assert found.found == "params.yaml: unknown key 'alignment.bta'; did you mean 'alignment.beta'?"


def test_a_base_model_is_a_whole_checkpoint(whole: Path) -> None:
    assert of_checkout.base_model(whole).state == "ok"
    weights = whole / BASE / "model.safetensors"
    kept = weights.read_bytes()
    for broken in (kept[:-1], b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b""):
        weights.write_bytes(broken)
        found = of_checkout.base_model(whole)
        assert found.state == "problem"
        assert "data/base/model.safetensors" in found.found
    weights.write_bytes(kept)
    write_json(whole / BASE / "model.safetensors.index.json", {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}})
    assert of_checkout.base_model(whole).found == "data/base lacks model-2.safetensors"
    (whole / BASE / "tokenizer.json").unlink()
    assert of_checkout.base_model(whole).found == "data/base lacks tokenizer.json"


def test_a_base_model_that_is_not_there_is_a_problem_unless_it_comes_with_the_data(whole: Path) -> None:
    shutil.rmtree(whole / BASE)
    assert of_checkout.base_model(whole).state == "warning"
    settings_changed(whole, "model", base="models/none")
    assert of_checkout.base_model(whole).state == "problem"


def test_data_that_a_run_settles_is_a_warning_and_data_that_it_refuses_a_problem(checkout: Path) -> None:
    assert of_checkout.data(checkout).state == "ok"
    rows, truth = checkout / "data/preferences/data.jsonl", checkout / "data/truth/truth.jsonl"
    kept = rows.read_text()
    rows.write_text("other\n")
    assert "1 file changed or new" in of_checkout.data(checkout).found
    truth.unlink()
    found = of_checkout.data(checkout)
    assert found.state == "problem"
    assert "--accept-data" in str(found.cure)
    rows.write_text(kept)
    found = of_checkout.data(checkout)
    assert found.state == "warning"
    assert "data/truth/truth.jsonl" in found.found
    (checkout / "data.dvc").unlink()
    assert "no version yet" in of_checkout.data(checkout).found
    shutil.rmtree(checkout / "data")
    assert of_checkout.data(checkout).state == "problem"


def test_a_lost_remote_is_a_problem_and_one_without_a_bucket_is_not(checkout: Path) -> None:
    found = of_checkout.dvc(checkout)
    assert found.state == "ok"
    assert "no bucket set yet" in found.found
    shutil.move(checkout / "infra", checkout / "moved")
    found = of_checkout.dvc(checkout)
    assert found.state == "problem"
    assert "the remote 'bundled', which data.dvc names" in found.found
    shutil.rmtree(checkout / ".dvc")
    assert of_checkout.dvc(checkout).state == "problem"


def test_links_through_which_an_edit_reaches_the_cache_are_a_warning(checkout: Path) -> None:
    (checkout / ".dvc/config.local").write_text("[cache]\n    type = hardlink,copy\n")
    assert of_checkout.dvc(checkout).state == "warning"


# --- services


@pytest.fixture
def server() -> Iterator[str]:
    """A server that answers /api/health and /health."""

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.endswith("/health") else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def test_a_store_that_is_away_is_a_problem_and_is_not_waited_for(checkout: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:secret@127.0.0.1:{closed_port}")
    began = time.monotonic()
    found = services.mlflow_store(checkout)
    assert found.state == "problem"
    assert f"http://127.0.0.1:{closed_port} does not answer" in found.found
    assert "secret" not in found.found
    assert time.monotonic() - began < services.ANSWER_SECONDS + 2


def test_a_database_of_the_checkout_is_a_store_and_a_damaged_one_a_problem(checkout: Path) -> None:
    assert services.mlflow_store(checkout).state == "ok"
    assert not (checkout / "mlflow.db").exists(), "looking makes no database"
    (checkout / "mlflow.db").write_bytes(b"no database" * 100)
    found = services.mlflow_store(checkout)
    assert found.state == "problem"
    assert "mlflow.db can't be used" in found.found


def test_opening_pickles_is_a_warning(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert services.pickled_models(checkout).state == "ok"
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "True")
    assert services.pickled_models(checkout).state == "warning"


def test_prefects_server_is_asked_only_where_one_is_named(
    checkout: Path, server: str, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "a server of its own" in services.prefect(checkout).found
    monkeypatch.setenv("PREFECT_API_URL", f"{server}/api")
    assert services.prefect(checkout).state == "ok"
    for wrong in (f"http://127.0.0.1:{closed_port}/api", "prefect.example/api"):
        monkeypatch.setenv("PREFECT_API_URL", wrong)
        assert services.prefect(checkout).state == "problem"


def test_records_that_wait_for_the_store_are_counted_but_not_those_of_a_live_run(checkout: Path) -> None:
    folder = store.state_folder(checkout)
    folder.mkdir(parents=True)
    assert services.waiting_records(checkout).state == "ok"
    alive = json.dumps({"op": "create", "tags": {"mmalign.process": identity(os.getpid())}})
    (folder / "pending-live.jsonl").write_text(alive + "\n")
    assert services.waiting_records(checkout).state == "ok"
    (folder / "pending-dead.jsonl").write_text(json.dumps({"op": "create", "tags": {"mmalign.process": "1:1"}}) + "\n")
    found = services.waiting_records(checkout)
    assert found.state == "warning"
    assert found.found.startswith("1 record of runs")


# --- what earlier runs left


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def write_rwlock(checkout: Path, pid: int) -> Path:
    path = checkout / leftovers.RWLOCK
    write_json(path, {"write": {"/somewhere/artifacts": {"pid": pid, "cmd": "dvc repro"}}, "read": {}})
    return path


def test_a_lock_of_a_dead_process_is_a_warning_since_dvc_drops_it(checkout: Path) -> None:
    assert leftovers.dvc_locks(checkout) == ok("none is held")
    write_rwlock(checkout, os.getpid())
    assert leftovers.dvc_locks(checkout) == ok(f"process {os.getpid()} works on files")
    pid = dead_pid()
    write_rwlock(checkout, pid)
    found = leftovers.dvc_locks(checkout)
    assert found.state == "warning"
    assert f"process {pid}" in found.found


def test_a_lock_whose_number_another_program_has_is_a_problem_since_dvc_waits_for_that(checkout: Path) -> None:
    path = write_rwlock(checkout, os.getpid())
    os.utime(path, (1, 1))  # written long before this process began
    found = leftovers.dvc_locks(checkout)
    assert found.state == "problem"
    assert found.cure == "rm .dvc/tmp/rwlock"


def test_a_damaged_list_of_locks_is_a_problem(checkout: Path) -> None:
    path = write_rwlock(checkout, 1)
    path.write_text("{")
    assert leftovers.dvc_locks(checkout).state == "problem"


def test_the_claim_of_a_dead_process_on_dvcs_lock_is_a_problem(checkout: Path) -> None:
    lock = checkout / leftovers.LOCK
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(f"{lock}|{socket.gethostname()}|{dead_pid()}|1234")
    found = leftovers.dvc_locks(checkout)
    assert found.state == "problem"
    assert found.cure == "rm .dvc/tmp/lock"
    lock.write_text(f"{lock}|{socket.gethostname()}|{os.getpid()}|1234")
    assert leftovers.dvc_locks(checkout).state == "ok"


def test_dvc_at_work_is_seen(checkout: Path) -> None:
    (checkout / leftovers.LOCK).parent.mkdir(parents=True, exist_ok=True)
    with (checkout / leftovers.LOCK).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert leftovers.dvc_locks(checkout) == ok("DVC works on the repository")


def test_a_process_of_an_earlier_run_is_a_problem_with_the_command_that_ends_it(checkout: Path) -> None:
    assert leftovers.processes(checkout).state == "ok"
    marks = {RUN_MARK: new_run_mark(checkout), STAGE_MARK: new_stage_mark("validate")}
    left = subprocess.Popen(["sleep", "600"], env={**os.environ, **marks})
    try:
        found = leftovers.processes(checkout)
        assert found.state == "problem"
        assert f"{left.pid} (sleep 600)" in found.found
        assert str(found.cure).endswith(f"kill -9 {left.pid}")
    finally:
        left.kill()
        left.wait()
    assert leftovers.processes(checkout).state == "ok"


def test_processes_of_a_stage_under_way_are_no_leftovers(checkout: Path) -> None:
    process = start_stage(checkout, "validate")
    helper = subprocess.Popen(
        ["sleep", "600"], env={**clean_environment(), RUN_MARK: new_run_mark(checkout), STAGE_MARK: new_stage_mark("validate")}
    )
    try:
        found = leftovers.processes(checkout)
        assert found.state == "ok"
        assert "a run is under way (validate, 1 processes)" in found.found
    finally:
        helper.kill()
        helper.wait()
        behave(checkout, "validate")
        process.wait(30)


def test_unfinished_checkpoints_are_a_warning_unless_their_stage_runs(checkout: Path) -> None:
    scratch = checkout / ".mmalign/scratch/validate/0123"
    write_json(scratch / "checkpoint-10/COMMITTED.json", {})
    assert leftovers.scratch(checkout).state == "ok"
    write_json(scratch / "checkpoint-20/trainer_state.json", {})
    found = leftovers.scratch(checkout)
    assert found.state == "warning"
    assert str(found.cure).endswith("rm -r .mmalign/scratch/validate")
    process = start_stage(checkout, "validate")
    assert leftovers.scratch(checkout).state == "ok"
    behave(checkout, "validate")
    process.wait(30)


def test_checks_that_go_by_the_settings_need_valid_ones(checkout: Path) -> None:
    assert settings_of(checkout) == load_settings(checkout / "params.yaml")
    (checkout / "params.yaml").unlink()
    findings = run_checks(checkout, {"cores": machine.cores, "disk": machine.disk})
    assert findings["cores"].found == "not checked: params.yaml is not valid"
    assert findings["disk"].state in {"ok", "warning"}, "that goes without"
