from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from components.config.profiles import PROFILES, header, names
from components.families.hub.manifest import write_manifest
from components.files import write_json
from components.operations.preconditions.base_model import base_model
from tests.checkout import ROOT, write_base
from tests.operations.preconditions.conftest import Situated

OTHERS = [name for name in names(ROOT / PROFILES) if name != "demo"]


@pytest.fixture(autouse=True)
def profiles(checkout: Path) -> None:
    shutil.copytree(ROOT / PROFILES, checkout / PROFILES)


def test_whole_checkpoint_holds(situated: Situated) -> None:
    situation = situated()
    finding = base_model(situation)
    assert (finding.state, finding.text) == ("ok", "data/base: llava_onevision, 0 MB of safetensors")
    assert "data" not in vars(situation), "data/ is compared with data.dvc only where something is wrong"


@pytest.mark.parametrize("name", OTHERS)
def test_missing_checkpoint_names_fetch_command(situated: Situated, name: str) -> None:
    checkpoint = header(ROOT / PROFILES / f"{name}.yaml")["checkpoint"]
    finding = base_model(situated({"model.base": f"data/models/{checkpoint.split('/')[1]}"}))
    assert finding.state == "problem"
    assert finding.cure == f"fetch it with `mmalign model fetch {checkpoint}`"


def test_unknown_checkpoint_gets_general_command(situated: Situated) -> None:
    finding = base_model(situated({"model.base": "elsewhere/own"}))
    assert finding.state == "problem"
    assert "mmalign model fetch ID --to elsewhere/own" in str(finding.cure)


def test_own_profile_names_its_folder(situated: Situated, checkout: Path) -> None:
    (checkout / "profiles/own.yaml").write_text("# Ours\n# checkpoint: team/Own-VL-7B\nmodel:\n  base: /disk/models/own\n")
    assert (
        base_model(situated({"model.base": "/disk/models/own"})).cure
        == "fetch it with `mmalign model fetch team/Own-VL-7B --to /disk/models/own`"
    )


def test_stopped_fetch_is_named(situated: Situated, checkout: Path) -> None:
    (checkout / "data/models/Qwen3-VL-8B-Instruct.partial").mkdir(parents=True)
    finding = base_model(situated({"model.base": "data/models/Qwen3-VL-8B-Instruct"}))
    assert "stopped before its end" in finding.text
    assert finding.cure == "resume it with `mmalign model fetch Qwen/Qwen3-VL-8B-Instruct`"


def test_base_of_the_data_version_comes_with_it(situated: Situated, checkout: Path) -> None:
    shutil.rmtree(checkout / "data")
    finding = base_model(situated())
    assert (finding.state, finding.text) == ("ok", "data/base comes with the data, which the run fetches first")


def test_removed_base_beside_edits_is_missing(situated: Situated, checkout: Path) -> None:
    shutil.rmtree(checkout / "data/base")
    (checkout / "data/preferences/data.jsonl").write_text("other\n")  # so the run commits and fetches nothing
    assert base_model(situated()).state == "problem"


def test_truncated_weights_are_a_problem(situated: Situated, checkout: Path) -> None:
    weights = checkout / "data/base/model.safetensors"
    content = weights.read_bytes()
    for broken, words in (
        (content[:-1], f"has {len(content) - 1} bytes where its header promises {len(content)}"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of git-lfs"),
        (b"", "is torn or no safetensors file"),
    ):
        weights.write_bytes(broken)
        finding = base_model(situated())
        assert finding.state == "problem"
        assert f"data/base/model.safetensors {words}" in finding.text
        assert "rm -r data/base && dvc checkout data/base" in str(finding.cure)


def test_missing_shards_and_processor_files_are_problems(situated: Situated, checkout: Path) -> None:
    base = checkout / "data/base"
    (base / "chat_template.jinja").unlink()
    assert base_model(situated()).text == "data/base lacks chat_template.jinja"
    write_json(base / "model.safetensors.index.json", {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}})
    assert "1 of 2 weight files are missing, model-2.safetensors first" in base_model(situated()).text


def test_file_shorter_than_its_fetch_is_fetched_anew(situated: Situated, checkout: Path) -> None:
    base = checkout / "data/models/Own-VL"
    write_base(base)
    digests = {path.name: "0" * 64 for path in base.iterdir()}
    write_manifest(base, digests, source="team/Own-VL", revision=None, license_name=None)
    assert base_model(situated({"model.base": "data/models/Own-VL"})).state == "ok"
    (base / "tokenizer.json").write_text("{}  ")
    finding = base_model(situated({"model.base": "data/models/Own-VL"}))
    assert finding.text == "data/models/Own-VL/tokenizer.json has 4 bytes, and its fetch wrote 2 (mmalign-model.json)"
    assert finding.cure == "rm -r data/models/Own-VL && mmalign model fetch team/Own-VL"
    assert json.loads((base / "mmalign-model.json").read_text())["source"] == "team/Own-VL"
