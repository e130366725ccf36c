from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from components.errors import UserError
from components.families.hub import files
from components.families.hub.fetch import fetch
from components.families.hub.manifest import MANIFEST, read_manifest, verify

HEADER = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
WEIGHTS = struct.pack("<Q", len(HEADER)) + HEADER + bytes(16)


def checkpoint(folder: Path) -> Path:
    """The least that counts as a checkpoint, with what must stay behind beside it."""
    folder.mkdir(parents=True)
    for name, value in {
        "config.json": {"model_type": "qwen2_vl"},
        "tokenizer.json": {},
        "tokenizer_config.json": {},
        "preprocessor_config.json": {"processor_class": "Qwen2VLProcessor"},
        "chat_template.json": {"chat_template": "{{ messages }}"},
    }.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    for name in ("pytorch_model.bin", "optimizer.pt", "modeling.py"):
        (folder / name).write_text("no")
    return folder


def bring(source: Path, target: Path) -> list[str]:
    messages: list[str] = []
    fetch(str(source), None, target, target.name, messages.append)
    return messages


def test_copied_folder_has_checksums_but_no_pickles_or_code(tmp_path: Path) -> None:
    source, target = checkpoint(tmp_path / "source"), tmp_path / "models/source"
    bring(source, target)
    names = {path.name for path in target.iterdir()}
    assert names == {
        "README.md",
        "chat_template.jinja",
        "chat_template.json",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        MANIFEST,
    }
    manifest = read_manifest(target)
    assert manifest is not None
    assert (manifest["source"], manifest["revision"], manifest["licence"]) == ("source", None, "apache-2.0")
    assert manifest["files"]["model.safetensors"]["bytes"] == len(WEIGHTS)
    assert verify(target, "x") == len(names) - 1
    assert not target.with_name("source.partial").exists()


def test_older_processor_files_get_current_names(tmp_path: Path) -> None:
    bring(checkpoint(tmp_path / "source"), tmp_path / "target")
    assert (tmp_path / "target/chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((tmp_path / "target/processor_config.json").read_text()) == {"processor_class": "Qwen2VLProcessor"}


def test_same_folder_gives_same_bytes(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source")
    bring(source, tmp_path / "one")
    bring(source, tmp_path / "two")
    assert (tmp_path / "one" / MANIFEST).read_bytes() == (tmp_path / "two" / MANIFEST).read_bytes()


def test_stopped_copy_resumes(tmp_path: Path) -> None:
    source, target = checkpoint(tmp_path / "source"), tmp_path / "target"
    partial = tmp_path / "target.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(WEIGHTS)
    (partial / "tokenizer.json").write_text("torn")
    (partial / "of-another-revision.safetensors").write_bytes(WEIGHTS)
    messages = bring(source, target)
    assert "copying model.safetensors" not in messages
    assert "copying tokenizer.json" in messages
    assert not (target / "of-another-revision.safetensors").exists()


def test_second_fetch_detects_edited_file(tmp_path: Path) -> None:
    source, target = checkpoint(tmp_path / "source"), tmp_path / "target"
    bring(source, target)
    assert fetch(str(source), None, target, "target", print).already
    with pytest.raises(UserError, match="holds source: name another folder"):
        bring(checkpoint(tmp_path / "other"), target)
    (target / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(UserError, match=r"model\.safetensors has changed since the fetch"):
        bring(source, target)


def change(folder: Path, name: str, content: bytes | str | None) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.json", '{"model_type": "qwen2_vl", "auto_map": {"AutoModel": "m.Model"}}', r"names code of its own \(auto_map\)"),
        ("tokenizer_config.json", '{"auto_map": {}}', r"tokenizer_config\.json names code of its own"),
        ("config.json", '{"model_type": "mllama"}', r"'mllama', which is not supported: .* families internvl, llava_onevision"),
        ("config.json", '{"model_type": ', r"config\.json is not valid JSON"),
        ("config.json", '{"a": ' * 5000 + "1" + "}" * 5000, r"config\.json is nested too deeply"),
        ("config.json", f'{{"model_type": "qwen2_vl", "x": {"9" * 400}}}', r"sets x to 9+\.\.\., which no model can have"),
        ("config.json", '{"model_type": "qwen2_vl", "x": NaN}', r"sets x to nan, which no model can have"),
        ("config.json", None, r"holds no config\.json"),
        ("model.safetensors", None, r"holds no model\.safetensors, and pickled weights .* convert them"),
        ("model.safetensors", WEIGHTS[:-3], r"has \d+ bytes where its header promises \d+"),
        ("model.safetensors", WEIGHTS[:20], r"is torn or no safetensors file"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\n", r"pointer of git-lfs"),
        ("model-2.safetensors.incomplete", "", r"half-downloaded, since it holds model-2\.safetensors\.incomplete"),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"a": "model-1.safetensors", "b": "model.safetensors"}}',
            r"half-downloaded: 1 of 2 weight files are missing, model-1\.safetensors first",
        ),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../../secret.safetensors"}}', r"lists no safetensors"),
        ("tokenizer.json", None, r"holds no tokenizer\.json"),
    ],
)
def test_unusable_checkpoint_is_refused_and_leaves_nothing(tmp_path: Path, name: str, content: bytes | str | None, sentence: str) -> None:
    source = checkpoint(tmp_path / "source")
    change(source, name, content)
    with pytest.raises(UserError, match=sentence) as error:
        bring(source, tmp_path / "target")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "target").exists()


def test_only_top_level_texts_and_safetensors_are_chosen() -> None:
    names = [
        "config.json",
        "a.bin",
        "b.pt",
        "code.py",
        "model.safetensors",
        "onnx/model.safetensors",
        "model.safetensors.index.json",
        "x.json",
    ]
    assert files.chosen(names) == ["config.json", "model.safetensors", "model.safetensors.index.json"]


def test_chosen_files_include_exported_processor_files() -> None:
    from components.families.digests import PROCESSOR_FILES

    assert set(PROCESSOR_FILES) <= files.WANTED
