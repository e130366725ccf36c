"""A stranger's checkpoint: no code of it runs, no file outside it is read, and each fault ends in one sentence."""

from __future__ import annotations

import ast
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.errors import UserError
from components.families import lora
from components.families.loading import load_model
from components.families.opening import open_config, open_processor
from components.families.regular import require_regular
from components.families.rendering import TemplateLimitError, render

ROOT = Path(__file__).resolve().parents[2]
OPENERS = {"from_pretrained", "from_config"}


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "model"))


def opener_calls(tree: ast.AST) -> list[ast.Call]:
    """Calls of transformers' openers."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in OPENERS
        and ast.unparse(node.func.value).startswith(("Auto", "transformers.", "PreTrained"))
    ]


def is_closed(call: ast.Call) -> bool:
    """Whether a call passes trust_remote_code=False, or all of `CLOSED`, which has it."""
    return any(
        (keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) == "False")
        or (keyword.arg is None and ast.unparse(keyword.value) == "CLOSED")
        for keyword in call.keywords
    )


def test_every_opener_runs_no_code() -> None:
    calls = {}
    for room in ("components", "flows", "demo", "mlflow", "benchmarks"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for call in opener_calls(ast.parse(path.read_text("utf-8"))):
                calls[f"{path.relative_to(ROOT)}:{call.lineno}"] = is_closed(call)
    assert len(calls) >= 5
    assert [where for where, closed in calls.items() if not closed] == []


def test_opener_without_the_argument_is_noticed() -> None:
    first, second, third = opener_calls(
        ast.parse("AutoModel.from_pretrained(x)\nAutoModel.from_pretrained(x, trust_remote_code=True)\nAutoModel.from_config(x, **CLOSED)")
    )
    assert [is_closed(call) for call in (first, second, third)] == [False, False, True]


OPEN_ALL = """
import sys, pathlib
from components.errors import UserError
from components.families.opening import open_config, open_processor
for folder in sys.argv[1:]:
    for one in (open_config, open_processor):
        try:
            one(pathlib.Path(folder))
        except UserError as error:
            print(error)
"""


def test_yes_on_terminal_runs_no_code(folder: Path, tmp_path: Path) -> None:
    files = ("config.json", "tokenizer_config.json", "processor_config.json")
    names = {
        "AutoConfig": "evil.A",
        "AutoTokenizer": ["evil.A", "evil.A"],
        "AutoProcessor": "evil.A",
        "AutoModelForImageTextToText": "evil.A",
    }
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    for file in files:
        path = Path(shutil.copytree(folder, tmp_path / f"with {file}")) / file
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": names, "model_type": "evil"}))
    terminal, side = pty.openpty()
    os.write(terminal, b"y\n" * 4 * len(files))
    folders = [str(tmp_path / f"with {file}") for file in files]
    command = [sys.executable, "-c", OPEN_ALL, *folders]
    ended = subprocess.run(command, cwd=ROOT, stdin=side, capture_output=True, text=True, check=False)
    for number in (terminal, side):
        os.close(number)
    refusals = [line for line in ended.stdout.splitlines() if "names code of its own (auto_map)" in line]
    assert ended.returncode == 0, ended.stderr
    assert [sum(name in line for line in refusals) for name in folders] == [2, 2, 2], ended.stdout
    assert not (tmp_path / "ran").exists()


def test_links_of_hub_cache_open(folder: Path) -> None:
    snapshot = folder.parent / "models--somebody--model/snapshots/0123"
    blobs = snapshot.parent.parent / "blobs"
    for where in (snapshot, blobs):
        where.mkdir(parents=True)
    for path in list(folder.iterdir()):
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert open_config(snapshot).model_type == "llava_onevision"
    (snapshot / "README.md").symlink_to("../../../secret")
    (folder.parent / "secret").write_text("secret")
    with pytest.raises(UserError, match="leads out of its folder"):
        open_config(snapshot)


def test_links_to_objects_of_dvc_open(folder: Path, tmp_path: Path) -> None:
    cached = tmp_path / "cache/files/md5/0a" / ("b" * 30)
    cached.parent.mkdir(parents=True)
    (folder / "config.json").rename(cached)
    (folder / "config.json").symlink_to(cached)
    assert open_config(folder).model_type == "llava_onevision"


@pytest.mark.parametrize("name", ["pipe", "device", "circle", "nowhere", "up"])
def test_file_that_is_none_is_refused(folder: Path, name: str) -> None:
    path = folder / "x.json"
    if name == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "circle": "x.json", "nowhere": "y.json", "up": "../secret"}[name])
    (folder.parent / "secret").write_text("{}")
    with pytest.raises(UserError, match=r"model/x\.json is (a link|no regular file)"):
        require_regular(folder, "model")


def changed(folder: Path, change: Any) -> None:
    """Change the weights of a checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weight_that_is_no_number_is_refused(folder: Path, value: float) -> None:
    changed(folder, lambda tensors: tensors[max(tensors)].view(-1)[-1:].fill_(value))
    with pytest.raises(UserError, match="no finite numbers"):
        load_model(folder)


def test_missing_tensor_is_not_drawn_at_random(folder: Path) -> None:
    changed(folder, lambda tensors: tensors.pop(max(tensors)))
    with pytest.raises(UserError, match=r"have [\d,]+ numbers, and its config.json describes"):
        load_model(folder)


def test_tensor_of_another_name_is_missing(folder: Path) -> None:
    changed(folder, lambda tensors: tensors.update(nobody=tensors.pop(max(tensors))))
    with pytest.raises(UserError, match="lack 1 tensors of the model"):
        load_model(folder)


TEMPLATES = {
    "time": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
        "5 s",
    ),
    "memory": ("{{ 'a' * 30000000000 }}", "1.1 GB of memory"),
    "size": ("{{ 'a' * 3000000 }}", "1,048,576 characters"),
    "depth": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "1.1 GB of memory"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_past_a_limit_is_never_rendered(name: str) -> None:
    template, words = TEMPLATES[name]
    rendered: list[object] = []
    processor = SimpleNamespace(
        chat_template=template,
        tokenizer=SimpleNamespace(special_tokens_map={}, name_or_path="a checkpoint"),
        apply_chat_template=lambda *values, **_: rendered.append(values),
    )
    with pytest.raises(TemplateLimitError, match=f"the chat template of a checkpoint (takes|writes) more than {words}"):
        render(processor, [{"role": "user", "content": "What?"}])
    assert rendered == []


def test_template_within_limits_is_rendered_by_transformers(folder: Path) -> None:
    processor = open_processor(folder)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    expected = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert render(processor, messages, add_generation_prompt=True) == expected


BAD_ADAPTERS = {
    "base list": (lora.BASE, "[]", "not a JSON object"),
    "base number": (lora.BASE, '{"path": 7, "digest": "a"}', "does not name the base model"),
    "base away": (lora.BASE, '{"path": "../nobody", "digest": "a"}', "which is missing"),
    "base other": (lora.BASE, '{"path": "../model", "digest": "a"}', "trained on another model"),
}


@pytest.mark.parametrize("name", BAD_ADAPTERS)
def test_adapters_without_their_base_are_refused(folder: Path, name: str) -> None:
    adapters = folder.parent / "adapters"
    adapters.mkdir()
    (adapters / lora.CONFIG).write_text("{}")
    file, text, words = BAD_ADAPTERS[name]
    (adapters / file).write_text(text)
    with pytest.raises(UserError, match=words):
        load_model(adapters)


@pytest.mark.parametrize("config", ['{"r": 0, "lora_alpha": 1}', '{"r": 2, "lora_alpha": NaN}', '{"r": "2", "lora_alpha": 1}', "[]", "{}"])
def test_absurd_adapter_settings_are_refused(folder: Path, tmp_path: Path, config: str) -> None:
    (tmp_path / lora.CONFIG).write_text(config)
    save_file({f"{lora.PREFIX}a.lora_A.weight": torch.ones(2, 2)}, tmp_path / lora.WEIGHTS)
    with pytest.raises(UserError):
        lora.merge_folder(load_model(folder), tmp_path)


def test_adapters_of_another_shape_are_refused(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    name = next(name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    (tmp_path / lora.CONFIG).write_text('{"r": 2, "lora_alpha": 2}')
    save_file({f"{lora.PREFIX}{name}.lora_{letter}.weight": torch.ones(3, 5) for letter in "AB"}, tmp_path / lora.WEIGHTS)
    with pytest.raises(UserError, match=r"can't open adapter_model\.safetensors"):
        lora.merge_folder(model, tmp_path)


def test_processor_that_multiplies_texts_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_base, folder)
    values = json.loads((folder / "tokenizer.json").read_text())
    values["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 40}] * 2}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="writes 1,600 characters for one"):
        open_processor(folder)


def test_media_token_beyond_the_vocabulary_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_base, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"image_token_index": 2_000_000_000}))
    with pytest.raises(UserError, match="of which the vocabulary has"):
        open_config(folder)
