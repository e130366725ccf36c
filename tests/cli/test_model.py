"""`mmalign model` against a server that answers as a hub does."""

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
def place(tmp_path: Path) -> Path:
    """A folder that counts as a checkout: the command needs no more of one."""
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout/dvc.yaml").write_text("stages: {}\n")
    return tmp_path / "checkout"


def test_a_model_is_fetched_whole_verified_and_says_what_comes_next(place: Path, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "hub/Some-VL-7B")
    with serve({"owner/Some-VL-7B": source}) as (endpoint, seen):
        done = command(place, "fetch", "owner/Some-VL-7B", "--json", endpoint=endpoint)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["next"] == "mmalign configure --set model.base=data/models/Some-VL-7B"
        assert told["revision"] == COMMIT
        again = command(place, "fetch", "owner/Some-VL-7B", endpoint=endpoint)
        assert "there already, every file verified" in again.stdout
    assert not any(name in line for line in seen for name in ("pytorch_model.bin", "modeling.py", "optimizer.pt"))
    weights = [number for number, line in enumerate(seen) if line.startswith("GET") and "model.safetensors" in line]
    config = [number for number, line in enumerate(seen) if line.startswith("GET") and line.endswith("config.json")]
    assert config[0] < weights[0]
    target = place / "data/models/Some-VL-7B"
    assert (target / "model.safetensors").read_bytes() == WEIGHTS
    manifest = read_manifest(target)
    assert manifest is not None
    assert (manifest["source"], manifest["revision"], manifest["licence"]) == ("owner/Some-VL-7B", COMMIT, "apache-2.0")
    assert {path.name for path in target.iterdir()} == {*manifest["files"], "mmalign-model.json"}
    assert command(place, "verify", "data/models/Some-VL-7B").returncode == 0


def test_a_torn_transfer_is_refused_and_the_next_fetch_goes_on_from_what_arrived(place: Path, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "hub/m")
    with serve({"o/m": source}, corrupt="model.safetensors") as (endpoint, _):
        done = command(place, "fetch", "o/m", endpoint=endpoint)
    assert done.returncode == 2
    assert "the sha of the downloaded model.safetensors is not the one that the hub states" in done.stderr
    assert not (place / "data/models/m").exists()
    with serve({"o/m": source}) as (endpoint, seen):
        assert command(place, "fetch", "o/m", endpoint=endpoint).returncode == 0
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
def test_what_goes_wrong_is_one_sentence_and_exit_code_2(
    place: Path, tmp_path: Path, arguments: tuple[str, ...], offline: bool, sentence: str
) -> None:
    code = checkpoint(tmp_path / "hub/code")
    (code / "config.json").write_text('{"model_type": "qwen2_vl", "auto_map": {}}')
    with serve({"o/code": code}) as (endpoint, seen):
        done = command(place, *arguments, endpoint=endpoint, offline=offline)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("mmalign: ")
    assert "Traceback" not in done.stderr
    assert not any("safetensors" in line for line in seen)


def test_no_network_is_one_sentence(place: Path) -> None:
    done = command(place, "fetch", "o/m")
    assert done.returncode == 2
    assert "the hub can't be reached for o/m" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_local_folder_needs_no_network_and_goes_where_it_is_told(place: Path, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "mine")
    done = command(place, "fetch", os.path.relpath(source, place), "--to", "data/base")
    assert done.returncode == 0, done.stderr
    assert "next: mmalign configure --set model.base=data/base" in done.stdout
    assert "written from the checkpoint's older files: chat_template.jinja, processor_config.json" in done.stdout
