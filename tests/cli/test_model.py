"""`mmalign model` against a server with a hub's replies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.families.hub.manifest import read_manifest
from tests.checkout import ROOT, clean_environment
from tests.cli.hub_server import COMMIT, serve
from tests.families.hub.test_files import WEIGHTS, checkpoint


def command(checkout: Path, *arguments: str, endpoint: str | None = None, offline: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT), "HF_ENDPOINT": endpoint or "http://127.0.0.1:1"}
    environment.pop("HF_HUB_OFFLINE", None)
    if offline:
        environment["HF_HUB_OFFLINE"] = "1"
    return subprocess.run(
        [sys.executable, "-m", "components.cli.main", "model", *arguments],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The least checkout that the command accepts."""
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout/dvc.yaml").write_text("stages: {}\n")
    return tmp_path / "checkout"


def test_fetched_model_is_verified_and_names_next_step(workspace: Path, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "hub/Some-VL-7B")
    with serve({"owner/Some-VL-7B": source}) as (endpoint, seen):
        completed = command(workspace, "fetch", "owner/Some-VL-7B", "--json", endpoint=endpoint)
        assert completed.returncode == 0, completed.stderr
        values = json.loads(completed.stdout)
        assert values["next"] == "mmalign configure --set model.base=data/models/Some-VL-7B"
        assert values["revision"] == COMMIT
        second = command(workspace, "fetch", "owner/Some-VL-7B", endpoint=endpoint)
        assert "already present, every file verified" in second.stdout
    assert not any(name in line for line in seen for name in ("pytorch_model.bin", "modeling.py", "optimizer.pt"))
    weights = [number for number, line in enumerate(seen) if line.startswith("GET") and "model.safetensors" in line]
    config = [number for number, line in enumerate(seen) if line.startswith("GET") and line.endswith("config.json")]
    assert config[0] < weights[0]
    target = workspace / "data/models/Some-VL-7B"
    assert (target / "model.safetensors").read_bytes() == WEIGHTS
    manifest = read_manifest(target)
    assert manifest is not None
    assert (manifest["source"], manifest["revision"], manifest["licence"]) == ("owner/Some-VL-7B", COMMIT, "apache-2.0")
    assert {path.name for path in target.iterdir()} == {*manifest["files"], "mmalign-model.json"}
    verified = command(workspace, "verify", "data/models/Some-VL-7B")
    assert "files verified" in verified.stdout
    assert "no profile has this checkpoint" in verified.stdout
    assert "transformers can't open the processor" in verified.stdout  # the hub of this test serves no real tokenizer
    assert verified.returncode == 2


def test_torn_transfer_is_refused_and_next_fetch_resumes(workspace: Path, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "hub/m")
    with serve({"o/m": source}, corrupt="model.safetensors") as (endpoint, _):
        completed = command(workspace, "fetch", "o/m", endpoint=endpoint)
    assert completed.returncode == 2
    assert "the sha of the downloaded model.safetensors is not the one that the hub states" in completed.stderr
    assert not (workspace / "data/models/m").exists()
    with serve({"o/m": source}) as (endpoint, seen):
        assert command(workspace, "fetch", "o/m", endpoint=endpoint).returncode == 0
    assert [line for line in seen if line.startswith("GET") and "/resolve/" in line and "safetensors" not in line] == []


@pytest.mark.parametrize(
    ("arguments", "offline", "sentence"),
    [
        (("fetch", "o/nothing"), False, "o/nothing is not on the hub, or is private"),
        (("fetch", "o/code"), False, "names code of its own (auto_map)"),
        (("fetch", "o/m"), True, "HF_HUB_OFFLINE is set, so o/m can't be fetched"),
        (("fetch", "./nowhere"), False, "./nowhere is neither a folder nor the id of a model on the hub"),
        (("verify", "data"), False, "fetch the model with `mmalign model fetch`"),
    ],
)
def test_fetch_mistake_is_one_sentence(workspace: Path, tmp_path: Path, arguments: tuple[str, ...], offline: bool, sentence: str) -> None:
    code = checkpoint(tmp_path / "hub/code")
    (code / "config.json").write_text('{"model_type": "qwen2_vl", "auto_map": {}}')
    with serve({"o/code": code}) as (endpoint, seen):
        completed = command(workspace, *arguments, endpoint=endpoint, offline=offline)
    assert completed.returncode == 2
    assert sentence in completed.stderr
    assert completed.stderr.strip().splitlines()[-1].startswith("mmalign: ")
    assert "Traceback" not in completed.stderr
    assert not any("safetensors" in line for line in seen)


def test_missing_network_is_one_sentence(workspace: Path) -> None:
    completed = command(workspace, "fetch", "o/m")
    assert completed.returncode == 2
    assert "the hub can't be reached for o/m" in completed.stderr
    assert completed.stderr.count("\n") == 1


def test_local_folder_is_fetched_without_network(workspace: Path, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "mine")
    completed = command(workspace, "fetch", os.path.relpath(source, workspace), "--to", "data/base")
    assert completed.returncode == 0, completed.stderr
    assert "next: mmalign configure --set model.base=data/base" in completed.stdout
    assert "written from the checkpoint's older files: chat_template.jinja, processor_config.json" in completed.stdout
