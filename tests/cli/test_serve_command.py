"""`mmalign model serve-command`: a command line that a shell takes apart as it was meant."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from components.endpoints.serve_command import ANY_ADDRESS
from components.families.digests import model_digest
from tests.checkout import ROOT, mmalign, mmalign_here


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with a model in a folder whose name needs quotes."""
    for name in ("dvc.yaml", "params.yaml", "ops.yaml", "data.dvc"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    model = tmp_path / "it's my model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    return model


def change(folder: Path, section: str, **keys: object) -> None:
    path = folder.parent / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values[section] |= keys
    path.write_text(yaml.safe_dump(values))


def options(words: list[str]) -> dict[str, str]:
    return {word: words[index + 1] for index, word in enumerate(words[:-1]) if word.startswith("--")}


def test_command_serves_the_folder_under_its_own_name(folder: Path) -> None:
    result = mmalign(folder.parent, "model", "serve-command", "it's my model", "--as", "aligned")
    assert result.returncode == 0, result.stderr
    words = shlex.split(result.stdout)
    assert words[:3] == ["vllm", "serve", str(folder)]
    chosen = options(words)
    assert json.loads(chosen["--limit-mm-per-prompt"]) == {"image": 1, "video": 0}
    assert "--enable-prefix-caching" in words
    assert {name: chosen[f"--{name}"] for name in ("served-model-name", "host", "port", "dtype", "max-model-len", "max-num-seqs")} == {
        "served-model-name": f"mmalign-{model_digest(folder)[:12]}",
        "host": "127.0.0.1",
        "port": "8002",
        "dtype": "float32",
        "max-model-len": str(512 + 96 + 64),
        "max-num-seqs": "32",
    }


def test_shell_hands_on_key_and_quoted_words(folder: Path) -> None:
    server = {"url": "https://gpu.example:9000/v1", "model": "my judge", "key": "JUDGE_KEY", "input_price": 0, "output_price": 0}
    change(folder, "endpoint", reward=server)
    change(folder, "training", precision="bf16")
    result = mmalign(folder.parent, "model", "serve-command", str(folder), "--as", "reward")
    script = f'vllm() {{ printf "%s\\n" "$VLLM_API_KEY" "$@"; }}\n{result.stdout}'
    shown = subprocess.run(["sh", "-c", script], env={"JUDGE_KEY": "a b"}, capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown[:3] == ["a b", "serve", str(folder)]
    chosen = options(shown)
    assert (chosen["--served-model-name"], chosen["--host"], chosen["--port"], chosen["--dtype"]) == (
        "my judge",
        ANY_ADDRESS,
        "9000",
        "bfloat16",
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["it's my model"], "is none of this checkout's models"),
        (["it's my model", "--as", "judge"], "--as is 'judge', and the servers are reward, base, aligned"),
        (["nowhere", "--as", "base"], "holds no config.json"),
    ],
)
def test_wrong_folder_or_server_is_a_sentence(folder: Path, arguments: list[str], sentence: str) -> None:
    result = mmalign(folder.parent, "model", "serve-command", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_reward_model_without_critiques_is_refused(folder: Path) -> None:
    save_file({"weight": torch.zeros(1)}, folder / "score_head.safetensors", {"critique_source": "none"})
    result = mmalign_here(folder.parent, "model", "serve-command", "it's my model", "--as", "reward")
    assert (result.returncode, result.stdout) == (2, "")
    assert "was trained without critiques, so a server has none to write" in result.stderr
    save_file({"weight": torch.zeros(1)}, folder / "score_head.safetensors", {"critique_source": "mixed"})
    assert mmalign_here(folder.parent, "model", "serve-command", "it's my model", "--as", "reward").returncode == 0


def test_folder_of_adapters_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    result = mmalign(folder.parent, "model", "serve-command", "it's my model", "--as", "aligned")
    assert result.returncode == 2
    assert "set model.lora.merge to true" in result.stderr
